"""Ising lattices and path integrals of the transverse-field Ising model, one bit per spin.

Bit 1 is spin +1. Sites (slice, row, column), periodic all around, are of two colours: black, 0, if
slice + row + column is even, else white, 1. A colour is an int32 tensor of words, shape (n_slices,
n_rows, n_columns / 64): bit r of word j of a row is the row's site number 32 j + r of that colour.
A sweep draws all black spins given the white ones, then all white spins given the black ones.

Random numbers (:mod:`kernels.philox`): a spin goes up iff u < threshold, both of 24 bits. Bit
23 - e of u, for the 32 spins of word w = n_words row + j at once, is element e of the stream of
purpose GIBBS_VISIBLE with row w, step = number of the sweep, index = 2 slice + colour. A lattice
starts with purpose INITIAL_CHAINS, row = lattice row, step 0, the same index, element = word j.
Everything is in integers from there on: states are the same on every device.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import cuda_lattice, lattice_cpu
from kernels.cuda_lattice import THRESHOLD_BITS, Thresholds
from kernels.cuda_launch import launcher_for
from kernels.philox import Purpose, check_address, random_words

COLUMN_MULTIPLE: Final = 64
"""Columns come in multiples of this: a word of each colour."""

MAX_SLICES: Final = 65535
"""A dimension of the launch; the stream's index would hold 2**23."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IsingLattice:
    r"""Classical spins s = +1, -1 with the weight :math:`e^{-E}`.

    .. math:: E = -K \sum_{\text{in slice}} s s' - K_\perp \sum_{\text{in time}} s s' - h \sum s
    """

    n_rows: int
    """Even. Two rows are bound twice, periodically, and so are two slices."""
    n_columns: int
    """A multiple of 64."""
    coupling: float
    """K, of nearest neighbours in rows and columns; with the inverse temperature in it."""
    field: float = 0.0
    """h, on every spin."""
    n_slices: int = 1
    """P; without a time coupling slices are independent lattices."""
    time_coupling: float = 0.0
    """Of sites of neighbouring slices; needs an even number of slices."""

    def __post_init__(self) -> None:
        if self.n_rows < 2 or self.n_rows % 2:
            raise ValueError(f"n_rows: expected an even number of rows, got {self.n_rows}")
        if self.n_columns < 1 or self.n_columns % COLUMN_MULTIPLE:
            raise ValueError(
                f"n_columns: expected a multiple of {COLUMN_MULTIPLE}, got {self.n_columns}"
            )
        if not 1 <= self.n_slices <= MAX_SLICES:
            raise ValueError(f"n_slices: expected 1 to {MAX_SLICES}, got {self.n_slices}")
        if self.time_coupling != 0 and self.n_slices % 2:
            raise ValueError(
                "n_slices: expected an even number, which colours need across the period of "
                f"imaginary time, got {self.n_slices}"
            )
        if self.n_sites >= 1 << 37:  # the kernels count the words of a slice with 31 bits
            raise ValueError(f"n_rows: expected under 2**37 sites of a slice, got {self.n_sites}")
        for name in ("coupling", "field", "time_coupling"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number, got {getattr(self, name)}")

    @property
    def n_words(self) -> int:
        """Words of a row of one colour."""
        return self.n_columns // COLUMN_MULTIPLE

    @property
    def n_sites(self) -> int:
        """Spins of a slice."""
        return self.n_rows * self.n_columns

    @property
    def is_coupled_in_time(self) -> bool:
        """Whether slices know of each other."""
        return self.time_coupling != 0

    def thresholds(self) -> Thresholds:
        """2**24 p(up), rounded, for each count of neighbours up: three rows if coupled in time."""
        in_time = (-2, 0, 2) if self.is_coupled_in_time else (0,)
        return tuple(
            tuple(
                _threshold(2 * (self.coupling * s + self.time_coupling * s_time + self.field))
                for s in (-4, -2, 0, 2, 4)
            )
            for s_time in in_time
        )


class LatticeState(NamedTuple):
    """The spins of a lattice."""

    black: Tensor
    """Shape (n_slices, n_rows, n_columns / 64), int32."""
    white: Tensor


class LatticeTotals(NamedTuple):
    """Sums over the spins of each slice; exact."""

    spins: NDArray[np.int64]
    """Sum of s, shape (n_slices,)."""
    bonds: NDArray[np.int64]
    """Sum of s s' over the 2 n_sites bonds within the slice."""
    time_bonds: NDArray[np.int64]
    """Sum of s s' over the n_sites bonds to the next slice; 0 without time coupling."""


def transverse_field(
    *,
    n_rows: int,
    n_columns: int,
    n_slices: int,
    beta: float,
    coupling: float,
    transverse: float,
    field: float = 0.0,
) -> IsingLattice:
    r"""Path integral of the transverse-field Ising model on a periodic square lattice.

    .. math:: H = -J \sum_{\langle ij \rangle} Z_i Z_j - h \sum_i Z_i - \Gamma \sum_i X_i

    becomes P slices with K = beta J / P, field beta h / P and
    :math:`K_\perp = -\tfrac12 \log \tanh(\beta\Gamma / P)`.

    Parameters
    ----------
    n_slices
        P, even; the error of the splitting is O(1 / P**2).
    beta
        Inverse temperature.
    coupling, field
        J and h.
    transverse
        Gamma, positive.

    Raises
    ------
    ValueError
        If ``beta * transverse`` is not positive or ``n_slices`` is odd.

    References
    ----------
    .. [1] Suzuki (1976), Relationship between d-dimensional quantal spin systems and
       (d+1)-dimensional Ising systems.
    """
    if not beta * transverse > 0:
        raise ValueError(
            f"transverse: expected beta * transverse > 0, got {beta * transverse}; "
            "without a transverse field the model is an IsingLattice"
        )
    if n_slices < 2 or n_slices % 2:
        raise ValueError(f"n_slices: expected an even number, got {n_slices}")
    step = beta * transverse / n_slices
    # log tanh x = log(1 - e^-2x) - log(1 + e^-2x), which does not round to 0 for large x.
    smaller = math.exp(-2 * step)
    log_tanh = math.log(-math.expm1(-2 * step)) - math.log1p(smaller)
    return IsingLattice(
        n_rows=n_rows,
        n_columns=n_columns,
        coupling=beta * coupling / n_slices,
        field=beta * field / n_slices,
        n_slices=n_slices,
        time_coupling=-0.5 * log_tanh,
    )


def initial_state(
    lattice: IsingLattice, *, seed: int, device: torch.device | str = "cpu"
) -> LatticeState:
    """Spins up or down with probability 1/2 each, the same on every device."""
    colours = []
    for colour in (0, 1):
        slices = [
            random_words(
                *(seed, Purpose.INITIAL_CHAINS, lattice.n_words),
                rows=np.arange(lattice.n_rows),
                index=2 * k + colour,
            )
            for k in range(lattice.n_slices)
        ]
        colours.append(torch.from_numpy(np.stack(slices).view(np.int32)).to(device))
    return LatticeState(*colours)


def sweep(
    lattice: IsingLattice,
    state: LatticeState,
    n_sweeps: int = 1,
    *,
    seed: int,
    first_sweep: int = 0,
) -> LatticeState:
    """Draw every spin given its neighbours, black before white, ``n_sweeps`` times.

    Parameters
    ----------
    lattice
        The couplings.
    state
        Left as it is.
    seed
        64-bit.
    first_sweep
        Number of the first sweep: m sweeps and then n from m on are m + n sweeps.

    Returns
    -------
    LatticeState
        On the device of ``state``; the same bits on every device.

    Raises
    ------
    ValueError
        If the state is not of the lattice, or a number does not fit in the counter.
    """
    _check_state(lattice, state)
    check_address(seed, rows=0, step=first_sweep, index=0)
    check_address(seed, rows=0, step=first_sweep + max(n_sweeps, 1) - 1, index=0)
    new = LatticeState(*(colour.clone() for colour in state))
    thresholds = lattice.thresholds()
    if new.black.device.type == "cuda":
        launcher = launcher_for(new.black.device)
        cuda_lattice.sweep(
            launcher,
            *(new.black, new.white, thresholds),
            seed=seed,
            n_sweeps=n_sweeps,
            first_sweep=first_sweep,
        )
    else:
        lattice_cpu.sweep(
            *(new.black, new.white, thresholds),
            seed=seed,
            n_sweeps=n_sweeps,
            first_sweep=first_sweep,
        )
    return new


def count(lattice: IsingLattice, state: LatticeState) -> LatticeTotals:
    """Sum spins and bonds of each slice, in integers.

    Raises
    ------
    ValueError
        If the state is not of the lattice.
    """
    _check_state(lattice, state)
    in_time = lattice.is_coupled_in_time
    if state.black.device.type == "cuda":
        launcher = launcher_for(state.black.device)
        counts = cuda_lattice.count_totals(launcher, *state, in_time=in_time).cpu().numpy()
    else:
        counts = lattice_cpu.count_totals(*state, in_time=in_time)
    up, unlike, unlike_in_time = counts
    return LatticeTotals(
        spins=2 * up - lattice.n_sites,
        bonds=2 * lattice.n_sites - 2 * unlike,
        time_bonds=lattice.n_sites * int(in_time) - 2 * unlike_in_time,
    )


def energy_per_spin(lattice: IsingLattice, totals: LatticeTotals) -> float:
    """E of :class:`IsingLattice` per spin of all slices: in units of the temperature."""
    energy = (
        lattice.coupling * int(totals.bonds.sum())
        + lattice.time_coupling * int(totals.time_bonds.sum())
        + lattice.field * int(totals.spins.sum())
    )
    return -energy / (lattice.n_sites * lattice.n_slices)


def magnetisation(lattice: IsingLattice, totals: LatticeTotals) -> float:
    """Mean of s; of a path integral the estimator of <Z>."""
    return int(totals.spins.sum()) / (lattice.n_sites * lattice.n_slices)


def neighbour_correlation(lattice: IsingLattice, totals: LatticeTotals) -> float:
    """Mean of s s' over neighbours in a slice; of a path integral the estimator of <Z Z'>."""
    return int(totals.bonds.sum()) / (2 * lattice.n_sites * lattice.n_slices)


def transverse_magnetisation(lattice: IsingLattice, totals: LatticeTotals) -> float:
    r"""Estimator of <X>: mean of :math:`\tanh(\beta\Gamma / P)^{s s'}` over the bonds in time.

    Raises
    ------
    ValueError
        If the lattice is not coupled in time.
    """
    if not lattice.is_coupled_in_time:
        raise ValueError("lattice: expected a time coupling, got 0; see transverse_field")
    mean = int(totals.time_bonds.sum()) / (lattice.n_sites * lattice.n_slices)
    like, unlike = (1 + mean) / 2, (1 - mean) / 2
    tanh = math.exp(-2 * lattice.time_coupling)
    return like * tanh + unlike / tanh


def _threshold(x: float) -> int:
    """2**24 sigmoid(x), rounded."""
    small = math.exp(-abs(x))
    p = 1 / (1 + small) if x >= 0 else small / (1 + small)
    return math.floor(p * (1 << THRESHOLD_BITS) + 0.5)


def _check_state(lattice: IsingLattice, state: LatticeState) -> None:
    shape = (lattice.n_slices, lattice.n_rows, lattice.n_words)
    for name, words in zip(state._fields, state, strict=True):
        if words.dtype != torch.int32 or tuple(words.shape) != shape:
            raise ValueError(
                f"{name}: expected int32 words of shape {shape}, got {words.dtype} of shape "
                f"{tuple(words.shape)}; see initial_state"
            )
