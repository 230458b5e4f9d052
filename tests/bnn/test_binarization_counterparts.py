import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.binarization import COUNTERPARTS, binarize
from bnn.binarization.counterparts import binary_counterpart, int8_counterpart, norm_counterpart
from bnn.layers import Int8Head


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make()


def signs(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], shape)).float()


def reals(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


LAYERS: list[tuple[Callable[[], nn.Module], Tensor]] = [
    (lambda: nn.Linear(33, 5), signs((3, 33))),
    (lambda: nn.Conv1d(6, 4, 3, stride=2, groups=2), signs((2, 6, 9))),
    (lambda: nn.Conv2d(3, 5, (3, 2), stride=(1, 2)), signs((2, 3, 7, 6))),
    (lambda: nn.Conv2d(6, 6, 3, groups=6), signs((2, 6, 5, 5))),
    (lambda: nn.Embedding(7, 33), torch.tensor([[0, 6], [3, 3]])),
]


@pytest.mark.parametrize(("make", "x"), LAYERS)
def test_a_binary_layer_is_torchs_with_the_signs_of_its_weights(
    make: Callable[[], nn.Module], x: Tensor
) -> None:
    layer = seeded(make)
    made = binary_counterpart(layer, "ste_sign")
    with torch.no_grad():
        assert float(made.latent_weight.abs().max()) == pytest.approx(0.03, rel=1e-6)
        ratio = made.latent_weight.flatten() / layer.weight.flatten()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))  # one scale per layer
        layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
        torch.testing.assert_close(made(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_of_a_transposed_convolution_change_their_layout(groups: int) -> None:
    layer = seeded(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=groups))
    made = binary_counterpart(layer, "ste_sign")
    made.border = "zero"  # torch's
    x = signs((2, 4, 4, 5))
    with torch.no_grad():
        weight = torch.where(layer.weight >= 0, 1.0, -1.0)
        expected = F.conv_transpose2d(x, weight, stride=2, padding=1, groups=groups)
        torch.testing.assert_close(made(x), expected, rtol=0, atol=0)


def test_an_lstm_cell_keeps_the_order_of_its_gates_and_its_biases() -> None:
    layer = seeded(lambda: nn.LSTMCell(5, 3))
    made = binary_counterpart(layer, "ste_sign")
    x, h, c = signs((4, 5)), signs((4, 3), 1), reals((4, 3), 2)
    with torch.no_grad():
        made.scale.copy_(torch.linspace(0.1, 1.2, 12))
        for weight in (layer.weight_ih, layer.weight_hh):
            weight.copy_(torch.where(weight >= 0, 1.0, -1.0) * made.scale[:, None])
        for found, expected in zip(made(x, (h, c)), layer(x, (h, c)), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_gru_cell_keeps_the_order_of_its_gates_and_its_biases() -> None:
    layer = seeded(lambda: nn.GRUCell(5, 3))
    made = binary_counterpart(layer, "ste_sign")
    x, h = signs((4, 5)), signs((4, 3), 1)
    with torch.no_grad():
        made.scale.copy_(torch.linspace(0.1, 0.9, 9))
        made.hidden_scale.copy_(torch.linspace(0.3, 0.5, 3))
        hidden_scale = torch.cat([made.scale[:6], made.hidden_scale])
        layer.weight_ih.copy_(torch.where(layer.weight_ih >= 0, 1.0, -1.0) * made.scale[:, None])
        layer.weight_hh.copy_(torch.where(layer.weight_hh >= 0, 1.0, -1.0) * hidden_scale[:, None])
        torch.testing.assert_close(made(x, h), layer(x, h))


def test_every_counterpart_is_compared() -> None:
    compared = {type(make()) for make, _ in LAYERS}
    assert compared | {nn.ConvTranspose2d, nn.LSTMCell, nn.GRUCell} == set(COUNTERPARTS)


def test_an_int8_dense_layer_is_the_real_one_but_for_rounding() -> None:
    layer = seeded(lambda: nn.Linear(20, 4))
    made = int8_counterpart(layer)
    x = reals((6, 20))
    # Half a step per weight, and half a step of the bias.
    bound = float(layer.weight.detach().abs().max()) / 127 / 2 * (x.abs().sum(dim=1).max() + 1)
    with torch.no_grad():
        difference = (made(x) - layer(x)).abs().max()
    assert 0 < difference <= bound * 1.001
    assert isinstance(made, Int8Head)


def test_statistics_behind_an_int8_convolution_are_moved() -> None:
    """The first stage is the real one up to rounding, without any training."""

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip

    module = seeded(network).eval()
    conv, norm = module[0], module[2]
    with torch.no_grad():
        conv.bias.copy_(reals((5,), 1))
        norm.running_mean.copy_(reals((5,), 2))
        norm.running_var.copy_(torch.linspace(0.5, 2.0, 5))
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0, 1.5]))
        norm.bias.copy_(reals((5,), 3))
    net, _ = binarize(module, input_shape=(8, 8, 3))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        real = module[:3](x)
        made = net.get_submodule("2")(F.max_pool2d(net.get_submodule("0")(x), 2))
        step = conv.weight.abs().amax(dim=(1, 2, 3)) / 127
        gain = norm.weight.abs() / norm.running_var.sqrt()
        # Every pixel is below 1, so a sum of 27 is off by less than 27 halves of a step; eps counts
        # 1 / k^2 times, which is the relative 1e-3 here.
        bound = (step / 2 * 27 * gain)[:, None, None] + 1e-3 * real.abs()
    assert bool(((made - real).abs() <= bound).all())
    assert float((made - real).abs().max()) < 0.05 * float(real.std())


def test_a_norm_is_taken_over() -> None:
    norm = nn.BatchNorm1d(3, eps=1e-3, momentum=0.3).eval()
    with torch.no_grad():
        for number, name in enumerate(("weight", "bias", "running_mean")):
            getattr(norm, name).copy_(reals((3,), number))
        norm.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    made = norm_counterpart(norm).eval()
    assert (made.eps, made.momentum) == (1e-3, 0.3)
    x = reals((4, 3), 5)
    torch.testing.assert_close(made(x), norm(x))
    assert norm_counterpart(nn.BatchNorm2d(3, momentum=None, affine=False)).momentum == 0.1


class Odd(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def with_nan() -> nn.Module:
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight[2, 3] = float("nan")
    return layer


def with_hook() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.register_forward_pre_hook(lambda module, args: None)
    return layer


@pytest.mark.parametrize(
    ("make", "shape", "why"),
    [
        (lambda: nn.Conv2d(6, 6, 3, dilation=2, padding=2), (6, 5, 5), "dilation: expected 1"),
        (lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), (6, 5, 5), "padding_mode"),
        (lambda: nn.Conv2d(6, 6, 1, padding=1), (6, 5, 5), "expected less than the kernel"),
        (lambda: nn.ConvTranspose2d(6, 6, 3, 2, output_padding=1), (6, 5, 5), "output_padding"),
        (lambda: nn.GroupNorm(2, 6), (6, 5, 5), "bnn.layers has no counterpart"),
        (lambda: nn.BatchNorm2d(6, track_running_stats=False), (6, 5, 5), "no running statistics"),
        (lambda: nn.Linear(5, 5), (6, 5), r"expected data \(N, features\), got 3 axes"),
        (lambda: Odd(6, 6), (6,), "a subclass of torch's layer"),
        (with_hook, (6,), "expected a layer without hooks"),
        (with_nan, (6,), "weight: expected finite values"),
    ],
)
def test_what_cannot_be_converted_stays_and_says_why(
    make: Callable[[], nn.Module], shape: tuple[int, ...], why: str
) -> None:
    odd = make()
    n = int(np.prod(odd(torch.zeros(2, *shape)).shape[1:]))
    binary = {1: nn.Identity(), 2: nn.Conv1d(6, 6, 1), 3: nn.Conv2d(6, 6, 1)}[len(shape)]
    module = nn.Sequential(
        nn.Identity(), binary, odd, nn.Flatten(), nn.Linear(n, 4), nn.Linear(4, 4)
    )
    net, report = binarize(module, keep_first_last=False, example=torch.zeros(2, *shape))
    (row,) = [row for row in report.rows if row.layer == "2"]
    assert row.is_unchanged
    assert re.search(why, row.why)
    assert row in report.unchanged
    assert type(net.get_submodule("2")) is type(odd)


def test_an_even_kernel_has_no_same_padding() -> None:
    with pytest.raises(
        ValueError, match=r"padding: expected odd kernels with 'same', got \(2, 3\)"
    ):
        binary_counterpart(nn.Conv2d(6, 6, (2, 3), padding="same"), "ste_sign")


def test_a_whole_lstm_points_to_the_cell() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)
            self.gain = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.lstm(x)[0][:, -1]) * self.gain)

    _, report = binarize(Reader(), keep_first_last=False, example=torch.zeros(2, 3, 4))
    whys = {row.layer: row.why for row in report.unchanged}
    assert whys["lstm"] == "bnn.layers has the cell only; write the loop with nn.LSTMCell"
    assert whys["gain"] == "a bare parameter, not a layer"
