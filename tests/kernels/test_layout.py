import numpy as np
import pytest

from kernels.layout import BIT_ORDER, CHANNEL_WORD, ROW_WORD, align, n_words, tail_mask


@pytest.mark.parametrize(
    ("n_bits", "words_32", "words_64"),
    [(1, 1, 1), (31, 1, 1), (32, 1, 1), (33, 2, 1), (63, 2, 1), (64, 2, 1), (65, 3, 2)],
)
def test_words_are_rounded_up(n_bits: int, words_32: int, words_64: int) -> None:
    assert n_words(n_bits, CHANNEL_WORD) == words_32
    assert n_words(n_bits, ROW_WORD) == words_64


@pytest.mark.parametrize(
    ("n_bits", "mask"), [(1, 1), (31, 0x7FFFFFFF), (32, 0xFFFFFFFF), (33, 1), (64, 0xFFFFFFFF)]
)
def test_tail_mask_has_the_used_bits_of_the_last_word(n_bits: int, mask: int) -> None:
    assert tail_mask(n_bits, CHANNEL_WORD) == mask


def test_words_are_little_endian_and_lsb_first() -> None:
    assert BIT_ORDER == "little"
    assert (CHANNEL_WORD.str, ROW_WORD.str) == ("<u4", "<u8")
    assert np.array([1], CHANNEL_WORD).tobytes() == b"\x01\0\0\0"


def test_align_rounds_up_to_64() -> None:
    assert [align(n) for n in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]
