"""Sweeps of Ising lattices: bit by bit against whole spins, and against exact sums of physics."""

import itertools
import math

import numpy as np
import pytest
import torch

from kernels.lattice import (
    IsingLattice,
    LatticeState,
    count,
    energy_per_spin,
    initial_state,
    magnetisation,
    neighbour_correlation,
    sweep,
    transverse_field,
    transverse_magnetisation,
)
from kernels.reference_lattice import (
    pack_lattice_reference,
    sweep_reference,
    totals_reference,
    unpack_lattice_reference,
)

SEED = 20


def whole(state):
    return unpack_lattice_reference(*(colour.numpy().view(np.uint32) for colour in state))


def packed(spins):
    return LatticeState(
        *(torch.from_numpy(c.view(np.int32)) for c in pack_lattice_reference(spins))
    )


LATTICES = [
    IsingLattice(n_rows=2, n_columns=64, coupling=0.44),
    IsingLattice(n_rows=6, n_columns=192, coupling=-0.3, field=0.4),
    IsingLattice(n_rows=4, n_columns=128, coupling=12.0, n_slices=3),
    IsingLattice(n_rows=4, n_columns=128, coupling=12.0, field=-60.0),
    IsingLattice(n_rows=2, n_columns=128, coupling=0.2, n_slices=2, time_coupling=0.6),
    IsingLattice(n_rows=6, n_columns=64, coupling=0.2, n_slices=4, time_coupling=-0.6, field=0.1),
    IsingLattice(n_rows=2, n_columns=256, coupling=-9.0, n_slices=4, time_coupling=20.0),
]


@pytest.mark.parametrize("lattice", LATTICES, ids=range(len(LATTICES)))
def test_words_equal_whole_spins(lattice):
    state = initial_state(lattice, seed=SEED)
    spins = whole(state)
    assert all(map(torch.equal, packed(spins), state))
    for number in range(3, 6):
        state = sweep(lattice, state, seed=SEED, first_sweep=number)
        spins = sweep_reference(lattice, spins, seed=SEED, sweep=number)
        assert np.array_equal(whole(state), spins)
        totals, expected = count(lattice, state), totals_reference(spins)
        assert np.array_equal(totals.spins, expected[0])
        assert np.array_equal(totals.bonds, expected[1])
        assert np.array_equal(totals.time_bonds, expected[2] * lattice.is_coupled_in_time)


def test_sweeps_can_be_split_and_leave_their_argument():
    lattice = LATTICES[5]
    start = initial_state(lattice, seed=SEED)
    before = [colour.clone() for colour in start]
    together = sweep(lattice, start, 5, seed=SEED)
    apart = sweep(lattice, sweep(lattice, start, 2, seed=SEED), 3, seed=SEED, first_sweep=2)
    assert all(map(torch.equal, together, apart))
    assert all(map(torch.equal, start, before))


def test_a_lattice_starts_at_random():
    lattice = IsingLattice(n_rows=64, n_columns=256, coupling=0.0, n_slices=2)
    state = initial_state(lattice, seed=SEED)
    spins = whole(state)
    assert abs(spins.mean()) < 4 / math.sqrt(spins.size)
    assert abs((spins[0] * spins[1]).mean()) < 4 / math.sqrt(spins[0].size)
    assert not torch.equal(initial_state(lattice, seed=SEED + 1).black, state.black)


def test_thresholds_are_sigmoids():
    plain = IsingLattice(n_rows=2, n_columns=64, coupling=0.5, field=0.25)
    p = [1 / (1 + math.exp(-2 * (0.5 * s + 0.25))) for s in (-4, -2, 0, 2, 4)]
    assert plain.thresholds() == (tuple(round(x * 2**24) for x in p),)
    free = IsingLattice(n_rows=2, n_columns=64, coupling=0.0)
    assert free.thresholds() == ((2**23,) * 5,)
    strong = IsingLattice(n_rows=2, n_columns=64, coupling=1e3, n_slices=2, time_coupling=1e4)
    assert strong.thresholds() == ((0,) * 5, (0, 0, 2**23, 2**24, 2**24), (2**24,) * 5)


def replicated(lattice, *, n_burn, n_measured, observables):
    """Means of observables and their standard errors over independent lattices.

    Each of the slices is a lattice of its own, so that the means over the sweeps of each are
    independent: their spread is the error whatever the correlation between sweeps.
    """
    assert not lattice.is_coupled_in_time
    state = sweep(lattice, initial_state(lattice, seed=SEED), n_burn, seed=SEED)
    sums = np.zeros((2, lattice.n_slices))
    for number in range(n_burn, n_burn + n_measured):
        state = sweep(lattice, state, seed=SEED, first_sweep=number)
        totals = count(lattice, state)
        sums += totals.spins, totals.bonds
    means = observables(*(sums / (n_measured * lattice.n_sites)))
    return means.mean(axis=-1), means.std(axis=-1, ddof=1) / math.sqrt(lattice.n_slices)


def transfer_matrix(n, coupling, field, weight_between):
    """T[a, b] of columns of n spins; half of each column's own weight on either side."""
    columns = np.array(list(itertools.product((1, -1), repeat=n)))
    own = weight_between(columns) + field * columns.sum(axis=1)
    return columns, np.exp(own[:, None] / 2 + own[None, :] / 2 + coupling * columns @ columns.T)


def normalised_power(matrix, length):
    """T^length, its largest eigenvalue brought to 1."""
    return np.linalg.matrix_power(matrix / np.linalg.eigvalsh(matrix)[-1], length)


def exact_mean(power, diagonal):
    """Trace of power times a diagonal matrix, over the trace of power."""
    return float((np.diag(power) * diagonal).sum() / np.trace(power))


def mean_of_bonds_along_the_row(matrix, length, columns):
    """Mean of s s' of sites in columns next to each other."""
    rest = normalised_power(matrix, length - 1)
    pairs = rest.T * matrix / (rest.T * matrix).sum()
    return float((pairs * (columns @ columns.T)).sum()) / columns.shape[1]


@pytest.mark.parametrize(
    ("coupling", "field"), [(0.3, 0.0), (0.45, 0.0), (-0.4, 0.3), (0.25, 0.15)]
)
def test_energy_is_that_of_the_transfer_matrix(coupling, field):
    lattice = IsingLattice(n_rows=4, n_columns=64, coupling=coupling, field=field, n_slices=128)

    def ring(columns):
        return coupling * (columns * np.roll(columns, 1, axis=1)).sum(axis=1)

    columns, matrix = transfer_matrix(4, coupling, field, ring)
    power = normalised_power(matrix, 64)
    spins = exact_mean(power, columns.mean(axis=1))
    vertical = exact_mean(power, (columns * np.roll(columns, 1, axis=1)).mean(axis=1))
    horizontal = mean_of_bonds_along_the_row(matrix, 64, columns)
    expected = -coupling * (vertical + horizontal) - field * spins

    (energy, mean), (energy_error, mean_error) = replicated(
        lattice,
        n_burn=50,
        n_measured=60,
        observables=lambda s, bonds: np.stack([-coupling * bonds - field * s, s]),
    )
    assert energy_error < 0.004
    assert abs(energy - expected) < 4 * energy_error
    assert abs(mean - spins) < 4 * mean_error


def test_without_coupling_spins_follow_the_field():
    lattice = IsingLattice(n_rows=64, n_columns=1024, coupling=0.0, field=0.3)
    state = sweep(lattice, initial_state(lattice, seed=SEED), seed=SEED)
    totals = count(lattice, state)
    mean = math.tanh(0.3)
    error = math.sqrt((1 - mean**2) / lattice.n_sites)
    assert abs(magnetisation(lattice, totals) - mean) < 4 * error
    # Products of independent spins: each bond varies by 1 - mean^4 and shares spins with 6 others.
    bond_error = math.sqrt((1 - mean**4 + 6 * mean**2 * (1 - mean**2)) / (2 * lattice.n_sites))
    assert abs(neighbour_correlation(lattice, totals) - mean**2) < 4 * bond_error


def test_a_large_field_leaves_no_spin_down():
    lattice = IsingLattice(n_rows=64, n_columns=256, coupling=0.4, field=30.0)
    totals = count(lattice, sweep(lattice, initial_state(lattice, seed=SEED), seed=SEED))
    assert magnetisation(lattice, totals) == 1.0
    assert energy_per_spin(lattice, totals) == pytest.approx(-30.8)


def test_neighbour_bonds_of_the_ground_state():
    lattice = IsingLattice(n_rows=4, n_columns=64, coupling=-50.0, n_slices=2, time_coupling=50.0)
    rows, columns = np.ogrid[:4, :64]
    spins = np.broadcast_to(1 - 2 * ((rows + columns) % 2), (2, 4, 64))
    state = sweep(lattice, packed(spins), 3, seed=SEED)
    totals = count(lattice, state)
    assert np.array_equal(whole(state), spins)
    assert neighbour_correlation(lattice, totals) == -1.0
    assert energy_per_spin(lattice, totals) == -150.0


def path_integral_means(lattice, n_burn, n_measured, n_parts):
    """Means of (<Z>, <ZZ>, <X>) in n_parts parts of a run, each much longer than its memory."""
    state = sweep(lattice, initial_state(lattice, seed=SEED), n_burn, seed=SEED)
    values = np.zeros((n_parts, 3))
    for i in range(n_measured):
        state = sweep(lattice, state, seed=SEED, first_sweep=n_burn + i)
        totals = count(lattice, state)
        values[i * n_parts // n_measured] += [
            magnetisation(lattice, totals),
            neighbour_correlation(lattice, totals),
            transverse_magnetisation(lattice, totals),
        ]
    values /= n_measured / n_parts
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(n_parts)


def test_free_spins_in_a_transverse_field():
    beta, transverse = 1.2, 0.9
    lattice = transverse_field(
        n_rows=16, n_columns=64, n_slices=8, beta=beta, coupling=0.0, transverse=transverse
    )
    (z, zz, x), errors = path_integral_means(lattice, 20, 200, 10)
    # Sites are independent and each forgets within a few sweeps; parts are 20 sweeps long.
    assert errors[2] < 0.01
    assert abs(x - math.tanh(beta * transverse)) < 4 * errors[2]
    assert abs(z) < 4 * errors[0]
    assert abs(zz) < 4 * errors[1]


def test_a_strong_transverse_field_aligns_x():
    lattice = transverse_field(
        n_rows=32, n_columns=64, n_slices=4, beta=1.0, coupling=0.1, transverse=12.0
    )
    totals = count(lattice, sweep(lattice, initial_state(lattice, seed=SEED), 20, seed=SEED))
    assert transverse_magnetisation(lattice, totals) == pytest.approx(1.0, abs=1e-3)


def test_path_integral_is_the_exact_sum():
    """Two long rows in 4 slices: a transfer matrix of 2^8 states along the row."""
    n_rows, n_slices = 2, 4
    lattice = transverse_field(
        **{"n_rows": n_rows, "n_columns": 512, "n_slices": n_slices, "beta": 1.0},
        **{"coupling": 0.25, "transverse": 1.6, "field": 0.2},
    )

    def bonds(columns):
        grid = columns.reshape(-1, n_rows, n_slices)
        in_slice = 2 * (grid[:, 0] * grid[:, 1]).sum(axis=1)  # two rows are bound twice
        in_time = (grid * np.roll(grid, 1, axis=2)).sum(axis=(1, 2))
        return in_slice, in_time

    def weight(columns):
        in_slice, in_time = bonds(columns)
        return lattice.coupling * in_slice + lattice.time_coupling * in_time

    columns, matrix = transfer_matrix(n_rows * n_slices, lattice.coupling, lattice.field, weight)
    in_slice, in_time = bonds(columns)
    power = normalised_power(matrix, 512)
    n_spins = n_rows * n_slices
    z = exact_mean(power, columns.mean(axis=1))
    vertical = exact_mean(power, in_slice / n_spins)
    zz = (vertical + mean_of_bonds_along_the_row(matrix, 512, columns)) / 2
    mean = exact_mean(power, in_time / n_spins)
    tanh = math.tanh(1.6 / n_slices)
    x = (1 + mean) / 2 * tanh + (1 - mean) / 2 / tanh

    found, errors = path_integral_means(lattice, 40, 400, 10)
    # The slowest, <Z>, forgets within 5 sweeps; parts are 40 sweeps long.
    assert (errors < [0.005, 0.002, 0.002]).all()
    assert (abs(found - [z, zz, x]) < 4 * errors).all()


def test_time_coupling_is_that_of_suzuki_and_trotter():
    lattice = transverse_field(
        n_rows=2, n_columns=64, n_slices=8, beta=2.0, coupling=0.5, transverse=1.5, field=-0.3
    )
    assert lattice.coupling == pytest.approx(0.125)
    assert lattice.field == pytest.approx(-0.075)
    assert lattice.time_coupling == pytest.approx(-0.5 * math.log(math.tanh(0.375)))
    strong = transverse_field(
        n_rows=2, n_columns=64, n_slices=2, beta=1.0, coupling=0.5, transverse=40.0
    )
    assert strong.time_coupling == pytest.approx(math.exp(-40), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rows": 3}, "n_rows: expected an even number"),
        ({"n_columns": 96}, "n_columns: expected a multiple of 64"),
        ({"n_slices": 0}, "n_slices: expected 1 to 65535"),
        ({"n_slices": 3, "time_coupling": 0.1}, "n_slices: expected an even number"),
        ({"coupling": math.nan}, "coupling: expected a finite number"),
    ],
)
def test_what_is_no_lattice_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        IsingLattice(**{"n_rows": 4, "n_columns": 64, "coupling": 1.0} | change)


def test_wrong_arguments_are_refused():
    lattice = LATTICES[0]
    state = initial_state(lattice, seed=SEED)
    with pytest.raises(ValueError, match=r"black: expected int32 words of shape \(1, 6, 3\)"):
        sweep(LATTICES[1], state, seed=SEED)
    with pytest.raises(ValueError, match="step: expected"):
        sweep(lattice, state, 2, seed=SEED, first_sweep=2**32 - 1)
    with pytest.raises(ValueError, match="lattice: expected a time coupling"):
        transverse_magnetisation(lattice, count(lattice, state))
    with pytest.raises(ValueError, match="transverse: expected beta"):
        transverse_field(n_rows=2, n_columns=64, n_slices=2, beta=1.0, coupling=0.5, transverse=0.0)
