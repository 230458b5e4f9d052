"""The oracle itself, against sums written out index by index."""

import itertools

import numpy as np
import pytest

from kernels import DType, Op, OpCode, Tensor, pack_bits
from kernels.reference import convolve, decode, max_pool, run_op


@pytest.mark.parametrize(
    ("stride", "padding"), [((1, 1), (0, 0)), ((2, 1), (1, 2)), ((3, 2), (2, 0))]
)
def test_convolve_is_the_sum_over_taps(stride: tuple[int, int], padding: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    data, weights = rng.integers(-9, 9, (2, 6, 5, 3)), rng.integers(-9, 9, (4, 3, 3, 3))
    border = -1
    acc = convolve(data, weights, stride=stride, padding=padding, border=border)
    height = (6 + 2 * padding[0] - 3) // stride[0] + 1
    width = (5 + 2 * padding[1] - 3) // stride[1] + 1
    assert acc.shape == (2, height, width, 4)
    for n, y, x, o in itertools.product(range(2), range(height), range(width), range(4)):
        expected = 0
        for i, j, c in itertools.product(range(3), range(3), range(3)):
            row, column = y * stride[0] - padding[0] + i, x * stride[1] - padding[1] + j
            inside = 0 <= row < 6 and 0 <= column < 5
            expected += (data[n, row, column, c] if inside else border) * weights[o, i, j, c]
        assert acc[n, y, x, o] == expected


def test_max_pool_drops_incomplete_windows() -> None:
    acc = np.arange(15).reshape(1, 3, 5, 1)
    assert max_pool(acc, (2, 2))[0, :, :, 0].tolist() == [[6, 8]]
    assert max_pool(acc, (1, 3))[0, :, :, 0].tolist() == [[2], [7], [12]]


def test_threshold_comes_after_pooling_and_bias_and_then_flips() -> None:
    rows = np.array([[7, 7, 8], [0, 1, 0]], "<i4")
    tensors = (
        Tensor(DType.U8, (1, 2, 1)),
        Tensor(DType.I8, (3, 1, 1, 1), np.ones(3, np.int8).tobytes()),
        Tensor(DType.I32, (2, 3), rows.tobytes()),
        Tensor(DType.I32, (3,), np.array([2, 2, 2], "<i4").tobytes()),
        Tensor(DType.BITS, (1, 1, 3)),
    )
    op = Op(OpCode.CONV_U8, 0, 1, 4, 2, 3, pool=(1, 2))
    data = np.array([3, 5]).reshape(1, 1, 2, 1)  # the larger one plus the bias is 7
    assert run_op(op, tensors, data).ravel().tolist() == [1, -1, -1]


def test_bits_decode_to_signs() -> None:
    bits = np.random.default_rng(0).random((2, 1, 1, 33)) < 0.5
    tensor = Tensor(DType.BITS, bits.shape, pack_bits(bits).tobytes())
    assert np.array_equal(decode(tensor), np.where(bits, 1, -1))


def test_activations_have_no_values() -> None:
    with pytest.raises(ValueError, match="got an activation"):
        decode(Tensor(DType.U8, (1,)))
