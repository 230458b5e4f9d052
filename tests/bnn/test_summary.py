import copy
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

import bnn
from bnn.layers import (
    BatchNorm,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryGRUCell,
    BinaryLinear,
    RealConv2d,
    Sign,
)
from bnn.models import MODELS, build_model
from kernels import write_model

# Header, tables, alignment and metadata of a small file.
FILE_OVERHEAD = 3000


def test_counts_of_the_default_network() -> None:
    result = bnn.summary(bnn.BinaryConvNet((28, 28, 1), 10))
    assert [layer.name for layer in result.layers] == ["stages.0", "stages.1", "stages.2", "head"]
    assert [layer.output_shape for layer in result.layers] == [
        (14, 14, 32),
        (7, 7, 64),
        (3, 3, 128),
        (1, 1, 10),
    ]
    assert [layer.input_shape for layer in result.layers] == [
        (28, 28, 1),
        (14, 14, 32),
        (7, 7, 64),
        (3, 3, 128),
    ]
    assert [layer.weight_bits for layer in result.layers] == [8, 1, 1, 8]
    assert [layer.input_bits for layer in result.layers] == [8, 1, 1, 1]
    assert [layer.n_weights for layer in result.layers] == [288, 18_432, 73_728, 11_520]
    assert result.macs(8) == 28 * 28 * 288 + 11_520
    assert result.macs(1) == result.binary_macs == 14 * 14 * 18_432 + 7 * 7 * 73_728
    assert result.macs(32) == 0
    assert result.ops == result.macs(8) + result.macs(1) / 64
    # int8: one byte each; binary: one bit each; two int32 per threshold channel, one per bias.
    assert result.packed_bytes == 288 + 11_520 + (18_432 + 73_728) // 8 + 8 * 224 + 4 * 10
    assert result.float_bytes == 4 * (288 + 18_432 + 73_728 + 11_520 + 4 * 224 + 10)
    # A byte for every number but the bits: scale and offset per channel, and the head's biases.
    assert result.int8_bytes == 288 + 11_520 + (18_432 + 73_728) // 8 + 2 * 224 + 10
    assert result.compression_ratio == result.float_bytes / result.packed_bytes
    assert result.n_trainable == 288 + 18_432 + 73_728 + 11_520 + 2 * 224 + 10
    assert result.n_fixed == 2 * 224
    assert [result.n_parameters(bits) for bits in (1, 8, 32)] == [92_160, 11_808, 4 * 224 + 10]


def test_ragged_widths_count_whole_words_as_the_file_does(ragged) -> None:
    result = bnn.summary(ragged)
    assert result.layers[1].packed_bytes == 33 * 9 * 1 * 4 + 8 * 33  # 5 channels in one word
    assert result.layers[2].packed_bytes == 40 * 9 * 2 * 4 + 8 * 40  # 33 channels in two
    model = bnn.to_model(bnn.integerize(ragged))
    assert result.packed_bytes == sum(len(tensor.data or b"") for tensor in model.tensors)
    assert 0 < len(write_model(model)) - result.packed_bytes < FILE_OVERHEAD


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_twin_is_all_32_bit_and_multiplies_as_often(name: str) -> None:
    shape = (1, 9, 8) if name == "keyword_spotter" else (8, 8, 1)
    net = bnn.summary(build_model(name, shape, 10, (32, 64)))
    twin = bnn.summary(build_model(name, shape, 10, (32, 64), full_precision=True))
    assert twin.binary_macs == twin.macs(1) == twin.macs(8) == 0
    assert twin.n_macs == twin.macs(32) == net.n_macs
    assert net.binary_macs > 0
    assert twin.packed_bytes == twin.float_bytes
    assert twin.compression_ratio == 1
    assert net.int8_bytes < net.packed_bytes
    n_norm = sum(row.n_fixed for row in twin.rows)  # two statistics and two parameters a channel
    assert twin.int8_bytes == twin.float_bytes // 4 - n_norm
    assert net.n_parameters(1) + net.n_parameters(8) == sum(r.n_weights for r in twin.rows)


@pytest.mark.parametrize("full_precision", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_parameter_is_counted_once(name: str, full_precision: bool) -> None:
    shape = (1, 9, 8) if name == "keyword_spotter" else (8, 8, 1)
    net = build_model(name, shape, 10, (32, 64), full_precision=full_precision)
    result = bnn.summary(net)
    assert result.n_trainable == sum(p.numel() for p in net.parameters())
    assert result.n_fixed == sum(b.numel() for b in net.buffers())


def test_a_block_with_a_stream() -> None:
    result = bnn.summary(build_model("bireal_resnet", (8, 8, 1), 10, (32, 64)))
    rows = {row.name: row for row in result.rows}
    conv, shortcut = rows["blocks.1.conv"], rows["blocks.1.shortcut.1"]
    assert (conv.kind, conv.weight_bits, conv.input_bits) == ("BinaryConv2d", 1, 1)
    assert conv.output_shape == (4, 4, 64)
    assert conv.macs == 4 * 4 * 9 * 32 * 64
    assert conv.packed_bytes == 9 * 64 * 4 + 12 * 64  # a multiplier and an offset per channel
    assert (shortcut.kind, shortcut.weight_bits, shortcut.input_bits) == ("Int8Conv2d", 8, 32)
    assert shortcut.macs == 4 * 4 * 32 * 64
    assert rows["head"].input_bits == 32


def test_any_module_of_layers() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        Sign(),
        BinaryConv2d(8, 40, kernel=(3, 1), groups=4, padding=(1, 0)),
        BatchNorm(40),
        nn.ReLU(),
        BinaryConv2d(40, 2, kernel=1, weight_quantizer="ste_tern"),
        nn.Flatten(),
        nn.Linear(2 * 20, 5),
    )
    with pytest.raises(ValueError, match="others"):
        bnn.summary(net, (3, 9, 8))  # a binary layer after ReLU
    net[5] = Sign()
    result = bnn.summary(net, (3, 9, 8))
    rows = result.rows
    assert [row.name for row in rows] == [str(number) for number in range(9)]
    assert [row.input_bits for row in result.layers] == [32, 1, 1, 32]
    assert [row.weight_bits for row in result.layers] == [32, 1, 2, 32]
    assert [row.macs for row in result.layers] == [
        20 * 9 * 3 * 8,
        20 * 3 * 2 * 40,
        20 * 40 * 2,
        200,
    ]
    assert [row.packed_bytes for row in rows] == [
        4 * (216 + 8),
        8 * 8,  # folded into a threshold
        0,
        40 * 3 * 4,  # two channels of a group in one word
        8 * 40,
        0,
        2 * 2 * 2 * 4,  # two bits each, 40 channels in two words
        0,
        4 * (200 + 5),
    ]
    assert [row.int8_bytes for row in rows] == [
        216 + 8,  # real weights and biases, a byte each
        2 * 8,
        0,
        40 * 3 * 4,
        2 * 40,
        0,
        2 * 2 * 2 * 4,
        0,
        200 + 5,
    ]
    assert (rows[0].n_other, rows[1].n_other, rows[1].n_fixed) == (8, 32, 16)
    assert rows[8].input_shape == (1, 1, 40)


def test_binary_weights_on_real_inputs_are_no_binary_product() -> None:
    net = nn.Sequential(RealConv2d(2, 3, kernel=1))
    assert bnn.summary(net, (2, 4, 4)).macs(32) == 16 * 6
    net = nn.Sequential(BinaryLinear(33, 3), BatchNorm(3))
    row = bnn.summary(net, (33,)).rows[0]  # takes ±1 only, so it gets ±1
    assert (row.input_bits, row.macs, row.packed_bytes) == (1, 99, 3 * 2 * 4)
    assert bnn.summary(net, (33,)).ops == 99 / 64


def test_transposed_convolution_embedding_and_cell() -> None:
    row = bnn.summary(BinaryConvTranspose2d(3, 5, kernel=2, stride=2), (3, 4, 6)).rows[0]
    assert (row.output_shape, row.macs) == ((8, 12, 5), 24 * 3 * 5 * 4)
    table = bnn.summary(BinaryEmbedding(7, 33), example=torch.tensor([3])).rows[0]
    assert (table.weight_bits, table.n_weights, table.macs) == (1, 7 * 33, 0)
    cell = BinaryGRUCell(4, 6)
    result = bnn.summary(cell, example=torch.ones(1, 4))
    assert result.n_trainable == sum(p.numel() for p in cell.parameters())
    assert result.macs(1) == 3 * 6 * (4 + 6)


def test_a_layer_that_runs_twice_is_counted_once() -> None:
    dense = BinaryLinear(8, 8)
    result = bnn.summary(nn.Sequential(Sign(), dense, Sign(), dense), (8,))
    assert [row.macs for row in result.rows] == [0, 64, 0, 64]
    assert (result.packed_bytes, result.int8_bytes, result.float_bytes) == (32, 32, 256)
    assert result.n_parameters(1) == 64


def test_nothing_is_left_behind() -> None:
    net = build_model("react_resnet", (8, 8, 1), 10, (32,)).train()
    calls: list[int] = []
    net.stem.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(net.state_dict())
    hooks = {name: len(module._forward_hooks) for name, module in net.named_modules()}
    passes = [m._n_passes for m in net.modules() if isinstance(m, BinaryConv2d)]
    state = torch.get_rng_state()
    bnn.summary(net)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert hooks == {name: len(module._forward_hooks) for name, module in net.named_modules()}
    assert passes == [m._n_passes for m in net.modules() if isinstance(m, BinaryConv2d)]
    assert not calls
    assert torch.equal(torch.get_rng_state(), state)


def test_json_and_records() -> None:
    result = bnn.summary(bnn.BinaryConvNet((8, 8, 1), 10))
    read = json.loads(json.dumps(result.to_json()))
    assert read["ops"] == result.ops
    assert read["int8_bytes"] == result.int8_bytes == sum(row["int8_bytes"] for row in read["rows"])
    assert read["rows"][2]["name"] == "stages.1"
    assert read["rows"][2]["output_shape"] == [2, 2, 64]
    assert json.loads(json.dumps([asdict(layer) for layer in result.layers]))[3]["macs"] == 5120


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="input_shape: expected the shape of one input"):
        bnn.summary(nn.Linear(3, 4))
    net = bnn.BinaryConvNet((8, 8, 1), 10)
    assert bnn.summary(net, (1, 8, 8)) == bnn.summary(net)
    with pytest.raises(ValueError, match=r"input_shape: expected \(8, 8, 1\)"):
        bnn.summary(net, (1, 28, 28))


def test_table() -> None:
    text = str(bnn.summary(bnn.BinaryConvNet((8, 8, 1), 10)))
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["layer", "kind", "output", "bits"]
    row = "stages.1 BinaryConv2d 2x2x64 1 1 18432 256 294912 0 0 0 2816 74752"
    assert lines[3].split() == row.split()
    # 32 * 9 + 32 * 64 * 9 + 64 * 128 + 512 * 10 weights; 4 * 224 + 10 other parameters.
    assert lines[8].split() == "total 32032 906 327680 0 23552 0 10568 131752".split()
    assert len({len(line) for line in lines}) == 1
    assert lines[9].startswith("parameters: 32938 (26624 of 1 bit, 5408 of 8 bit, 906 of 32 bit)")
    # 32 * 9 + 5120 bytes of int8, 26624 bits, 2 * 224 + 10 more.
    assert lines[10].rstrip() == (
        "bytes: 10568 packed, 131752 as float32, 12.5 times smaller; 9194 with reals in 8 bits"
    )
    assert "OPs: 28672" in lines[11]
