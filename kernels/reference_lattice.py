"""Heat-bath sweeps of lattices of whole numbers +1 and -1, slow and obvious.

The random numbers and the colours are those of :mod:`kernels.lattice`, whose words are packed and
unpacked here row by row; sums, probabilities and uniforms are floating-point.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.lattice import IsingLattice
from kernels.packing import pack_bits, unpack_bits
from kernels.philox import Purpose, random_words

N_BITS = 24
"""Of a uniform and of a probability."""


def unpack_lattice_reference(
    black: NDArray[np.uint32], white: NDArray[np.uint32]
) -> NDArray[np.int64]:
    """Words of both colours -> spins, shape (n_slices, n_rows, n_columns), values +1 and -1."""
    n_slices, n_rows, n_words = black.shape
    spins = np.zeros((n_slices, n_rows, 64 * n_words), np.int64)
    for colour, words in enumerate((black, white)):
        for k, row in np.ndindex(n_slices, n_rows):
            bits = unpack_bits(words[k, row], 32 * n_words)
            spins[k, row, (k + row + colour) % 2 :: 2] = np.where(bits, 1, -1)
    return spins


def pack_lattice_reference(
    spins: NDArray[np.int64],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Spins -> words of the black and of the white sites."""
    n_slices, n_rows, n_columns = spins.shape
    black, white = np.zeros((2, n_slices, n_rows, n_columns // 64), np.uint32)
    for colour, words in enumerate((black, white)):
        for k, row in np.ndindex(n_slices, n_rows):
            words[k, row] = pack_bits(spins[k, row, (k + row + colour) % 2 :: 2] == 1)
    return black, white


def sweep_reference(
    lattice: IsingLattice, spins: NDArray[np.int64], *, seed: int, sweep: int
) -> NDArray[np.int64]:
    r"""One sweep: first the black sites, then the white ones go up with probability p.

    .. math:: p = \sigma(2 (K \sum s' + K_\perp \sum_{\text{time}} s' + h))

    rounded to 24 bits.
    """
    colours = np.indices(spins.shape).sum(axis=0) % 2
    for colour in (0, 1):
        in_slice = sum(np.roll(spins, shift, axis) for shift in (1, -1) for axis in (1, 2))
        in_time = np.roll(spins, 1, 0) + np.roll(spins, -1, 0)
        x = lattice.coupling * in_slice + lattice.time_coupling * in_time + lattice.field
        with np.errstate(over="ignore"):  # p is 0 then
            p = np.round(2.0**N_BITS / (1 + np.exp(-2 * x))) / 2.0**N_BITS
        u = _uniforms(spins.shape, colour, seed, sweep)
        spins = np.where(colours == colour, np.where(u < p, 1, -1), spins)
    return spins


def _uniforms(shape: tuple[int, ...], colour: int, seed: int, sweep: int) -> NDArray[np.float64]:
    """A uniform for each site of the colour, 2 for the others."""
    n_slices, n_rows, n_columns = shape
    n_words = n_columns // 64
    u = np.full(shape, 2.0)
    for k in range(n_slices):
        words = random_words(
            *(seed, Purpose.GIBBS_VISIBLE, N_BITS),
            rows=np.arange(n_rows * n_words),
            step=sweep,
            index=2 * k + colour,
        )
        bits = unpack_bits(words, 32 * N_BITS).reshape(n_rows, n_words, N_BITS, 32)
        values = (bits * 2.0 ** -np.arange(1, N_BITS + 1)[:, None]).sum(axis=2)
        for row in range(n_rows):
            u[k, row, (k + row + colour) % 2 :: 2] = values[row].ravel()
    return u


def totals_reference(spins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of s, of s s' within the slice and of s s' with the next slice; shape (3, n_slices)."""
    bonds = spins * (np.roll(spins, 1, 1) + np.roll(spins, 1, 2))
    totals: NDArray[np.int64] = np.stack([spins, bonds, spins * np.roll(spins, -1, 0)])
    return np.asarray(totals.sum(axis=(2, 3)), np.int64)
