"""The sampler in numpy, operation by operation as ``c/host/sampler.h`` defines it.

Every step is a single-precision operation rounded to nearest, none is fused, so that compiled
draws are the same bits. The stream of random numbers is that of :mod:`kernels.philox`.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.packing import pack_bits, unpack_bits
from kernels.philox import Purpose, check_address, philox4x32, random_words

LOWEST_FIELD: Final = np.float32(-17.328679)
"""-25 log 2: below, the sigmoid is nearer to 0 than to 2**-24, and the unit is always off."""

HIGHEST_FIELD: Final = np.float32(17.5)
"""Above 17 the sigmoid differs from 1 by less than 2**-24, and the unit is always on."""

_SIGMOID_LIMIT = np.float32(87.0)
_MINUS_LOG2_E = np.float32(float.fromhex("-0x1.715476p+0"))
_ROUNDER = np.float32(3 * 2**22)
_EXP2 = tuple(  # 2^f - 1 on [-1/2, 1/2] without its constant term, from the highest power down
    np.float32(float.fromhex(coefficient))
    for coefficient in (
        *("0x1.5bba08p-10", "0x1.3cea88p-7", "0x1.c6b754p-5"),
        *("0x1.ebf9bcp-3", "0x1.62e42ap-1"),
    )
)
_ONE = np.float32(1.0)
_MANTISSA_BITS = 23
_UNIFORM_RANGE = np.float32(2**24)


def random_words_reference(
    seed: int,
    purpose: Purpose,
    n_elements: int,
    *,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
    first_element: int = 0,
) -> NDArray[np.uint32]:
    """Elements ``first_element`` and on of :func:`kernels.philox.random_words`."""
    first, end = first_element // 4, -(-(first_element + n_elements) // 4)
    row_numbers = check_address(seed, rows=rows, step=step, index=index)
    counter = np.empty((row_numbers.size, end - first, 4), np.uint32)
    counter[..., 0] = np.arange(first, end, dtype=np.uint32)
    counter[..., 1] = row_numbers[:, None]
    counter[..., 2] = step
    counter[..., 3] = int(purpose) << 24 | index
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(row_numbers.size, -1)
    return words[:, first_element % 4 :][:, :n_elements]


def sigmoid_reference(x: NDArray[np.float32]) -> NDArray[np.float32]:
    r"""Sigmoid in float32, within 1.1e-7 of the exact one.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    x
        Any shape; below -87 the result is that of -87, 1.6e-38. NaN stays NaN.
    """
    y = np.minimum(np.maximum(x, -_SIGMOID_LIMIT), _SIGMOID_LIMIT)
    return np.where(np.isnan(x), x, _ONE / (_exp_minus(y) + _ONE))


def bernoulli_reference(
    field: NDArray[np.float32],
    *,
    seed: int,
    purpose: Purpose,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
) -> NDArray[np.uint32]:
    """Draw a unit per field; arguments and result are those of :func:`kernels.sampling.bernoulli`.

    With U = word >> 8 the unit is on iff ``U (1 + e^-x) < 2**24`` and x is not below
    :data:`LOWEST_FIELD`.
    """
    words = random_words(seed, purpose, field.shape[1], rows=rows, step=step, index=index)
    u = (words >> np.uint32(8)).astype(np.float32)
    with np.errstate(invalid="ignore"):  # NaN compares as false
        y = np.clip(field, LOWEST_FIELD, HIGHEST_FIELD)
        on = (u * (_exp_minus(y) + _ONE) < _UNIFORM_RANGE) & (field >= LOWEST_FIELD)
    return pack_bits(on)


def bernoulli_probabilities_reference(
    probabilities: NDArray[np.float32],
    *,
    seed: int,
    purpose: Purpose,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
) -> NDArray[np.uint32]:
    """Draw a unit per probability: on iff ``uniform < p``; NaN is off."""
    n = probabilities.shape[1]
    words = random_words(seed, purpose, n, rows=rows, step=step, index=index)
    uniforms = (words >> np.uint32(8)).astype(np.float64) * 2.0**-24
    with np.errstate(invalid="ignore"):
        return pack_bits(uniforms < probabilities)


def sampled_probability(field: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability with which :func:`bernoulli_reference` turns a unit on: a count of uniforms.

    Parameters
    ----------
    field
        Any shape, float32, no NaN.
    """
    level = _exp_minus(np.clip(field, LOWEST_FIELD, HIGHEST_FIELD)) + _ONE
    # U * level is rounded to a relative 2**-24, so U is within 3 of 2**24 / level where it turns.
    window = np.arange(-3, 4)
    u = np.clip(np.floor(2.0**24 / level)[..., None] + window, 0, 2**24)
    below = u.astype(np.float32) * level[..., None] < _UNIFORM_RANGE
    count = np.where(below, u + 1, 0).max(axis=-1)
    return np.where(field >= LOWEST_FIELD, np.minimum(count, 2**24) / 2.0**24, 0.0)


def transpose_bits_reference(words: NDArray[np.uint32], n_bits: int) -> NDArray[np.uint32]:
    """Bits (rows, n_bits) as (n_bits, rows), packed along the second axis."""
    return pack_bits(np.ascontiguousarray(unpack_bits(words, n_bits).T))


def _exp_minus(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """e^-y for float32 y with abs(y) <= 87."""
    t = y * _MINUS_LOG2_E
    rounded = t + _ROUNDER
    f = t - (rounded - _ROUNDER)
    power: NDArray[Any] = f * _EXP2[0] + _EXP2[1]
    for coefficient in (*_EXP2[2:], _ONE):
        power = f * power + coefficient
    bits = power.view(np.uint32) + (rounded.view(np.uint32) << np.uint32(_MANTISSA_BITS))
    return bits.view(np.float32)
