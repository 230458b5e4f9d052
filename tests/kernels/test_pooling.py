"""Pools of bits and of integers, and the residual add, on every back end."""

import numpy as np
import pytest

from kernels import reference_convolution as reference
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.packing import pack_bits
from kernels.pooling import add, average_pool, max_pool_bits

HERE = [name for name in BACKENDS if name in available_backends()]


def test_the_reference_by_hand() -> None:
    bits = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]], np.bool_)[None, :, :, None]
    pooled = reference.max_pool_bits(bits, (2, 2), (1, 1), (0, 0))
    assert pooled[0, :, :, 0].tolist() == [[True, False], [False, True]]
    assert reference.max_pool_bits(bits, (2, 2), (2, 2), (1, 1))[0, :, :, 0].tolist() == [
        [True, False],
        [False, True],
    ]
    x = np.array([[3, 5], [-9, 2]])[None, :, :, None]
    factors, offset = np.array([1 << 14]), np.array([0])
    mean = reference.average_pool(x, (2, 2), (2, 2), (0, 0), factors, offset, 16)
    assert mean.tolist() == [[[[0]]]]  # 1 / 4, rounded
    halves = reference.average_pool(x, (1, 2), (1, 2), (0, 0), factors * 2, offset, 16)
    assert halves[0, :, 0, 0].tolist() == [4, -3]  # 4 and -3.5, which is rounded up
    assert reference.add(x, x).tolist() == (2 * x).tolist()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 65, 300])
def test_max_pool_is_the_or_of_bits(n: int, name: str) -> None:
    bits = np.random.default_rng(n).random((2, 7, 6, n)) < 0.3
    with use_backend(name):
        for window, stride, padding in (
            ((2, 2), None, 0),
            ((3, 2), (2, 1), (1, 0)),
            ((3, 3), 2, 1),
        ):
            step = window if stride is None else (stride, stride) if stride == 2 else stride
            pad = (padding, padding) if isinstance(padding, int) else padding
            expected = reference.max_pool_bits(bits, window, step, pad)
            ours = max_pool_bits(pack_bits(bits), window, stride, padding)
            assert np.array_equal(ours, pack_bits(expected))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("n", [1, 3, 16, 33, 300])
def test_average_pool_scales_sums(n: int, name: str) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(-1000, 1000, (2, 7, 6, n), np.int32)
    multiplier = rng.integers(-5000, 5000, n, np.int32)
    offset = rng.integers(-(10**6), 10**6, n, np.int64)
    with use_backend(name):
        for window, stride, padding in (((7, 6), (7, 6), (0, 0)), ((3, 2), (2, 1), (1, 1))):
            expected = reference.average_pool(
                x.astype(np.int64), window, stride, padding, multiplier, offset, 12
            )
            ours = average_pool(
                x, window, stride, padding, multiplier=multiplier, offset=offset, shift=12
            )
            assert np.array_equal(ours, expected)


@pytest.mark.parametrize("name", HERE)
def test_add(name: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(-(10**9), 10**9, (2, 3, 5, 7, 11), np.int32)
    with use_backend(name):
        assert np.array_equal(add(x, y), x.astype(np.int64) + y)
        assert add(x[:0], y[:0]).shape == (0, 5, 7, 11)


def test_what_does_not_fit_is_named() -> None:
    words, x = np.zeros((1, 4, 4, 1), np.uint32), np.zeros((1, 4, 4, 2), np.int32)
    with pytest.raises(ValueError, match="expected room for one output"):
        max_pool_bits(words, 5)
    with pytest.raises(TypeError, match="images: expected dtype uint32, got int32"):
        max_pool_bits(x, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"multiplier: expected int32 of shape \(2,\)"):
        average_pool(x, 2, multiplier=np.zeros(3, np.int32), offset=np.zeros(2, np.int64), shift=1)
    with pytest.raises(ValueError, match="shift: expected 1 to 31, got 0"):
        average_pool(x, 2, multiplier=np.zeros(2, np.int32), offset=np.zeros(2, np.int64), shift=0)
    with pytest.raises(ValueError, match="x, y: expected int32 of one shape"):
        add(x, x[:, :2])
