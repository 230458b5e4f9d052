"""Sweeps of Ising lattices on the GPU against whole spins in numpy."""

import numpy as np
import pytest
import torch

from kernels import Purpose, lattice_cpu, random_words, unpack_bits
from kernels.cuda_compile import ARCHITECTURES, machine_code
from kernels.cuda_lattice import count_totals, sweep
from kernels.cuda_launch import missing
from kernels.lattice import IsingLattice, count, initial_state
from kernels.lattice import sweep as lattice_sweep
from kernels.reference_lattice import (
    pack_lattice_reference,
    sweep_reference,
    totals_reference,
    unpack_lattice_reference,
)

SEED = 0xFEDC_BA98_7654_3210

# Rows, columns and slices: one word (its own neighbour), carries into other words, 4 words to a
# thread in one and in several blocks, a last block that is not full, slices that are neighbours twice.
FORMS = {
    "plain": {"coupling": 0.4406868},
    "antiferromagnet": {"coupling": -0.7},
    "strong": {"coupling": 9.0},
    "strong antiferromagnet": {"coupling": -9.0},
    "free": {"coupling": 0.0},
    "field": {"coupling": 0.3, "field": -0.21},
    "strong field": {"coupling": 0.3, "field": 20.0},
    "time": {"coupling": 0.2, "time_coupling": 0.5},
    "time antiferromagnet": {"coupling": -0.3, "time_coupling": -0.1},
    "strong time": {"coupling": 9.0, "time_coupling": 20.0},
    "time and field": {"coupling": 0.2, "time_coupling": 0.5, "field": 0.1},
    "all strong": {"coupling": -9.0, "time_coupling": 20.0, "field": 3.0},
}


def start(lattice, seed=0):
    """Random spins, a third of them up."""
    shape = (lattice.n_slices, lattice.n_rows, lattice.n_columns)
    return np.where(np.random.default_rng(seed).random(shape) < 1 / 3, 1, -1)


def after(launcher, on, lattice, spins, n_sweeps=1, first_sweep=0, words_per_thread=None):
    black, white = map(on, pack_lattice_reference(spins))
    sweep(
        *(launcher, black, white, lattice.thresholds()),
        seed=SEED,
        n_sweeps=n_sweeps,
        first_sweep=first_sweep,
        words_per_thread=words_per_thread,
    )
    return unpack_lattice_reference(*(c.cpu().numpy().view(np.uint32) for c in (black, white)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_words", [1, 4])
def test_sweeps_equal_whole_spins(launcher, on, form, n_words):
    n_slices = 2 if "time_coupling" in FORMS[form] else 1
    lattice = IsingLattice(n_rows=4, n_columns=64 * n_words, n_slices=n_slices, **FORMS[form])
    spins = start(lattice)
    expected = sweep_reference(lattice, spins, seed=SEED, sweep=7)
    assert np.array_equal(after(launcher, on, lattice, spins, first_sweep=7), expected)
    assert not np.array_equal(expected, spins)


@pytest.mark.parametrize(
    ("n_slices", "n_rows", "n_columns"), [(1, 2, 192), (3, 6, 320), (1, 264, 64), (1, 34, 2048)]
)
def test_slices_without_coupling_are_lattices(launcher, on, n_slices, n_rows, n_columns):
    lattice = IsingLattice(n_rows=n_rows, n_columns=n_columns, n_slices=n_slices, coupling=0.44)
    spins = start(lattice)
    expected = sweep_reference(lattice, spins, seed=SEED, sweep=0)
    assert np.array_equal(after(launcher, on, lattice, spins), expected)


@pytest.mark.parametrize(
    ("n_slices", "n_rows", "n_columns"), [(4, 6, 128), (6, 2, 256), (2, 66, 256)]
)
def test_slices_in_time(launcher, on, n_slices, n_rows, n_columns):
    lattice = IsingLattice(
        **{"n_rows": n_rows, "n_columns": n_columns, "n_slices": n_slices},
        **{"coupling": 0.15, "time_coupling": 0.8},
    )
    spins = start(lattice)
    expected = sweep_reference(lattice, spins, seed=SEED, sweep=0)
    assert np.array_equal(after(launcher, on, lattice, spins), expected)


@pytest.mark.parametrize("form", ["plain", "field", "time", "time and field"])
def test_words_of_a_thread_do_not_matter(launcher, on, form):
    lattice = IsingLattice(n_rows=10, n_columns=512, n_slices=2, **FORMS[form])
    by_4, by_1 = (
        after(launcher, on, lattice, start(lattice), 3, words_per_thread=n) for n in (4, 1)
    )
    assert np.array_equal(by_4, by_1)


def test_sweeps_can_be_split(launcher, on):
    lattice = IsingLattice(n_rows=8, n_columns=256, coupling=0.4)
    spins = start(lattice)
    together = after(launcher, on, lattice, spins, 5, first_sweep=2)
    first = after(launcher, on, lattice, spins, 2, first_sweep=2)
    assert np.array_equal(after(launcher, on, lattice, first, 3, first_sweep=4), together)


ALL_ONES = 24272, 3, 21
"""Sweep, word and bit of a black spin whose u is 2**24 - 1, with this seed and 8 words."""


def one_level(level, is_symmetric, in_time, neighbours_up):
    """Thresholds that are `level` for spins whose neighbours are all up, or all down."""
    if not is_symmetric:
        return ((level,) * 5,) * (3 if in_time else 1)
    rows = [[2**23] * 5 for _ in range(3 if in_time else 1)]
    rows[-1][4] = level if neighbours_up else 2**24 - level
    rows[0][0] = 2**24 - rows[-1][4]
    return tuple(map(tuple, rows))


@pytest.mark.parametrize("level", ["u", "u + 1", 0, 2**24 - 1, 2**24])
@pytest.mark.parametrize("in_time", [False, True])
@pytest.mark.parametrize(("is_symmetric", "up"), [(False, False), (True, False), (True, True)])
def test_a_spin_goes_up_iff_u_is_below_its_threshold(
    launcher, on, level, is_symmetric, in_time, up
):
    number, word, bit = ALL_ONES
    words = random_words(SEED, Purpose.GIBBS_VISIBLE, 24, rows=np.arange(8), step=number)
    u = (unpack_bits(words, 768).reshape(8, 24, 32) * 2 ** np.arange(23, -1, -1)[:, None]).sum(1)
    assert u[word, bit] == 2**24 - 1
    if isinstance(level, str):
        level = int(u[5, 17]) + (level == "u + 1")
    thresholds = one_level(level, is_symmetric, in_time, up)
    start = torch.full((2, 2 if in_time else 1, 2, 4), -1 if up else 0, dtype=torch.int32)
    for n in (1, 4):
        black, white = map(on, start.clone())
        sweep(launcher, black, white, thresholds, seed=SEED, first_sweep=number, words_per_thread=n)
        found = unpack_bits(black[0].cpu().numpy().view(np.uint32).reshape(8, 1), 32)
        assert np.array_equal(found, u < level)
    twins = start.clone()
    lattice_cpu.sweep(*twins, thresholds, seed=SEED, n_sweeps=1, first_sweep=number)
    assert torch.equal(twins[0], black.cpu())
    assert torch.equal(twins[1], white.cpu())


def test_words_not_aligned_for_four_are_taken_one_by_one(launcher, on):
    lattice = IsingLattice(n_rows=2, n_columns=256, coupling=0.4)
    spins = start(lattice)
    colours = [
        on(np.concatenate([np.zeros(1, np.uint32), c.ravel()]))[1:].view(1, 2, 4)
        for c in pack_lattice_reference(spins)
    ]
    sweep(launcher, *colours, lattice.thresholds(), seed=SEED)
    found = unpack_lattice_reference(*(c.cpu().numpy().view(np.uint32) for c in colours))
    assert np.array_equal(found, sweep_reference(lattice, spins, seed=SEED, sweep=0))
    with pytest.raises(ValueError, match="aligned to 16 bytes"):
        sweep(launcher, *colours, lattice.thresholds(), seed=SEED, words_per_thread=4)


@pytest.mark.parametrize(
    ("n_slices", "n_rows", "n_columns"), [(1, 2, 64), (4, 6, 192), (2, 140, 128), (3, 4, 64)]
)
def test_totals_are_those_of_whole_spins(launcher, on, n_slices, n_rows, n_columns):
    coupling = 0.0 if n_slices % 2 else 0.7
    lattice = IsingLattice(
        **{"n_rows": n_rows, "n_columns": n_columns, "n_slices": n_slices},
        **{"coupling": 0.1, "time_coupling": coupling},
    )
    spins = start(lattice)
    in_time = lattice.is_coupled_in_time
    up, unlike, unlike_time = (
        count_totals(launcher, *map(on, pack_lattice_reference(spins)), in_time=in_time)
        .cpu()
        .numpy()
    )
    total, bonds, time_bonds = totals_reference(spins)
    assert np.array_equal(2 * up - lattice.n_sites, total)
    assert np.array_equal(2 * lattice.n_sites - 2 * unlike, bonds)
    assert np.array_equal(unlike_time, (lattice.n_sites - time_bonds) // 2 * in_time)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture):
    registers = {  # of 65536 for as many blocks of 256 threads as the kernel asks for
        **{"lattice_symmetric_4": 64, "lattice_symmetric_1": 64, "lattice_field_4": 80},
        **{"lattice_field_1": 64, "lattice_time_symmetric_4": 128, "lattice_time_symmetric_1": 128},
        **{"lattice_time_field_4": 128, "lattice_time_field_1": 128, "lattice_totals": 64},
    }
    found = machine_code("lattice", architecture)
    assert set(found) == set(registers)
    for kernel, code in found.items():
        assert code.stack_bytes == 0
        assert code.count("CALL") == 0
        assert code.n_registers <= registers[kernel]
        if kernel == "lattice_totals":
            continue
        if kernel.endswith("_4"):
            assert code.count("LDG.E.128") >= 3
            assert code.count("STG.E.128") == 1
        assert code.count("LOP3") > code.count("IMAD.WIDE.U32") > 0
    # 4 words: 2 blocks of Philox and comparisons for all, 1 for each; products have no additions.
    assert found["lattice_symmetric_4"].count("LOP3") < 500
    assert found["lattice_symmetric_4"].count("IMAD.WIDE.U32") < 220
    assert found["lattice_symmetric_4"].count("VIADD") < 40


def test_what_are_no_colours_is_refused(launcher, on):
    black, white = map(on, np.zeros((2, 3, 2, 4), np.uint32))
    plain = ((2**23,) * 5,)
    with pytest.raises(ValueError, match="expected one shape"):
        sweep(launcher, black, white[:, :1], plain, seed=SEED)
    with pytest.raises(ValueError, match="expected an even number of slices"):
        sweep(launcher, black, white, plain * 3, seed=SEED)


@pytest.mark.gpu
def test_a_state_on_a_gpu_is_that_of_the_cpu():
    if missing() is not None:
        pytest.skip(str(missing()))
    lattice = IsingLattice(n_rows=66, n_columns=256, n_slices=2, coupling=0.2, time_coupling=0.4)
    states = [
        lattice_sweep(lattice, initial_state(lattice, seed=SEED, device=device), 3, seed=SEED)
        for device in ("cpu", "cuda")
    ]
    assert all(torch.equal(a, b.cpu()) for a, b in zip(*states, strict=True))
    totals = [count(lattice, state) for state in states]
    assert all(np.array_equal(a, b) for a, b in zip(*totals, strict=True))
