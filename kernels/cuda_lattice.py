"""Sweeps of Ising lattices on the GPU: tables of masks and launches for ``cuda/lattice.cu``.

Colours are int32 tensors of words, shape (n_slices, n_rows, n_columns / 64). :mod:`kernels.lattice`
says what the bits are and which random numbers a spin gets; its numpy twin gives the same states.
"""

from functools import lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.cuda_launch import Launcher

Thresholds: TypeAlias = tuple[tuple[int, ...], ...]
"""[n_time][n]: a spin with n of 4 neighbours up goes up iff a 24-bit u < threshold <= 2**24.

One row, or three: for n_time = 0, 1, 2 neighbours up in imaginary time.
"""

THRESHOLD_BITS: Final = 24

_THREADS: Final = 256
_MAX_TOTALS_BLOCKS: Final = 256
"""Of a slice: about two for each multiprocessor, so that there are few atomic additions."""
_PAIRS: Final = {
    1: ((0, 0), (0, 1)),
    3: ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (0, 2)),
}
"""Rows of thresholds -> lower class (n_time, n) of each pair of classes, in the kernel's order."""


def sweep(
    launcher: Launcher,
    black: Tensor,
    white: Tensor,
    thresholds: Thresholds,
    *,
    seed: int,
    n_sweeps: int = 1,
    first_sweep: int = 0,
    words_per_thread: Literal[1, 4] | None = None,
) -> None:
    """Update all spins ``n_sweeps`` times by heat bath, in place: two launches per sweep.

    Nothing is waited for. A sweep is 64 black.numel() updates of a spin, also called flips.

    Parameters
    ----------
    launcher
        Where the tensors are.
    black, white
        The colours 0 and 1, shape (n_slices, n_rows, n_words), int32, contiguous.
    thresholds
        :meth:`kernels.lattice.IsingLattice.thresholds`. With three rows slices are coupled to the
        slices before and after, with one row they are lattices of their own.
    seed
        64-bit.
    first_sweep
        Number of the first sweep, for the random numbers.
    words_per_thread
        4 reads and writes 16 bytes at a time, for which n_words is a multiple of 4; None: 4 where
        possible. The states are the same.

    Raises
    ------
    ValueError
        If the tensors are not the two colours of a lattice, or not made for ``words_per_thread``.
    """
    _check_colours(black, white, needs_even=len(thresholds) == 3)
    n_slices, n_rows, n_words = black.shape
    in_fours = all(n % 4 == 0 for n in (n_words, black.data_ptr() // 4, white.data_ptr() // 4))
    words = words_per_thread or (4 if in_fours else 1)
    if words == 4 and not in_fours:
        raise ValueError(
            f"words_per_thread: expected 1 for {n_words} words per row or tensors that are not "
            "aligned to 16 bytes, got 4"
        )
    form = "symmetric" if _is_symmetric(thresholds) else "field"
    kernel = f"lattice_{'time_' if len(thresholds) == 3 else ''}{form}_{words}"
    table = _table(thresholds, black.device)
    grid = (-(-n_rows * n_words // (words * _THREADS)), n_slices)
    for number in range(first_sweep, first_sweep + n_sweeps):
        for colour, (own, other) in enumerate(((black, white), (white, black))):
            launcher.launch(
                *("lattice", kernel, grid, other, own, n_slices, n_rows, n_words, table),
                *(seed, number, colour),
                shared_bytes=4 * table.numel(),
            )


def count_totals(launcher: Launcher, black: Tensor, white: Tensor, *, in_time: bool) -> Tensor:
    """Count spins and bonds of each slice, exactly.

    Returns
    -------
    Tensor
        Shape (3, n_slices), int64: spins up; of the 2 n_rows n_columns bonds within the slice those
        whose ends differ; of the bonds to the next slice those whose ends differ, 0 if not
        ``in_time``.
    """
    _check_colours(black, white, needs_even=in_time)
    n_slices, n_rows, n_words = black.shape
    totals = black.new_zeros((3, n_slices), dtype=torch.int64)
    blocks = min(-(-n_rows * n_words // _THREADS), _MAX_TOTALS_BLOCKS)
    launcher.launch(
        *("lattice", "lattice_totals", (blocks, n_slices)),
        *(black, white, n_slices, n_rows, n_words, int(in_time), totals),
    )
    return totals


def _check_colours(black: Tensor, white: Tensor, *, needs_even: bool) -> None:
    shape = tuple(black.shape)
    if len(shape) != 3 or shape != tuple(white.shape) or shape[1] % 2 or not black.numel():
        raise ValueError(
            "black, white: expected one shape (n_slices, n_rows, n_words) with even n_rows, got "
            f"{shape} and {tuple(white.shape)}"
        )
    if needs_even and shape[0] % 2:
        raise ValueError(
            f"black: expected an even number of slices coupled in time, got {shape[0]}; thresholds "
            "of one row do not couple them"
        )


def _is_symmetric(thresholds: Thresholds) -> bool:
    """Whether exchanging up and down changes nothing."""
    mirrored = (row[::-1] for row in thresholds[::-1])
    return all(
        a + b == 1 << THRESHOLD_BITS
        for row, other in zip(thresholds, mirrored, strict=True)
        for a, b in zip(row, other, strict=True)
    )


@lru_cache(maxsize=64)
def _table(thresholds: Thresholds, device: torch.device) -> Tensor:
    """Masks of the bits of the thresholds as the kernels read them, one line per bit."""
    t = np.array(thresholds, dtype=np.int64)
    least = np.minimum(t, (1 << THRESHOLD_BITS) - 1)
    shifts = np.arange(THRESHOLD_BITS - 1, -1, -1)[:, None, None]
    bits = np.concatenate([least >> shifts & 1, (t > least)[None]])  # (25, 1 or 3, 5)
    if _is_symmetric(thresholds):
        rows, columns = zip(*_PAIRS[len(thresholds)], strict=True)
        bits = bits[:, rows, columns]
    else:
        bits = _coefficients(_coefficients(bits).swapaxes(1, 2)).swapaxes(1, 2)
        bits = bits.reshape(len(bits), -1)
    width = 2 if bits.shape[1] == 2 else -(-bits.shape[1] // 4) * 4
    masks = np.zeros((len(bits), width), np.int32)
    masks[:, : bits.shape[1]] = -bits
    return torch.from_numpy(masks).to(device)


def _coefficients(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values for n = 0, 1, ... on the last axis -> coefficients modulo 2 of the planes of n.

    For n of 4 with n = low + 2 middle + 4 high: of 1, low, middle, low middle, high. For n of 2: of
    1, odd, both. Of a single value: itself.
    """
    result = values ^ values[..., :1]
    result[..., 0] = values[..., 0]
    if values.shape[-1] == 5:  # at n = 3 low, middle and their product are 1
        result[..., 3] ^= result[..., 1] ^ result[..., 2]
    return result
