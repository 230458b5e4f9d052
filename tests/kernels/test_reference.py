"""The oracle itself, against sums written out index by index."""

import itertools
import math

import numpy as np
import pytest

from kernels import DType, Op, OpCode, Tensor, pack_bits
from kernels.reference import convolve, decode, max_pool, pool_windows, run_op, scale


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


def test_groups_see_only_their_own_channels() -> None:
    rng = np.random.default_rng(0)
    data, weights = rng.integers(-9, 9, (2, 4, 5, 6)), rng.integers(-9, 9, (9, 2, 2, 2))
    acc = convolve(data, weights, groups=3)
    for group in range(3):
        channels, outputs = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        alone = convolve(data[..., channels], weights[outputs])
        assert np.array_equal(acc[..., outputs], alone)


@pytest.mark.parametrize("outside", [0, -100])
def test_windows_are_those_of_a_loop(outside: int) -> None:
    op = Op(OpCode.MAX_POOL, 0, None, 1, pool=(3, 2), stride=(2, 1), padding=(1, 1))
    data = np.random.default_rng(0).integers(-9, 9, (2, 5, 4, 3))
    windows = pool_windows(data, op, outside)
    assert windows.shape == (2, 3, 5, 3, 6)
    for n, y, x, c in itertools.product(range(2), range(3), range(5), range(3)):
        expected = []
        for i, j in itertools.product(range(3), range(2)):
            row, column = 2 * y - 1 + i, x - 1 + j
            inside = 0 <= row < 5 and 0 <= column < 4
            expected.append(data[n, row, column, c] if inside else outside)
        assert windows[n, y, x, c].tolist() == expected


def test_scale_is_the_rounded_fraction() -> None:
    x = np.arange(-40, 40).reshape(-1, 1)
    y = scale(x, np.array([[3]]), np.array([[5]]), 2)
    assert y.ravel().tolist() == [math.floor((3 * i + 5) / 4 + 0.5) for i in range(-40, 40)]


def test_scale_with_a_knee_has_two_slopes() -> None:
    x = np.array([[-3], [1], [2], [7]])
    y = scale(x, np.array([[2], [4], [2]]), np.array([[0], [20]]), 1)
    assert y.ravel().tolist() == [4, 12, 2, 7]  # 2 x + 10 below 2, else x


def test_add_max_and_dense_by_hand() -> None:
    tensors = (
        Tensor(DType.I32, (1, 2, 2)),
        Tensor(DType.I8, (1, 1, 2, 2), np.array([1, -2, 3, -4], np.int8).tobytes()),
        Tensor(DType.I32, (1,), np.array([100], "<i4").tobytes()),
        Tensor(DType.I32, (1, 2, 2)),
    )
    data = np.array([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    added = run_op(Op(OpCode.ADD, 0, None, 3, residual=0), tensors, data, 10 * data)
    assert added.ravel().tolist() == [11, 22, 33, 44]
    largest = run_op(Op(OpCode.MAX_POOL, 0, None, 3, pool=(1, 2)), tensors, data)
    assert largest.ravel().tolist() == [3, 4]
    dense = run_op(Op(OpCode.CONV_I32, 0, 1, 3, bias=2), tensors, data)
    assert dense.ravel().tolist() == [100 + 1 - 4 + 9 - 16]


def test_bits_decode_to_signs() -> None:
    bits = np.random.default_rng(0).random((2, 1, 1, 33)) < 0.5
    tensor = Tensor(DType.BITS, bits.shape, pack_bits(bits).tobytes())
    assert np.array_equal(decode(tensor), np.where(bits, 1, -1))


def test_activations_have_no_values() -> None:
    with pytest.raises(ValueError, match="got an activation"):
        decode(Tensor(DType.U8, (1,)))
