"""Packing against its definition; sizes straddle the words on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import pack, pack_bits, unpack, unpack_bits
from kernels.layout import CHANNEL_WORD, ROW_WORD, tail_mask
from kernels.reference import and_dot, pack_reference, xor_dot

SIZES = (1, 3, 31, 32, 33, 63, 64, 65, 127, 129, 255, 1000)
VERSIONS = ((pack_bits, unpack_bits, CHANNEL_WORD), (pack, unpack, ROW_WORD))


def _bits(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize(("pack_words", "unpack_words", "word"), VERSIONS)
def test_words_follow_the_definition(pack_words, unpack_words, word, n_bits: int) -> None:
    bits = _bits((2, 3, n_bits))
    words = pack_words(bits)
    assert words.dtype == word
    for i in range(2):
        for j in range(3):
            assert words[i, j].tolist() == pack_reference(bits[i, j], 8 * word.itemsize)
    assert np.array_equal(unpack_words(words, n_bits), bits)


@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize(("pack_words", "unpack_words", "word"), VERSIONS)
def test_padding_bits_are_zero(pack_words, unpack_words, word, n_bits: int) -> None:
    words = pack_words(np.ones((2, n_bits), np.bool_))
    assert words[:, -1].tolist() == [tail_mask(n_bits, word)] * 2


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_the_sign_of_zero_is_plus(dtype: type) -> None:
    assert pack_bits(np.array([-1, 0, 1, -2], dtype)).tolist() == [0b0110]


def test_minus_zero_is_zero() -> None:
    assert pack_bits(np.array([-0.0, -1.0])).tolist() == [0b01]


def test_non_contiguous_arrays_pack_alike() -> None:
    bits = _bits((40, 70)).T
    assert np.array_equal(pack_bits(bits), pack_bits(np.ascontiguousarray(bits)))
    words = pack_bits(bits)
    assert np.array_equal(unpack_bits(np.asfortranarray(words), 40), bits)


@settings(deadline=None, max_examples=50)
@given(n_bits=st.integers(1, 200), seed=st.integers(0, 1000))
def test_popcount_identities(n_bits: int, seed: int) -> None:
    a, b = pack(_bits((2, n_bits), seed)), pack(_bits((3, n_bits), seed + 1))
    signs_a, signs_b = (2 * unpack(x, n_bits).astype(int) - 1 for x in (a, b))
    assert np.array_equal(xor_dot(a, b, n_bits), signs_a @ signs_b.T)
    assert np.array_equal(and_dot(a, b, n_bits), signs_a @ signs_b.T)


def test_unsigned_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="compare first"):
        pack_bits(np.zeros(4, np.uint8))


def test_scalars_are_refused() -> None:
    with pytest.raises(ValueError, match="one axis"):
        pack_bits(np.array(1.0))


def test_unpack_refuses_other_words() -> None:
    with pytest.raises(TypeError, match="uint32"):
        unpack_bits(np.zeros(1, np.uint64), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected last axis 2"):
        unpack_bits(np.zeros(3, np.uint32), 33)
