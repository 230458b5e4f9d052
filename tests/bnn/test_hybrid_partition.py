import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.hybrid import PartitionedConv2d, channel_errors, partition
from bnn.layers import BatchNorm, BinaryConv2d, Int8Conv2d, Int8Head, Sign
from bnn.models import Classifier, build_model
from bnn.models.precision import Precision
from bnn.quantizers import sign
from kernels import Purpose, normal, uniform


class Small(Classifier):
    def build(self, precision: Precision) -> None:
        self.first, self.norm_0, self.sign_0 = Int8Conv2d(2, 8, kernel=1), BatchNorm(8), Sign()
        self.conv = BinaryConv2d(8, 11, kernel=3, padding=1)
        self.deep = BinaryConv2d(11, 11, kernel=3, groups=11, padding=1)
        self.norm_1, self.sign_1 = BatchNorm(11), Sign()
        self.head = Int8Head(11, 3, kernel=(4, 4))

    def logits(self, x: Tensor) -> Tensor:
        bits = self.sign_0(self.norm_0(self.first(x)))
        return self.head(self.sign_1(self.norm_1(self.conv(bits))))


@pytest.fixture
def net() -> Small:
    made = Small((4, 4, 2), 3, (8, 11))
    for number, parameter in enumerate(made.parameters()):
        if parameter.dim() > 1:
            draws = normal(4, Purpose.DIAGNOSTICS, parameter.numel(), index=number)[0]
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(draws).reshape(parameter.shape))
    return made.eval()


def test_channel_errors_of_known_weights() -> None:
    one = torch.zeros(12)
    one[3] = -2.0
    rows = torch.stack([torch.full((12,), -0.5), one, torch.zeros(12), torch.arange(12.0)])
    # 0 ... 11: sum 66, squares 506.
    expected = [0.0, 1 - 1 / 12, 0.0, 1 - 66**2 / (12 * 506)]
    assert channel_errors(rows.reshape(4, 3, 2, 2)).tolist() == pytest.approx(expected, abs=1e-15)
    gaussian = torch.from_numpy(normal(2, Purpose.DIAGNOSTICS, 90_000)[0]).reshape(1, -1)
    # The standard error is below 0.002: sd of |w| is 0.60, of w² 1.41, over 300.
    assert float(channel_errors(gaussian)) == pytest.approx(1 - 2 / math.pi, abs=0.008)


def test_errors_are_what_no_multiple_of_the_signs_holds() -> None:
    weights = torch.from_numpy(normal(2, Purpose.DIAGNOSTICS, 5 * 18)[0]).double().reshape(5, 18)
    alphas = torch.linspace(0, 2, 2001, dtype=torch.float64)
    for row, error in zip(weights, channel_errors(weights), strict=True):
        rest = (row - alphas[:, None] * sign(row)).square().sum(dim=1) / row.square().sum()
        # The least over a grid of alpha, 1e-3 wide: off by alpha² times 18 / energy at most.
        assert 0 <= float(rest.min() - error) < 1e-6


@pytest.mark.parametrize(("share", "n_real"), [(0.1, 1), (0.5, 5), (0.99, 10)])
def test_the_worst_channels_get_int8_weights_and_the_rest_is_as_before(
    net: Small, share: float, n_real: int
) -> None:
    parted = partition(net, "conv", share)
    layer = parted.conv
    assert isinstance(layer, PartitionedConv2d)
    assert isinstance(net.conv, BinaryConv2d)
    errors = channel_errors(net.conv.latent_weight).numpy()
    assert list(layer.channels) == sorted(np.argsort(-errors)[:n_real].tolist())
    draws = normal(3, Purpose.DIAGNOSTICS, 2 * 8 * 16)[0]
    bits = sign(torch.from_numpy(draws)).reshape(2, 8, 4, 4)
    with torch.no_grad():
        y, before = layer(bits), net.conv(bits)
        others = [c for c in range(11) if c not in layer.channels]
        assert torch.equal(y[:, others], before[:, others])
        weights = net.conv.latent_weight[list(layer.channels)]
        largest = weights.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
        integers = torch.round(weights / (largest / 127))
        expected = F.conv2d(bits, integers / 128, padding=1)
        # All are multiples of 1/128 below 2^16 of them: exact in float32.
        assert torch.equal(y[:, list(layer.channels)], expected)
    assert not layer.binary.training
    images = (uniform(1, Purpose.DIAGNOSTICS, 64)[0] * 256).astype(np.uint8).reshape(2, 4, 4, 2)
    parted.train()(torch.from_numpy(images)).sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in layer.parameters())


def test_share_zero_changes_nothing(net: Small) -> None:
    parted = partition(net, "conv", 0.05)
    assert type(parted.conv) is BinaryConv2d
    assert parted is not net
    assert list(parted.state_dict()) == list(net.state_dict())


def test_what_cannot_be_parted_is_refused(net: Small) -> None:
    with pytest.raises(ValueError, match=r"layer: expected one of \['conv'\].*got 'deep'"):
        partition(net, "deep", 0.5)
    with pytest.raises(ValueError, match=r"share: expected 0 <= share < 1, got 1"):
        partition(net, "conv", 1.0)
    with pytest.raises(ValueError, match=r"channels: expected 2 ascending numbers of 0 ... 4"):
        PartitionedConv2d(BinaryConv2d(2, 3, kernel=1), Int8Conv2d(2, 2, kernel=1), [4, 1])
    assert isinstance(net.conv, nn.Module)
    fused = build_model("binary_conv_net", (8, 8, 1), 3, (4, 8))
    with pytest.raises(ValueError, match=r"expected one of \['stages\.1'\].*got 'stages\.1\.conv'"):
        partition(fused, "stages.1.conv", 0.5)
