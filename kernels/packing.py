"""Packs arrays of signs into words and back; the layout is that of :mod:`kernels.layout`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layout import BIT_ORDER, CHANNEL_WORD, ROW_WORD, n_words


def pack_bits(signs: NDArray[Any]) -> NDArray[np.uint32]:
    """Pack the last axis into 32-bit words: the layout of activations and convolution weights.

    Parameters
    ----------
    signs
        Shape (..., C). Boolean arrays are the bits themselves; of signed and floating arrays the
        sign is packed, with sign(0) = +1.

    Returns
    -------
    NDArray
        Shape (..., ceil(C / 32)), uint32; bits past C are zero.

    Raises
    ------
    TypeError
        If the dtype is unsigned: 0 could mean "off" or "sign +1".
    ValueError
        If there is no axis to pack.
    """
    return _pack(signs, CHANNEL_WORD)


def pack(signs: NDArray[Any]) -> NDArray[np.uint64]:
    """Pack the last axis into 64-bit words: the layout of rows of a binary matrix product.

    As :func:`pack_bits`, but the shape is (..., ceil(K / 64)) and the dtype is uint64.
    """
    return _pack(signs, ROW_WORD)


def unpack_bits(words: NDArray[np.uint32], n_bits: int) -> NDArray[np.bool_]:
    """Unpack ``n_bits`` bits per row from 32-bit words.

    Parameters
    ----------
    words
        Shape (..., ceil(n_bits / 32)), uint32.
    n_bits
        True length of the last axis.

    Returns
    -------
    NDArray
        Shape (..., n_bits), bool; ``2 * bits - 1`` are the signs.

    Raises
    ------
    TypeError
        If the dtype of ``words`` is another one.
    ValueError
        If the number of words does not belong to ``n_bits``.
    """
    return _unpack(words, n_bits, CHANNEL_WORD)


def unpack(words: NDArray[np.uint64], n_bits: int) -> NDArray[np.bool_]:
    """Unpack ``n_bits`` bits per row from 64-bit words; otherwise as :func:`unpack_bits`."""
    return _unpack(words, n_bits, ROW_WORD)


def _pack(signs: NDArray[Any], word: np.dtype[Any]) -> NDArray[Any]:
    if signs.ndim == 0:
        raise ValueError("signs: expected at least one axis to pack, got a scalar")
    if signs.dtype.kind not in "bif":
        raise TypeError(
            f"signs: expected a bool, signed or floating dtype, got {signs.dtype}; "
            "compare first (x > 0 or x != 0), because 0 could mean off or sign +1"
        )
    bits = signs if signs.dtype.kind == "b" else signs >= 0
    n_bits = bits.shape[-1]
    packed = np.zeros((*bits.shape[:-1], n_words(n_bits, word) * word.itemsize), np.uint8)
    packed[..., : -(-n_bits // 8)] = np.packbits(bits, axis=-1, bitorder=BIT_ORDER)
    return packed.view(word)


def _unpack(words: NDArray[Any], n_bits: int, word: np.dtype[Any]) -> NDArray[np.bool_]:
    if words.dtype != word:
        raise TypeError(f"words: expected dtype {word.name}, got {words.dtype}")
    expected = n_words(n_bits, word)
    if words.ndim == 0 or words.shape[-1] != expected:
        raise ValueError(
            f"words: expected last axis {expected} for {n_bits} bits, got shape {words.shape}"
        )
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=n_bits, bitorder=BIT_ORDER).astype(np.bool_)
