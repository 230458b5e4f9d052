import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.hybrid import (
    ERROR_MEASURES,
    BinaryWeightConv1d,
    BinaryWeightConv2d,
    BinaryWeightLinear,
    ShiftedHardtanh,
    binary_inputs,
    input_errors,
    input_moments,
    make_hybrid,
    recalibrate,
    sensitivities,
)
from bnn.hybrid.scores import measure_moments
from bnn.layers import (
    BatchNorm,
    BinaryConv1d,
    BinaryConv2d,
    BinaryLinear,
    ConvNorm,
    Int8Conv2d,
    Int8Head,
    Sign,
)
from bnn.models import Classifier
from bnn.models.initial import initialise
from bnn.models.precision import Precision
from bnn.quantizers import ReCUActivations, RSign, SteTern, sign
from kernels import Purpose, normal, uniform


class Branched(Classifier):
    """Every kind of place: plain and shifted signs, one sign read twice, a dense layer, a head."""

    def build(self, precision: Precision) -> None:
        self.first = Int8Conv2d(3, 6, kernel=3, padding=1)
        self.norm_0, self.sign_0 = BatchNorm(6), Sign()
        self.left = BinaryConv2d(6, 6, kernel=3, padding=1, groups=2)
        self.right = BinaryConv2d(6, 4, kernel=1)
        self.norm_1, self.sign_1 = BatchNorm(10), RSign(10)
        self.pool = nn.MaxPool2d(2)
        self.dense = BinaryLinear(60, 33)
        self.norm_2, self.sign_2 = BatchNorm(33), Sign("approx_sign")
        self.head = Int8Head(33, 4)

    def logits(self, x: Tensor) -> Tensor:
        bits = self.sign_0(self.norm_0(self.first(x)))
        y = torch.cat([self.left(bits), self.right(bits)], dim=1)
        bits = self.pool(self.sign_1(self.norm_1(y)))
        return self.head(self.sign_2(self.norm_2(self.dense(bits.flatten(1)))))


SIGNS = ["sign_0", "sign_1", "sign_2"]


def images_of(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    draws = uniform(seed, Purpose.DIAGNOSTICS, math.prod(shape), index=7)[0]
    return (draws * 256).astype(np.uint8).reshape(shape)


@pytest.fixture
def net() -> Branched:
    made = Branched((7, 5, 3), 4, (6, 10), seed=3)
    with torch.no_grad():
        shifts = normal(3, Purpose.DIAGNOSTICS, 10)[0] * 0.3
        made.sign_1.shift.copy_(torch.from_numpy(shifts))
    recalibrate(made, images_of((64, 7, 5, 3)))
    return made.eval()


def logits_of(net: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        return net(torch.from_numpy(images))


def test_places_where_a_network_binarises(net: Branched) -> None:
    places = binary_inputs(net)
    assert list(places) == SIGNS
    assert [place.layers for place in places.values()] == [("left", "right"), ("dense",), ("head",)]
    # left: 6 * 3 * 9 weights at 35 positions; right 4 * 6 at 35; dense 33 * 60; head 4 * 33.
    assert [place.macs for place in places.values()] == [162 * 35 + 24 * 35, 1980, 132]
    assert places["sign_1"].added_ops == 1980 * 63 / 64


def test_three_measures_of_gaussian_and_of_binary_values() -> None:
    x = torch.from_numpy(normal(1, Purpose.DIAGNOSTICS, 400_000)[0])
    moments = measure_moments(x)
    # Standard errors: sd(x - sign x)² is 0.56, sd min(x², 1) is 0.41; over 632 the square root of
    # n that is 9e-4 and 7e-4; four of them are allowed.
    assert ERROR_MEASURES["sign_error"](moments) == pytest.approx(0.40423, abs=3.6e-3)
    assert ERROR_MEASURES["relative_error"](moments) == pytest.approx(0.40423, abs=3.6e-3)
    assert ERROR_MEASURES["clip_deficit"](moments) == pytest.approx(0.4839, abs=2.8e-3)
    signs = measure_moments(sign(x))
    assert [measure(signs) for measure in ERROR_MEASURES.values()] == [0.0, 0.0, 0.0]
    doubled = measure_moments(2 * sign(x))
    assert ERROR_MEASURES["sign_error"](doubled) == 1.0
    assert ERROR_MEASURES["relative_error"](doubled) == 0.25
    assert ERROR_MEASURES["clip_deficit"](doubled) == 0.0
    zero = measure_moments(torch.zeros(3))
    assert [ERROR_MEASURES[name](zero) for name in ("sign_error", "relative_error")] == [
        1,
        math.inf,
    ]


def test_hooks_see_what_enters_the_sign_on_any_batch_size(net: Branched) -> None:
    images = images_of((23, 7, 5, 3), seed=1)
    with torch.no_grad():
        x = net.pixels(torch.from_numpy(images))
        first = net.norm_0(net.first(x))
        bits = net.sign_0(first)
        second = net.norm_1(torch.cat([net.left(bits), net.right(bits)], dim=1))
        shifted = (second + net.sign_1.shift.reshape(1, -1, 1, 1)).double()
    moments = input_moments(net, images, batch_size=7)
    assert list(moments) == SIGNS
    assert [found.n_values for found in moments.values()] == [23 * 6 * 35, 23 * 10 * 35, 23 * 33]
    for name, values in (("sign_0", first.double()), ("sign_1", shifted)):
        # Rounding of sums in float64, and of activations between batch sizes in float32.
        errors = float((values - torch.where(values >= 0, 1.0, -1.0)).square().mean())
        assert moments[name].sign_error == pytest.approx(errors, rel=1e-6)
        assert moments[name].square == pytest.approx(float(values.square().mean()), rel=1e-6)
        clipped = float(values.clamp(-1, 1).square().mean())
        assert moments[name].clipped_square == pytest.approx(clipped, rel=1e-6)
    errors_by_name = input_errors(net, images, "relative_error")
    expected = moments["sign_2"].sign_error / moments["sign_2"].square
    assert errors_by_name["sign_2"] == pytest.approx(expected, rel=1e-6)
    assert not net.training
    assert not net.sign_0._forward_pre_hooks


def test_hybrid_without_real_layers_is_the_network_bit_for_bit(net: Branched) -> None:
    images = images_of((9, 7, 5, 3), seed=2)
    hybrid = make_hybrid(net, [])
    assert type(hybrid) is Branched
    assert hybrid is not net
    assert torch.equal(logits_of(hybrid, images), logits_of(net, images))
    assert list(hybrid.state_dict()) == list(net.state_dict())
    for name, value in net.state_dict().items():
        assert torch.equal(hybrid.state_dict()[name], value)
        assert hybrid.state_dict()[name].data_ptr() != value.data_ptr()


def wbin_logits(net: Branched, images: NDArray[np.uint8], least: float, most: float) -> Tensor:
    """The network with binary weights and real activations, written out."""

    def clip(x: Tensor) -> Tensor:
        return x.clamp(least, most)

    with torch.no_grad():
        bits = clip(net.norm_0(net.first(net.pixels(torch.from_numpy(images)))))
        left = F.conv2d(bits, sign(net.left.latent_weight), padding=1, groups=2)
        right = F.conv2d(bits, sign(net.right.latent_weight))
        second = net.norm_1(torch.cat([left, right], dim=1))
        second = clip(second + net.sign_1.shift.reshape(1, -1, 1, 1))
        pooled = F.max_pool2d(second, 2).flatten(1)
        third = net.norm_2(F.linear(pooled, sign(net.dense.latent_weight)))
        return net.head(clip(third))


@pytest.mark.parametrize(
    ("activation", "least", "most"), [("hardtanh", -1.0, 1.0), ("relu", 0.0, math.inf)]
)
def test_hybrid_with_all_real_inputs_is_wbin(
    net: Branched, activation: str, least: float, most: float
) -> None:
    images = images_of((9, 7, 5, 3), seed=2)
    hybrid = make_hybrid(net, binary_inputs(net), activation=activation)
    # Sums of real numbers: torch may add them in another order in another memory format; K is at
    # most 60 products of magnitude 8 at most, of which each rounding is 2^-24 of at most 480.
    expected = wbin_logits(net, images, least, most)
    torch.testing.assert_close(logits_of(hybrid, images), expected, rtol=0, atol=60 * 480 * 2**-24)
    assert not torch.equal(logits_of(net, images), expected)
    with pytest.raises(ValueError, match="expected a network that takes signs"):
        binary_inputs(hybrid)
    assert list(hybrid.state_dict()) == list(net.state_dict())


def test_chosen_layers_take_real_inputs_and_no_others(net: Branched) -> None:
    hybrid = make_hybrid(net, ["right", "sign_1"])
    assert type(hybrid.sign_0) is nn.Hardtanh
    assert type(hybrid.sign_1) is ShiftedHardtanh
    assert torch.equal(hybrid.sign_1.shift, net.sign_1.shift)
    assert type(hybrid.left) is type(hybrid.right) is BinaryWeightConv2d
    assert type(hybrid.dense) is BinaryWeightLinear
    assert type(hybrid.sign_2) is Sign
    assert list(binary_inputs(hybrid)) == ["sign_2"]
    assert [type(net.sign_0), type(net.left), type(net.dense)] == [Sign, BinaryConv2d, BinaryLinear]
    assert not any(module.training for module in hybrid.modules())
    assert len(list(hybrid.parameters())) == len(list(net.parameters()))


def test_a_hybrid_trains_through_the_clip_and_the_straight_through_weights(net: Branched) -> None:
    hybrid = make_hybrid(net, binary_inputs(net)).train()
    images = torch.from_numpy(images_of((8, 7, 5, 3), seed=4))
    hybrid(images).square().sum().backward()
    for name, parameter in hybrid.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
    with torch.no_grad():
        hybrid.dense.latent_weight.mul_(100)
    hybrid.dense.clip_latent()
    assert float(hybrid.dense.latent_weight.detach().abs().max()) == 1.0


@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(3, 1, 1, 1), (2, 2, 0, 3)])
def test_real_inputs_of_plus_and_minus_one_give_the_binary_integers(
    kernel: int, stride: int, padding: int, groups: int
) -> None:
    binary = BinaryConv2d(
        6, 9, kernel=kernel, stride=stride, padding=padding, groups=groups, border="zero"
    )
    draws = uniform(5, Purpose.DIAGNOSTICS, binary.latent_weight.numel())[0] - 0.5
    with torch.no_grad():
        binary.latent_weight.copy_(torch.from_numpy(draws).reshape(binary.latent_weight.shape))
    bits = sign(torch.from_numpy(normal(5, Purpose.DIAGNOSTICS, 2 * 6 * 8 * 7)[0])).reshape(
        2, 6, 8, 7
    )
    real = BinaryWeightConv2d.in_place_of(binary)
    assert torch.equal(real(bits), binary(bits))
    grads = [
        torch.autograd.grad(m(bits).square().sum(), m.latent_weight)[0] for m in (real, binary)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-3)
    line = BinaryConv1d(6, 9, kernel=kernel, stride=stride, groups=groups, border="zero")
    with torch.no_grad():
        line.latent_weight.copy_(binary.latent_weight[:, :, :1])
    along = BinaryWeightConv1d.in_place_of(line)
    assert torch.equal(along(bits[:, :, 0]), line(bits[:, :, 0]))
    assert along.latent_weight.shape == (9, 6 // groups, 1, kernel)
    assert along.window == line.window
    with pytest.raises(ValueError, match="positive multiples of groups, got 6 and 9 with groups"):
        BinaryWeightConv2d(6, 9, kernel=1, groups=4)


def test_scaled_and_ternary_weights_keep_their_values() -> None:
    x = torch.from_numpy(normal(5, Purpose.DIAGNOSTICS, 2 * 3 * 16)[0]).reshape(2, 3, 4, 4)
    draws = torch.from_numpy(normal(6, Purpose.DIAGNOSTICS, 5 * 3)[0]).reshape(5, 3, 1, 1)
    for quantizer in ("magnitude_aware", "ste_tern"):
        layer = BinaryWeightConv2d(3, 5, kernel=1, weight_quantizer=quantizer)
        with torch.no_grad():
            layer.latent_weight.copy_(draws)
            weights = layer.weight_quantizer(layer.latent_weight)
            torch.testing.assert_close(layer(x), F.conv2d(x, weights), rtol=1e-5, atol=1e-6)
    assert isinstance(layer.weight_quantizer, SteTern)


class Cells(Classifier):
    """One sign, one layer and a head, to be put in the place of those that are built."""

    def build(self, precision: Precision) -> None:
        self.sign, self.layer = Sign(), BinaryConv2d(1, 8, kernel=3)
        self.head = Int8Head(8, 2, kernel=(2, 2))

    @classmethod
    def of(cls, sign: nn.Module, layer: nn.Module) -> "Cells":
        made = cls((4, 4, 1), 2, (8,))
        made.sign, made.layer = sign, layer
        return made.eval()

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.sign(x)))


def test_a_fused_layer_becomes_its_parts_under_the_same_names() -> None:
    net = Cells.of(Sign(), ConvNorm(BinaryConv2d(1, 8, kernel=3, padding=1), 8, pool=2))
    initialise(net, 1)
    assert binary_inputs(net)["sign"].macs == 8 * 9 * 16
    hybrid = make_hybrid(net, ["layer"])
    assert [type(part) for part in hybrid.layer] == [BinaryWeightConv2d, nn.MaxPool2d, BatchNorm]
    assert list(hybrid.state_dict()) == list(net.state_dict())
    image = images_of((1, 4, 4, 1))
    x = torch.from_numpy(image).permute(0, 3, 1, 2) / 256
    pooled = F.max_pool2d(F.conv2d(x, sign(net.layer.conv.latent_weight), padding=1), 2)
    with torch.no_grad():
        # Sums of 9 numbers below 1 and a scale near 1; only their order may differ.
        torch.testing.assert_close(
            logits_of(hybrid, image), net.head(net.layer.norm(pooled)), rtol=1e-5, atol=1e-5
        )
    assert not hybrid.layer.training


def test_what_has_no_real_counterpart_is_refused_by_name(net: Branched) -> None:
    with pytest.raises(ValueError, match=r"layers: expected some of \['sign_0', 'left'.*'norm_0'"):
        make_hybrid(net, ["norm_0"])
    recu = Cells.of(ReCUActivations(), BinaryConv2d(1, 8, kernel=3))
    with pytest.raises(ValueError, match=r"sign: expected a sign with a real.*ReCUActivations"):
        make_hybrid(recu, ["layer"])

    class Odd(BinaryConv2d):
        pass

    Odd.__module__ = "bnn.layers.odd"
    with pytest.raises(ValueError, match=r"layer: expected a layer that can take real.*got Odd"):
        make_hybrid(Cells.of(Sign(), Odd(1, 8, kernel=3)), ["layer"])
    with pytest.raises(ValueError, match=r"activation: expected one of \['hardtanh', 'relu'\]"):
        make_hybrid(net, [], activation="tanh")
    with pytest.raises(ValueError, match=r"measure: expected one of \['clip_deficit'"):
        input_errors(net, images_of((2, 7, 5, 3)), "rmse")
    with pytest.raises(ValueError, match="images: expected one or more"):
        input_moments(net, images_of((0, 7, 5, 3)))


def test_recalibration_gives_the_statistics_of_the_images(net: Branched) -> None:
    images = images_of((50, 7, 5, 3), seed=6)
    before = {name: value.clone() for name, value in net.named_parameters()}
    recalibrate(net, images, batch_size=50)
    with torch.no_grad():
        y = net.first(net.pixels(torch.from_numpy(images)))
        mean, var = y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3))
        # Sums of 1750 numbers of order 1 in float32.
        torch.testing.assert_close(net.norm_0.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.norm_0.running_var, var, rtol=1e-4, atol=1e-5)
        bits = net.sign_0(net.norm_0(y))
        y = torch.cat([net.left(bits), net.right(bits)], dim=1)
        torch.testing.assert_close(
            net.norm_1.running_mean, y.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-2
        )
    assert all(torch.equal(before[name], value) for name, value in net.named_parameters())
    recalibrate(net, images, batch_size=20)
    parts = [net.first(net.pixels(torch.from_numpy(images[i : i + 20]))) for i in (0, 20, 40)]
    means = [part.mean(dim=(0, 2, 3)) * len(part) for part in parts]
    torch.testing.assert_close(net.norm_0.running_mean, sum(means) / 50, rtol=1e-4, atol=1e-5)
    assert not net.training
    with pytest.raises(ValueError, match="expected 2 or more, got 1 and 256"):
        recalibrate(net, images[:1])


def test_sensitivity_is_accuracy_gained_by_one_real_input(net: Branched) -> None:
    images = images_of((60, 7, 5, 3), seed=8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    base = make_hybrid(net, [])
    recalibrate(base, images)
    hybrid = make_hybrid(net, ["sign_1"])
    recalibrate(hybrid, images)
    # Labels that the hybrid gets right and that the network, by its own predictions, does not all.
    labels = logits_of(hybrid, images).argmax(1)
    correct = float((logits_of(base, images).argmax(1) == labels).float().mean())
    assert correct < 0.9
    gains = sensitivities(net, images, labels.numpy(), calibration=images)
    assert list(gains) == SIGNS
    assert gains["sign_1"] == pytest.approx(1 - correct, abs=1e-6)
    assert gains["sign_1"] > max(gains["sign_0"], gains["sign_2"])
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
