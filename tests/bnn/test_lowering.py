import copy
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnn
from bnn.hybrid import BinaryWeightConv2d
from bnn.layers import (
    BatchNorm,
    BinaryConv1d,
    BinaryConv2d,
    BinaryGRUCell,
    BinaryLinear,
    ConvNorm,
    Int8Conv2d,
    Int8Head,
    RealConv2d,
    Sign,
)
from bnn.lowering.table import LOWERINGS
from bnn.models import build_model
from bnn.quantizers import QUANTIZER_MODULES, QUANTIZERS, MagnitudeAware, RPReLU, RSign
from kernels import OpCode
from tests.bnn.integer_twins import assert_twins_agree, images_of, randomise

SHAPE = (9, 7, 3)


class Residual(nn.Module):
    """RSign, binary convolution, normalisation, shortcut, RPReLU."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.sign, self.conv = RSign(n), BinaryConv2d(n, n, kernel=3, padding=1)
        self.norm, self.activation = BatchNorm(n), RPReLU(n)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(self.sign(x))) + x)


class Downsample(nn.Module):
    """Average pool as the shortcut of a strided convolution; two branches concatenated."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.sign = Sign()
        self.pool = nn.AvgPool2d(2)
        self.convs = nn.ModuleList(
            BinaryConv2d(n, n, kernel=2, stride=2, border="zero") for _ in range(2)
        )
        self.norms = nn.ModuleList(BatchNorm(n) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        bits, short = self.sign(x), self.pool(x)
        parts = [
            norm(conv(bits)) + short for conv, norm in zip(self.convs, self.norms, strict=True)
        ]
        return torch.cat(parts, dim=1)


class Twice(nn.Module):
    """The bits of two branches, concatenated."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second, self.sign = BinaryConv2d(n, 5, kernel=1), BatchNorm(5), Sign()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.sign(self.second(self.first(x)))], 1)


class Knee(nn.Module):
    """ReLU as a function, whose ``inplace`` torch.fx records."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=self.inplace)


class PoolFunction(nn.Module):
    """Max-pool as a function: its stride is the window unless it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.max_pool2d(x, (2, 3), 1), 2)


class Row(nn.Module):
    """An image of one row as a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


def stem(n: int, *, pool: int = 1) -> list[nn.Module]:
    layers: list[nn.Module] = [Int8Conv2d(3, n, kernel=3, padding=1)]
    return [*layers, *([nn.MaxPool2d(pool)] if pool > 1 else []), BatchNorm(n)]


def global_head(n: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), Int8Head(n, 5), nn.Flatten()]


def dense_head(n: int) -> list[nn.Module]:
    return [Sign(), nn.Flatten(), BinaryLinear(n * 63, 11), BatchNorm(11), Sign(), Int8Head(11, 5)]


# Networks whose every activation is bits or accumulators: their bits are exactly the float ones.
EXACT = {
    "dense": [*stem(6), *dense_head(6)],
    "norm_then_pool": [*stem(6), nn.MaxPool2d(3, 1, 1), *dense_head(6)],
    "norm_then_pool_joined": [*stem(6), nn.MaxPool2d(2), Sign(), Int8Head(6, 5, kernel=(4, 3))],
    "pool_of_bits": [*stem(40), Sign(), nn.MaxPool2d(2, 1), Int8Head(40, 5, kernel=(8, 6))],
    "depthwise": [
        *stem(33),
        Sign(),
        BinaryConv2d(33, 66, kernel=3, padding=1, groups=33),
        BatchNorm(66),
        *dense_head(66),
    ],
    "grouped_strided_zero_border": [
        *stem(10),
        Sign(),
        BinaryConv2d(10, 6, kernel=3, stride=(2, 1), padding=1, groups=2, border="zero"),
        BatchNorm(6),
        Sign(),
        Int8Head(6, 5, kernel=(5, 7)),
    ],
    "relu_before_norm": [
        *stem(6),
        Sign(),
        BinaryConv2d(6, 37, kernel=3, padding=1),
        nn.ReLU(),
        BatchNorm(37),
        *dense_head(37),
    ],
    "scaled_weights": [
        *stem(6),
        Sign(),
        BinaryConv2d(6, 12, kernel=3, padding=1, weight_quantizer=MagnitudeAware()),
        BatchNorm(12),
        *dense_head(12),
    ],
    "int8_on_bits": [
        *stem(6),
        Sign(),
        Int8Conv2d(6, 12, kernel=3, padding=1, groups=2),
        BatchNorm(12),
        *dense_head(12),
    ],
    "prelu_and_shift": [
        *stem(6),
        RPReLU(6),
        RSign(6),
        nn.Flatten(),
        BinaryLinear(6 * 63, 11),
        BatchNorm(11),
        Sign(),
        Int8Head(11, 5),
    ],
    "concatenated_bits": [*stem(7), Sign(), Twice(7), *dense_head(12)],
    "pools_in_a_row": [*stem(6, pool=2), nn.MaxPool2d(2), Sign(), Int8Head(6, 5, kernel=(2, 1))],
    "pools_that_overlap": [
        Int8Conv2d(3, 6, kernel=3),
        nn.MaxPool2d((3, 2), 1),
        BatchNorm(6),
        Sign(),
        Int8Head(6, 5, kernel=(5, 4)),
    ],
    "pool_function": [*stem(6), PoolFunction(), Sign(), Int8Head(6, 5, kernel=(4, 2))],
    "pool_with_a_border": [
        Int8Conv2d(3, 6, kernel=1),
        nn.MaxPool2d((3, 2), (3, 2), (1, 1)),
        BatchNorm(6),
        Sign(),
        Int8Head(6, 5, kernel=(3, 4)),
    ],
}
# Networks with streams: their integers are rounded fixed-point numbers.
STREAMS = {
    "residual": [*stem(8), Residual(8), Residual(8), nn.ReLU(), *global_head(8)],
    "downsample": [*stem(8, pool=2), Downsample(8), nn.PReLU(16), *global_head(16)],
    "turning_prelu": [
        *stem(8),
        nn.PReLU(8),
        RSign(8),
        Int8Conv2d(8, 5, kernel=3),
        BatchNorm(5),
        *global_head(5),
    ],
    "functional_relu": [*stem(8), Knee(False), Residual(8), Knee(True), *global_head(8)],
    "padded_average": [*stem(8), nn.AvgPool2d(3, 1, 1), nn.ReLU(), *global_head(8)],
    "two_knees": [*stem(8), nn.PReLU(8), BatchNorm(8), nn.ReLU(), Residual(8), *global_head(8)],
    "int8_on_stream": [
        *stem(8),
        nn.ReLU(),
        Int8Conv2d(8, 12, kernel=3, stride=2, padding=1, groups=4),
        nn.MaxPool2d(2),
        BatchNorm(12),
        Residual(12),
        *global_head(12),
    ],
    "pixels_pooled": [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), *stem(8), nn.ReLU(), *global_head(8)],
    "binary_logits": [*stem(6), Sign(), nn.Flatten(), BinaryLinear(378, 5), BatchNorm(5)],
    "float_norm_of_bits": [*stem(6), Sign(), BatchNorm(6), nn.ReLU(), *global_head(6)],
    "int8_on_float_norm_of_bits": [
        *[*stem(6), Sign(), BatchNorm(6), Int8Conv2d(6, 7, kernel=3), BatchNorm(7)],
        *global_head(7),
    ],
    "sign_of_float_norm_of_bits": [*stem(6), Sign(), BatchNorm(6), *dense_head(6)],
    "pool_behind_a_turning_knee": [*stem(8), nn.PReLU(8), nn.MaxPool2d(2), *global_head(8)],
    "pool_of_a_falling_stream": [
        *[*stem(8), Residual(8), BatchNorm(8), nn.MaxPool2d(2)],
        *global_head(8),
    ],
}
SEQUENCES = [
    *[Int8Conv2d(6, 10, kernel=(1, 3), padding=(0, 1)), BatchNorm(10), Row(), Sign()],
    *[BinaryConv1d(10, 34, kernel=3, stride=2, padding=1), nn.MaxPool1d(2), BatchNorm(34), Sign()],
    *[nn.Flatten(), Int8Head(34 * 4, 5)],
]


def build(layers: list[nn.Module], seed: int) -> nn.Module:
    net = nn.Sequential(*copy.deepcopy(layers))
    randomise(net, seed)
    return net


@pytest.mark.parametrize("name", EXACT)
def test_bits_are_those_of_the_float_network(name: str) -> None:
    net = build(EXACT[name], seed=1)
    if name == "prelu_and_shift":
        net[2].slope.data.abs_()
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.n_bits > 0
    assert found.n_bit_mismatches == 0
    assert found.class_agreement == 1.0
    codes = {op.code for op in integer_net.model.ops}
    assert (OpCode.SCALE in codes) == (name in ("concatenated_bits", "pools_in_a_row"))


@pytest.mark.parametrize("name", STREAMS)
def test_streams_approximate_the_float_network(name: str) -> None:
    net = build(STREAMS[name], seed=2)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement == 1.0
    assert found.n_bit_mismatches <= 1e-3 * max(found.n_bits, 1)
    # Every layer's difference in floats stays far below the values of order 1.
    assert all(layer.rms * layer.unit < 0.05 for layer in found.layers)


def test_sequences() -> None:
    shape = (1, 17, 6)
    net = build(SEQUENCES, seed=3)
    integer_net = bnn.integerize(net, input_shape=shape)
    images = images_of(shape, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert (found.n_bit_mismatches, found.class_agreement) == (0, 1.0)


def test_convolution_pool_norm_and_sign_are_one_operation() -> None:
    net = build([*stem(6, pool=2), Sign(), Int8Head(6, 5, kernel=(4, 3))], seed=1)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    assert [op.code for op in integer_net.model.ops] == [OpCode.CONV_U8, OpCode.CONV_B1_I8]
    assert integer_net.names == ("0", "4")
    assert integer_net.model.ops[0].pool == (2, 2)


def test_a_falling_channel_is_negated_so_that_the_pool_joins_the_convolution() -> None:
    net = build(EXACT["norm_then_pool_joined"], seed=1)
    assert (net[1].weight < 0).any()
    codes = [op.code for op in bnn.integerize(net, input_shape=SHAPE).model.ops]
    assert codes == [OpCode.CONV_U8, OpCode.CONV_B1_I8]


def test_the_stream_is_as_fine_as_bounds_allow() -> None:
    net = build(STREAMS["residual"], seed=2)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    units = {output.unit for output in integer_net.outputs[:-1] if output and not output.is_bits}
    point = -int(np.log2(min(units)))
    assert 10 < point < 24
    with pytest.raises(ValueError, match="expected"):
        bnn.integerize(net, input_shape=SHAPE, point=point + 1)
    coarse = bnn.integerize(net, input_shape=SHAPE, point=6)
    images = images_of(SHAPE, 30)
    fine_rms, coarse_rms = (
        bnn.agreement(net, each, images).layers[0] for each in (integer_net, coarse)
    )
    assert fine_rms.rms < 0.5 > coarse_rms.rms  # rounding is half a unit at most
    assert coarse_rms.unit == 2.0**-6


def test_training_mode_and_parameters_are_left_as_they_were() -> None:
    net = build(STREAMS["residual"], seed=2)
    net[0].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bnn.integerize(net, input_shape=SHAPE)
    assert net.training
    assert not net[0].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_every_activation_sign_has_a_lowering() -> None:
    keys = {type(Sign()), RSign, *QUANTIZERS.values()}
    signs = {
        kind
        for kind in QUANTIZER_MODULES.values()
        if kind.levels == (-1.0, 1.0) and not kind.is_scaled
    }
    weights_only = {QUANTIZER_MODULES[name] for name in ("recu_sign", "dorefa")}
    assert keys | (signs - weights_only) <= set(LOWERINGS)
    assert operator.add in LOWERINGS


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = BinaryGRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x.flatten(1))


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([RealConv2d(3, 5, kernel=3)], "0: expected a layer or function with an integer form"),
        ([Cell()], "0.cell: expected a layer .* got BinaryGRUCell"),
        ([Product()], "mul: expected a layer or function with an integer form, got mul"),
        ([nn.Hardswish()], "0: expected .* got Hardswish"),
        (
            [BinaryConv2d(3, 5, kernel=3, weight_quantizer="ste_tern")],
            "0: expected a quantizer with the levels -1 and \\+1, got SteTern with 3 levels",
        ),
        ([BinaryConv2d(3, 5, kernel=3)], "0: expected ±1 from .*; put a Sign"),
        (
            [*stem(6), Sign(), BatchNorm(6), BinaryConv2d(6, 5, kernel=1)],
            "4: expected ±1 from 3; put a Sign",
        ),
        ([*stem(6), Sign(), Int8Head(6, 5, kernel=(2, 2))], "3: expected activations of"),
        ([*stem(6), Sign(), BinaryConv2d(7, 5, kernel=1)], "3: expected 7 channels, got 6"),
        ([*stem(6), nn.Flatten(), nn.BatchNorm1d(6 * 63)], "3: expected a normalisation before"),
        ([*stem(6)], "output: expected logits"),
        ([nn.AvgPool2d(2, ceil_mode=True)], "0: expected whole windows"),
        ([nn.AdaptiveAvgPool2d(2)], "0: expected output size 1"),
        (
            [*stem(6), Sign(), ConvNorm(BinaryWeightConv2d(6, 5, kernel=1), 5)],
            r"3\.conv: expected one of BinaryConv2d, .* got BinaryWeightConv2d",
        ),
    ],
)
def test_what_has_no_integer_form_is_refused_by_name(layers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bnn.integerize(nn.Sequential(*layers), input_shape=SHAPE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_layer(value: float) -> None:
    net = build(STREAMS["residual"], seed=2)
    net[2].norm.running_mean[3] = value
    with pytest.raises(ValueError, match=r"2\.norm: expected finite parameters and statistics"):
        bnn.integerize(net, input_shape=SHAPE)
    net = build(STREAMS["residual"], seed=2)
    net[2].activation.slope.data[1] = value
    with pytest.raises(ValueError, match=r"2\.activation: expected finite parameters"):
        bnn.integerize(net, input_shape=SHAPE)


def test_a_stream_beyond_int32_names_the_layer() -> None:
    net = build(STREAMS["residual"], seed=2)
    net[2].norm.bias.data[0] = 1e9
    with pytest.raises(ValueError, match=r"2\.norm: .*expected"):
        bnn.integerize(net, input_shape=SHAPE)


def test_a_dead_channel_does_not_take_the_digits_of_the_stream() -> None:
    """A ReLU that never fired in training has no variance: it saturates if it ever does."""
    net = build_model("quicknet", SHAPE, 5, (16, 16, 32), seed=1).eval()
    randomise(net, seed=3)
    alive = bnn.integerize(net)
    norm = net.blocks[1].norm
    with torch.no_grad():
        norm.running_mean[3], norm.running_var[3] = 0.0, 1e-45
        norm.weight[3], norm.bias[3], norm.eps = 4.0, 0.25, 1e-9
    integer_net = bnn.integerize(net)
    # Without saturation 2 * 144 * 4 / sqrt(1e-9) = 36 million would leave the head no digit at all.
    assert finest_of_head(integer_net) <= 2**5 * finest_of_head(alive)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    reach = 1024 * norm.weight.detach().abs()[:, None, None]
    middle = norm.bias.detach()[:, None, None]
    n_beyond = []

    def saturate(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
        n_beyond.append(int(((out - middle).abs() > reach).sum()))
        return out.clamp(middle - reach, middle + reach)

    handle = norm.register_forward_hook(saturate)
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    handle.remove()
    found = integer_net(images) * integer_net.output_scale
    assert sum(n_beyond) > 0
    # One bit that rounds otherwise in front of the channel decides whether it fires at a position.
    is_near = np.abs(found - expected).max(axis=1) < 1e-3 * np.abs(expected).max()
    assert is_near.mean() >= 0.8


def finest_of_head(integer_net: bnn.IntegerNet) -> float:
    """Unit of the stream that the head reads."""
    return min(output.unit for output in integer_net.outputs[-2:-1] if output)


def test_a_missing_input_shape_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"input_shape: expected \(H, W, C\), got \(\)"):
        bnn.integerize(nn.Sequential(*stem(4)))
