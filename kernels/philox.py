"""Counter-based random numbers: Philox4x32-10, addressed by what a draw is for, never by when.

A draw is named by ``(seed, purpose, index, step, row, element)``; it does not depend on batch
split, worker count, device or restart. The key is ``(seed low, seed high)``; element ``e`` of a
stream is output word ``e % 4`` of the counter ``(e // 4, row, step, purpose << 24 | index)``.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_KEY_STEP_0 = 0x9E3779B9
_KEY_STEP_1 = 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """What a stream of random numbers is used for; the top byte of the fourth counter word."""

    INITIAL_WEIGHTS = 0
    INITIAL_CHAINS = 1
    GIBBS_VISIBLE = 2
    GIBBS_HIDDEN = 3
    SWAPS = 4
    DATA_ORDER = 5
    AUGMENTATION = 6
    DROPOUT = 7
    AIS_VISIBLE = 8
    AIS_HIDDEN = 9
    SEARCH = 10
    DIAGNOSTICS = 11


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32 on each row of ``counter``.

    Parameters
    ----------
    counter
        Shape (..., 4), uint32.
    key
        Two 32-bit words.

    Returns
    -------
    NDArray
        Shape (..., 4), uint32.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = c0 * _MULTIPLIER_0  # 32 x 32 bits fit in 64: no overflow
        product_1 = c2 * _MULTIPLIER_1
        c0 = (product_1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c2 = (product_0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1 = product_1 & _LOW
        c3 = product_0 & _LOW
        k0 = (k0 + _KEY_STEP_0) & 0xFFFFFFFF
        k1 = (k1 + _KEY_STEP_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_words(
    seed: int,
    purpose: Purpose,
    n_elements: int,
    *,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
) -> NDArray[np.uint32]:
    """Draw 32-bit words of one stream, one line per row.

    Parameters
    ----------
    seed
        64-bit; negative values and values of 2**64 and more are refused.
    purpose
        What the numbers are for.
    n_elements
        Elements per row, from element 0.
    rows
        Global row numbers (chain, sample, candidate), shape (n_rows,); an int means a single row.
    step
        Sweep, epoch or temperature number, 32 bits.
    index
        Parameter, layer or replica number, 24 bits.

    Returns
    -------
    NDArray
        Shape (n_rows, n_elements), uint32.

    Raises
    ------
    ValueError
        If a number does not fit in the field of the counter that it is meant for.
    """
    row_numbers = check_address(seed, rows=rows, step=step, index=index)
    n_blocks = -(-n_elements // 4)
    counter = np.empty((row_numbers.size, n_blocks, 4), dtype=np.uint32)
    counter[..., 0] = np.arange(n_blocks, dtype=np.uint32)
    counter[..., 1] = row_numbers[:, None]
    counter[..., 2] = step
    counter[..., 3] = (int(purpose) << 24) | index
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return words.reshape(row_numbers.size, 4 * n_blocks)[:, :n_elements]


def check_address(seed: int, *, rows: int | ArrayLike, step: int, index: int) -> NDArray[np.uint32]:
    """Check the numbers that name a draw; parameters and errors are those of :func:`random_words`.

    Returns
    -------
    NDArray
        The rows, shape (n_rows,), uint32.
    """
    _check_field("seed", seed, 64)
    _check_field("step", step, 32)
    _check_field("index", index, 24)
    row_numbers = np.atleast_1d(np.asarray(rows))
    if row_numbers.size and (row_numbers.min() < 0 or row_numbers.max() >= 1 << 32):
        raise ValueError(
            f"rows: expected 0 <= row < 2**32, got {row_numbers.min()} to {row_numbers.max()}"
        )
    return row_numbers.astype(np.uint32)


def uniform(
    seed: int,
    purpose: Purpose,
    n_elements: int,
    *,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
) -> NDArray[np.float32]:
    """Draw uniforms in [0, 1): ``(word >> 8) * 2**-24``, exact in float32.

    Parameters and errors are those of :func:`random_words`; shape (n_rows, n_elements).
    """
    words = random_words(seed, purpose, n_elements, rows=rows, step=step, index=index)
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def normal(
    seed: int,
    purpose: Purpose,
    n_elements: int,
    *,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
) -> NDArray[np.float32]:
    r"""Draw standard normals by Box-Muller from pairs of elements of one stream.

    .. math:: z_{2k} = \sqrt{-2 \log(1 - u_{2k})} \cos 2\pi u_{2k+1}

    and z_{2k+1} with the sine.

    Computed in float64. Parameters and errors are those of :func:`random_words`;
    shape (n_rows, n_elements).
    """
    n_pairs = -(-n_elements // 2)
    u = uniform(seed, purpose, 2 * n_pairs, rows=rows, step=step, index=index).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, 0::2]))
    angle = 2.0 * np.pi * u[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(u.shape[0], 2 * n_pairs)[:, :n_elements].astype(np.float32)


def permutation(seed: int, n_elements: int, *, epoch: int) -> NDArray[np.int64]:
    """Order in which ``n_elements`` samples are visited: a stable sort of the epoch's words.

    Returns
    -------
    NDArray
        Shape (n_elements,), int64, each of 0 ... n_elements - 1 once.
    """
    words = random_words(seed, Purpose.DATA_ORDER, n_elements, step=epoch)[0]
    return np.argsort(words, kind="stable").astype(np.int64)


def _check_field(name: str, value: int, n_bits: int) -> None:
    if not 0 <= value < 1 << n_bits:
        raise ValueError(f"{name}: expected 0 <= {name} < 2**{n_bits}, got {value}")
