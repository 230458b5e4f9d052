import bnn
from kernels import write_model

# Header, tables, alignment and metadata of a small file.
FILE_OVERHEAD = 3000


def test_counts_of_the_default_network() -> None:
    result = bnn.summary(bnn.BinaryConvNet((28, 28, 1), 10))
    assert [layer.output_shape for layer in result.layers] == [
        (14, 14, 32),
        (7, 7, 64),
        (3, 3, 128),
        (1, 1, 10),
    ]
    assert [layer.weight_bits for layer in result.layers] == [8, 1, 1, 8]
    assert [layer.n_weights for layer in result.layers] == [288, 18_432, 73_728, 11_520]
    assert result.macs(8) == 28 * 28 * 288 + 11_520
    assert result.macs(1) == 14 * 14 * 18_432 + 7 * 7 * 73_728
    assert result.macs(32) == 0
    # int8: one byte each; binary: one bit each; two int32 per threshold channel, one per bias.
    assert result.packed_bytes == 288 + 11_520 + (18_432 + 73_728) // 8 + 8 * 224 + 4 * 10
    assert result.float_bytes == 4 * (288 + 18_432 + 73_728 + 11_520 + 4 * 224 + 10)


def test_ragged_widths_count_whole_words_as_the_file_does(ragged) -> None:
    result = bnn.summary(ragged)
    assert result.layers[1].packed_bytes == 33 * 9 * 1 * 4 + 8 * 33  # 5 channels in one word
    assert result.layers[2].packed_bytes == 40 * 9 * 2 * 4 + 8 * 40  # 33 channels in two
    model = bnn.to_model(bnn.integerize(ragged))
    assert result.packed_bytes == sum(len(tensor.data or b"") for tensor in model.tensors)
    assert 0 < len(write_model(model)) - result.packed_bytes < FILE_OVERHEAD


def test_the_twin_is_all_32_bit() -> None:
    result = bnn.summary(bnn.BinaryConvNet((8, 8, 1), 10, full_precision=True))
    assert result.macs(1) == result.macs(8) == 0
    assert result.macs(32) == bnn.summary(bnn.BinaryConvNet((8, 8, 1), 10)).macs(1) + 23_552
    assert result.packed_bytes == result.float_bytes


def test_table() -> None:
    lines = str(bnn.summary(bnn.BinaryConvNet((8, 8, 1), 10))).splitlines()
    assert lines[0].split()[:4] == ["layer", "output", "bits", "weights"]
    assert lines[2].split() == "stages.1 2x2x64 1 18432 294912 0 0 2816 74752".split()
    assert lines[-1].split() == "total 32032 327680 23552 0 10568 131752".split()
    assert len({len(line) for line in lines}) == 1
