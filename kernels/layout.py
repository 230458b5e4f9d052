"""Where a bit lives: word types, bit order and the padding rule, defined here and nowhere else.

Bit 1 means +1 (on), bit 0 means -1 (off). Bits are packed along the last axis, least significant
bit first, into little-endian words. The last word is filled up with bits 0 in every operand, so
that XOR and AND count nothing there; the true length travels beside the words.
Activations and convolution weights use 32-bit words (the channels of one pixel or tap are padded
to a multiple of 32), rows of a matrix product use 64-bit words.
"""

from typing import Final, Literal

import numpy as np

BIT_ORDER: Final[Literal["little"]] = "little"
"""Bit i of a word is element i: the ``bitorder`` of ``numpy.packbits``."""

CHANNEL_WORD: Final = np.dtype("<u4")
"""Word of packed channels: activations and convolution weights."""

ROW_WORD: Final = np.dtype("<u8")
"""Word of packed rows of a binary matrix product."""

BLOB_ALIGNMENT: Final = 64
"""Bytes to which weights in a model file and tensors in an arena are aligned: one cache line."""


def n_words(n_bits: int, word: np.dtype[np.unsignedinteger]) -> int:
    """Words that hold ``n_bits`` bits, the last one filled up with zeros."""
    return -(-n_bits // (8 * word.itemsize))


def tail_mask(n_bits: int, word: np.dtype[np.unsignedinteger]) -> int:
    """Bits of the last word that carry data, as an integer; all others must be zero."""
    used = n_bits % (8 * word.itemsize) or 8 * word.itemsize
    return (1 << used) - 1


def align(n_bytes: int) -> int:
    """Round ``n_bytes`` up to a multiple of :data:`BLOB_ALIGNMENT`."""
    return -(-n_bytes // BLOB_ALIGNMENT) * BLOB_ALIGNMENT
