"""Bits transposed, and states multiplied along their batch."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import Purpose, pack_bits, random_words, unpack_bits
from kernels.backends import BACKENDS, available_backends, use_backend
from kernels.build import build_library
from kernels.emulate import EmulatedLibrary
from kernels.host import KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words
from kernels.reference_sampling import transpose_bits_reference
from kernels.statistics import batch_products, transpose_bits

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
Target = dict[str, KernelLibrary]
"""Keyword arguments that choose who computes."""


@pytest.fixture(scope="module")
def arm_library() -> Iterator[EmulatedLibrary]:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'bitspin[arm]'")
    with EmulatedLibrary(build_library("aarch64-linux", part="kernels")) as library:
        yield library


@pytest.fixture(params=[*BACKENDS, pytest.param("aarch64", marks=pytest.mark.arm)])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param == "aarch64":
        yield {"library": request.getfixturevalue("arm_library")}
        return
    if request.param not in available_backends():
        pytest.skip(f"needs {BACKENDS[request.param].needs}")
    with use_backend(request.param):
        yield {}


def _states(batch: int, n: int, index: int = 0) -> NDArray[np.bool_]:
    rows = np.arange(batch)
    return random_words(5, Purpose.DIAGNOSTICS, n, rows=rows, index=index) % 2 == 1


def test_the_reference_transposes_by_the_definition() -> None:
    words = np.array([[0x80000001, 1], [0, 0], [1, 0]], CHANNEL_WORD)
    turned = transpose_bits_reference(words, 33)
    assert turned.shape == (33, 1)
    assert turned[[0, 31, 32], 0].tolist() == [0b101, 0b001, 0b001]
    assert turned[1:31].sum() == 0


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("batch", [1, 31, 33, 64, 130])
def test_transposed_is_the_reference(target: Target, batch: int, n: int) -> None:
    states = _states(batch, n)
    turned = transpose_bits(pack_bits(states), n, **target)
    assert turned.shape == (n, n_words(batch, CHANNEL_WORD))
    assert np.array_equal(unpack_bits(turned, batch), states.T)
    assert np.array_equal(turned, pack_bits(np.ascontiguousarray(states.T)))  # pad bits zero


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 600), n=st.integers(1, 600))
def test_transposing_twice_gives_the_states_back(batch: int, n: int) -> None:
    words = pack_bits(_states(batch, n))
    for name in available_backends():
        with use_backend(name):
            turned = transpose_bits(words, n)
            assert np.array_equal(turned, transpose_bits_reference(words, n))
            assert np.array_equal(transpose_bits(turned, batch), words)


@pytest.mark.parametrize(
    ("batch", "n_v", "n_h"),
    [(1, 1, 1), (3, 31, 33), (32, 64, 16), (33, 65, 15), (129, 33, 129), (512, 100, 70)],
)
def test_products_are_those_of_integers(target: Target, batch: int, n_v: int, n_h: int) -> None:
    v, h = _states(batch, n_v), _states(batch, n_h, index=1)
    products = batch_products(pack_bits(v), n_v, pack_bits(h), n_h, **target)
    assert products.dtype == np.int32
    assert np.array_equal(products, v.T.astype(np.int64) @ h.astype(np.int64))


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 300), n_v=st.integers(1, 90), n_h=st.integers(1, 90))
def test_drawn_shapes(batch: int, n_v: int, n_h: int) -> None:
    v, h = _states(batch, n_v), _states(batch, n_h, index=1)
    expected = v.T.astype(np.int64) @ h.astype(np.int64)
    for name in available_backends():
        with use_backend(name):
            products = batch_products(pack_bits(v), n_v, pack_bits(h), n_h)
            assert np.array_equal(products, expected)


def test_what_does_not_fit_is_refused() -> None:
    words = pack_bits(_states(3, 40))
    with pytest.raises(ValueError, match=r"words: expected shape \(n_rows, 2\) for 64 bits, got"):
        transpose_bits(words[:, :1], 64)
    with pytest.raises(TypeError, match="words: expected uint32, got uint8"):
        transpose_bits(words.astype(np.uint8), 40)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"h_bits: expected batch 3 \(v_bits\), got 2"):
        batch_products(words, 40, words[:2], 40)
