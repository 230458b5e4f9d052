"""Transposed convolutions, embeddings, clips, and the layers of hybrid networks, in integers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnn
from bnn.hybrid import (
    BinaryWeightConv1d,
    BinaryWeightConv2d,
    BinaryWeightLinear,
    PartitionedConv2d,
    ShiftedHardtanh,
    ShiftedReLU,
)
from bnn.layers import (
    BatchNorm,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryLinear,
    Int8Conv2d,
    Int8Head,
    Sign,
)
from bnn.layers.token_embedding import TokenEmbedding
from kernels import OpCode, run_model, write_model
from kernels.build import build_library
from kernels.emulate import emulate
from tests.bnn.integer_twins import assert_twins_agree, images_of, randomise

SHAPE = (6, 5, 3)


class Mean(nn.Module):
    """Mean of all positions, of images or sequences."""

    def __init__(self, *, keepdim: bool = False, rank: int = 4) -> None:
        super().__init__()
        self.keepdim, self.dim = keepdim, tuple(range(2, rank))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim, keepdim=self.keepdim)


class Row(nn.Module):
    """An image of one row as a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


def net_of(*layers: nn.Module, seed: int = 1) -> nn.Sequential:
    net = nn.Sequential(Int8Conv2d(3, 8, kernel=3, padding=1), BatchNorm(8), *layers)
    randomise(net, seed)
    for module in net.modules():
        if isinstance(module, ShiftedHardtanh):
            rng = np.random.default_rng(seed)
            module.shift.data = torch.from_numpy(rng.normal(size=8)).float()
    return net.eval()


TRANSPOSED = {
    "stride_1": {"kernel": 3, "padding": 1},
    "stride_1_cropped": {"kernel": 2, "padding": 1},
    "stride_1_no_padding_zero": {"kernel": (3, 2), "border": "zero"},
    "stride_1_cropped_beyond_the_reach": {"kernel": 1, "padding": 1},
    "stride_2": {"kernel": 2, "stride": 2},
    "stride_2_reach_2": {"kernel": 4, "stride": 2, "padding": 1},
    "stride_2_zero": {"kernel": 3, "stride": 2, "padding": 1, "border": "zero"},
    "stride_3_by_1_groups": {"kernel": (3, 2), "stride": (3, 1), "groups": 2},
    "stride_beyond_the_kernel": {"kernel": 1, "stride": (1, 2), "border": "zero"},
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions_are_exact(name: str) -> None:
    layer = BinaryConvTranspose2d(8, 6, **TRANSPOSED[name])
    height, width = layer.window.transposed_size(*SHAPE[:2])
    net = net_of(Sign(), layer, BatchNorm(6), Sign(), Int8Head(6, 5, kernel=(height, width)))
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 20)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.n_bits == 20 * (6 * 5 * 8 + height * width * 6)
    assert (found.n_bit_mismatches, found.class_agreement) == (0, 1.0)
    if layer.window.stride == (1, 1) and "beyond" not in name:
        codes = [op.code for op in integer_net.model.ops]
        assert codes == [OpCode.CONV_U8, OpCode.CONV_B1, OpCode.CONV_B1_I8]


def test_transposed_convolutions_without_integer_form_say_why() -> None:
    ragged = net_of(Sign(), BinaryConvTranspose2d(8, 6, kernel=3, stride=2))
    with pytest.raises(ValueError, match="3: expected a kernel that stride"):
        bnn.integerize(ragged, input_shape=SHAPE)
    large = net_of(Sign(), BinaryConvTranspose2d(8, 6, kernel=2, stride=2))
    with pytest.raises(ValueError, match="3: expected at most 256 rows and columns"):
        bnn.integerize(large, input_shape=(200, 100, 3))


@pytest.mark.parametrize("n_entries", [1, 2, 9, 256])
def test_embeddings_are_exact(n_entries: int) -> None:
    net = nn.Sequential(
        TokenEmbedding(BinaryEmbedding(n_entries, 34)), nn.Flatten(), Int8Head(34 * 7, 5)
    )
    randomise(net, 2)
    integer_net = bnn.integerize(net, input_shape=(1, 7, 1))
    images = (images_of((1, 7, 1), 40).astype(int) % n_entries).astype(np.uint8)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.n_bits == 40 * 7 * 34
    assert (found.n_bit_mismatches, found.class_agreement) == (0, 1.0)
    assert len(integer_net.model.ops) == 3


def test_tokens_are_bytes() -> None:
    with pytest.raises(ValueError, match="expected at most 256 entries"):
        TokenEmbedding(BinaryEmbedding(257, 3))
    layer = TokenEmbedding(BinaryEmbedding(4, 3))
    with pytest.raises(ValueError, match=r"expected shape \(N, 1, 1, T\)"):
        layer(torch.zeros(2, 3, 1, 4))
    with pytest.raises(ValueError, match=r"^2: expected pixels"):
        bnn.integerize(net_of(layer), input_shape=SHAPE)


HYBRID = {
    "hardtanh": [nn.Hardtanh(), BinaryWeightConv2d(8, 6, kernel=3, padding=1), BatchNorm(6)],
    "hardtanh_of_a_range": [nn.Hardtanh(-0.5, 2.0), BinaryWeightConv2d(8, 6, kernel=1)],
    "shifted_hardtanh": [
        ShiftedHardtanh(8),
        BinaryWeightConv2d(8, 6, kernel=3, stride=2, padding=1, groups=2),
        BatchNorm(6),
    ],
    "shifted_relu": [
        ShiftedReLU(8),
        BinaryWeightConv2d(8, 6, kernel=3, weight_quantizer="magnitude_aware"),
        nn.BatchNorm2d(6),
    ],
    "leaky": [nn.LeakyReLU(0.1), nn.Dropout(), BinaryWeightConv2d(8, 6, kernel=3)],
    "bits": [Sign(), BinaryWeightConv2d(8, 6, kernel=3, padding=1), BatchNorm(6)],
}


@pytest.mark.parametrize("name", HYBRID)
def test_layers_of_real_activations(name: str) -> None:
    net = net_of(*HYBRID[name], Mean(), Int8Head(6, 5))
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement == 1.0
    assert all(layer.rms * layer.unit < 1e-3 for layer in found.layers)


def test_dense_layer_of_real_activations() -> None:
    layers = [nn.Hardtanh(), nn.Flatten(), BinaryWeightLinear(240, 9), nn.BatchNorm1d(9)]
    net = net_of(*layers, Sign(), BinaryLinear(9, 5))
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement == 1.0
    assert found.n_bit_mismatches == 0


SEQUENCES = {
    "stream": [nn.Hardtanh(), BinaryWeightConv1d(8, 6, kernel=3, padding=1), BatchNorm(6)],
    "groups": [ShiftedReLU(8), BinaryWeightConv1d(8, 6, kernel=3, stride=2, groups=2)],
    "scaled": [nn.ReLU(), BinaryWeightConv1d(8, 6, kernel=2, weight_quantizer="magnitude_aware")],
    "bits": [Sign(), BinaryWeightConv1d(8, 6, kernel=3, padding=2), nn.MaxPool1d(2), BatchNorm(6)],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_convolutions_of_sequences_with_real_activations(name: str) -> None:
    net = net_of(Row(), *SEQUENCES[name], Mean(rank=3), Int8Head(6, 5))
    shape = (1, 11, 3)
    integer_net = bnn.integerize(net, input_shape=shape)
    images = images_of(shape, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement == 1.0
    assert found.n_bit_mismatches == 0
    assert all(layer.rms * layer.unit < 1e-3 for layer in found.layers)
    expected = OpCode.CONV_B1_I8 if name == "bits" else OpCode.CONV_I32
    assert integer_net.model.ops[[*integer_net.names].index("4")].code is expected


def test_relu6_is_a_clip_to_0_and_6() -> None:
    net = net_of(nn.ReLU6(), Int8Head(8, 5, kernel=(6, 5)))
    with torch.no_grad():
        net[1].weight.mul_(40)  # values far beyond both knees
    images = images_of(SHAPE, 30)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    assert_twins_agree(integer_net, images)
    values = integer_net.activations(images)[-2]
    unit = integer_net.outputs[-2].unit
    assert (values.min(), values.max() * unit) == (0, 6.0)
    with torch.no_grad():
        exact = net[:3](torch.from_numpy(images).permute(0, 3, 1, 2) / 256).permute(0, 2, 3, 1)
    assert 0.1 < float((exact == 6).float().mean()) < 0.9
    # A unit of the stream for each of the two roundings, and float32 beside it.
    assert np.abs(values * unit - exact.numpy()).max() <= unit + 1e-5
    assert bnn.agreement(net, integer_net, images).class_agreement == 1.0


def test_a_mean_that_keeps_its_axes_may_be_convolved() -> None:
    images = images_of(SHAPE, 30)
    tail = [Int8Conv2d(8, 6, kernel=1), BatchNorm(6), nn.ReLU(), nn.Flatten(), Int8Head(6, 5)]
    net = net_of(Mean(keepdim=True), *tail)
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.class_agreement == 1.0
    assert all(layer.rms * layer.unit < 1e-3 for layer in found.layers)
    without = net_of(Mean(), *tail)
    with pytest.raises(ValueError, match=r"3: expected 4 axes, got 2 from 2\.mean"):
        bnn.integerize(without, input_shape=SHAPE)
    sequence = net_of(
        Row(), Mean(keepdim=True, rank=3), BinaryWeightConv1d(8, 5, kernel=1), nn.Flatten()
    )
    found = bnn.agreement(
        sequence, bnn.integerize(sequence, input_shape=(1, 11, 3)), images_of((1, 11, 3), 30)
    )
    assert found.class_agreement == 1.0


@pytest.mark.parametrize("border", ["minus_one", "zero"])
def test_partitioned_convolutions_are_exact(border: str) -> None:
    binary = BinaryConv2d(8, 5, kernel=3, padding=1, border=border)
    parted = PartitionedConv2d(binary, Int8Conv2d(8, 3, kernel=3, padding=1), [0, 2, 6])
    net = net_of(Sign(), parted, BatchNorm(8), Sign(), Int8Head(8, 5, kernel=(6, 5)))
    integer_net = bnn.integerize(net, input_shape=SHAPE)
    images = images_of(SHAPE, 30)
    assert_twins_agree(integer_net, images)
    found = bnn.agreement(net, integer_net, images)
    assert found.n_bits == 30 * 30 * 16
    assert (found.n_bit_mismatches, found.class_agreement) == (0, 1.0)


class Stream(nn.Module):
    """Shortcut, pools, knee, concatenation: every operation on streams but those of gates."""

    def __init__(self) -> None:
        super().__init__()
        self.sign, self.conv = Sign(), BinaryConv2d(8, 8, kernel=3, padding=1)
        self.norm, self.slope = BatchNorm(8), nn.PReLU(8)
        self.pool, self.short = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.mix = Int8Conv2d(16, 6, kernel=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.norm(self.conv(self.sign(x))) + x)
        return self.mix(torch.cat([self.pool(y), self.short(x)], dim=1))


@pytest.mark.arm
def test_streams_give_the_same_integers_on_arm() -> None:
    net = net_of(Stream(), Mean(), Int8Head(6, 5))
    model = bnn.to_model(bnn.integerize(net, input_shape=SHAPE))
    codes = {op.code for op in model.ops}
    assert codes >= {OpCode.SCALE, OpCode.ADD, OpCode.MAX_POOL, OpCode.AVERAGE_POOL}
    assert codes >= {OpCode.CONCAT, OpCode.CONV_I32, OpCode.THRESHOLD}
    images = images_of(SHAPE, 32)
    run = emulate(build_library("aarch64-linux"), write_model(model), images)
    np.testing.assert_array_equal(run.outputs, run_model(model, images))
