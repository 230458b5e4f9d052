"""Binarisation of rows: every back end against a comparison in numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.matmul import pack_rows
from kernels.packing import pack_bits

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
HERE = [name for name in BACKENDS if name in available_backends()]


def draw(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype == "float32":
        # Few values, so that many are equal to the threshold.
        return (rng.integers(-3, 4, shape) / 2).astype(np.float32)
    return rng.integers(0, 256, shape).astype(np.uint8).view(dtype)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize("k", SIZES)
def test_bits_are_the_comparison(k: int, dtype: str, name: str) -> None:
    x = draw(np.random.default_rng(k), dtype, (5, k))
    for threshold in {"float32": (0, -1.5, 0.5, 9), "uint8": (0, 1, 128, 255), "int8": (0, -127)}[
        dtype
    ]:
        with use_backend(name):
            words = pack_rows(x, threshold)
        # pack_bits leaves the bits past k zero, and equality demands the same here.
        assert np.array_equal(words, pack_bits(x >= threshold)), threshold


@pytest.mark.parametrize("name", HERE)
def test_thresholds_outside_of_the_integers_and_between_them(name: str) -> None:
    unsigned = np.arange(256, dtype=np.uint8)[None]
    signed = np.arange(-128, 128, dtype=np.int8)[None]
    with use_backend(name):
        for threshold in (-1e9, -129, -128.5, -0.5, 0.5, 127.5, 254.5, 256, 1e9):
            for x in (unsigned, signed):
                expected = pack_bits(x.astype(np.float64) >= threshold)
                assert np.array_equal(pack_rows(x, threshold), expected), threshold


@pytest.mark.parametrize("name", HERE)
def test_special_numbers(name: str) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45] * 7], np.float32)
    with use_backend(name):
        words = pack_rows(x)
    assert np.array_equal(words, pack_bits(np.array([[0, 1, 0, 1, 1, 1, 0] * 7], np.bool_)))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 9),
    k=st.integers(1, 300),
    threshold=st.integers(-130, 260),
    dtype=st.sampled_from(["float32", "uint8", "int8"]),
    name=st.sampled_from(HERE),
    seed=st.integers(0, 99),
)
def test_any_shape(n: int, k: int, threshold: int, dtype: str, name: str, seed: int) -> None:
    x = draw(np.random.default_rng(seed), dtype, (n, k))
    with use_backend(name):
        assert np.array_equal(pack_rows(x, threshold), pack_bits(x.astype(np.float64) >= threshold))


def test_rows_that_are_not_contiguous_are_packed_as_they_read() -> None:
    x = np.random.default_rng(1).normal(size=(6, 90)).astype(np.float32)
    for name in HERE:
        with use_backend(name):
            assert np.array_equal(pack_rows(x[::2, ::-1]), pack_bits(x[::2, ::-1]))


def test_many_rows_on_several_threads() -> None:
    x = np.random.default_rng(2).integers(0, 256, (4100, 600)).astype(np.uint8)  # above 2 MiB
    assert np.array_equal(pack_rows(x, 99), pack_bits(x >= 99))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="x: expected float32, uint8, int8, got float64"):
        pack_rows(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"x: expected shape \(n, k\), got \(3,\)"):
        pack_rows(np.zeros(3, np.float32))
