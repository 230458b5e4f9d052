"""Annealing over every kind of unit and depth, against enumeration."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rbm import (
    RBM,
    UnreliableLogPartition,
    ais_log_partition,
    exact_log_partition,
    reverse_log_likelihood,
)
from rbm.annealing import AnnealedPath, adaptive_schedule, anneal, anneal_backwards, linear_schedule
from rbm.models.layered import LayeredMachine
from rbm.samplers import gibbs
from rbm.states import enumerate_bits
from rbm.units import BERNOULLI, GAUSSIAN, SPIN, UNITS, Units

N_SIGMA = 4.5
SIZES = {"bernoulli": 5, "spin": 5, "softmax": 6, "gaussian": 3, "joined": 4}


def machine_of(visible: Units, n_visible: int, hidden: Units = BERNOULLI) -> RBM:
    g = torch.Generator().manual_seed(7)
    draw = [
        0.6 * torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((n_visible, 4), (n_visible,), (4,))
    ]
    return RBM.from_parameters(*draw, visible_units=visible, hidden_units=hidden)


def deep_machine(*sizes: int, scale: float = 0.7) -> LayeredMachine:
    g = torch.Generator().manual_seed(9)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = [draw(a, b) for a, b in pairwise(sizes)]
    return LayeredMachine.from_layers(weights, [draw(size) for size in sizes])


def joint(machine: LayeredMachine) -> tuple[list[Tensor], Tensor]:
    """States of all layers together, and minus their energies."""
    states = enumerate_bits(sum(machine.layer_sizes))
    layers = list(torch.split(states, list(machine.layer_sizes), dim=1))
    return layers, -machine.energy(*layers)


@pytest.mark.parametrize("hidden", [BERNOULLI, SPIN], ids=["bits", "spins"])
@pytest.mark.parametrize("name", list(UNITS))
def test_mean_weight_is_the_partition_function(name: str, hidden: Units) -> None:
    machine = machine_of(UNITS[name], SIZES[name], hidden)
    base = torch.linspace(-0.5, 0.5, SIZES[name])
    estimate = ais_log_partition(machine, base, n_chains=4_000, n_temperatures=10, seed=2)
    error = estimate.log_partition - exact_log_partition(machine)
    assert abs(error) < N_SIGMA * estimate.stderr
    assert estimate.stderr < 0.03
    assert len(estimate.by_estimate) == 2
    assert estimate.by_estimate[0] != estimate.by_estimate[1]


@pytest.mark.parametrize("name", ["spin", "softmax", "joined"])
def test_exact_value_sums_the_energies_of_all_states(name: str) -> None:
    machine = machine_of(UNITS[name], SIZES[name])
    count = UNITS[name].n_states(SIZES[name]) or 0
    visible, hidden = UNITS[name].enumerate(SIZES[name], 0, count), enumerate_bits(4)
    energy = machine.energy(visible[:, None].expand(-1, 16, -1), hidden[None].expand(count, -1, -1))
    expected = torch.logsumexp(-energy.flatten(), 0).item()
    assert exact_log_partition(machine) == pytest.approx(expected, abs=1e-11)


def test_reals_are_summed_by_their_hidden_units() -> None:
    """One hidden unit: a mixture of two normals with weights 1 and exp(b + a.W + |W|^2 / 2)."""
    g = torch.Generator().manual_seed(1)
    w, a = (torch.randn(3, generator=g, dtype=torch.float64) for _ in range(2))
    b = torch.tensor([0.3], dtype=torch.float64)
    machine = RBM.from_parameters(w[:, None], a, b, visible_units=GAUSSIAN)
    second = math.exp((b + a @ w + w @ w / 2).item())
    expected = (a @ a / 2).item() + math.log1p(second)
    assert exact_log_partition(machine) == pytest.approx(expected, abs=1e-12)
    v = torch.randn(5, 3, generator=g, dtype=torch.float64)
    constant = 1.5 * math.log(2 * math.pi)
    first = (-(v - a).square().sum(1) / 2 - constant).exp()
    other = (-(v - a - w).square().sum(1) / 2 - constant).exp()
    density = (first + second * other) / (1 + second)
    assert torch.allclose((-machine.free_energy(v) - expected).exp(), density, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 3, 3), (3, 2, 2, 3)])
@pytest.mark.parametrize("keep", [0, 1])
def test_deep_machines_anneal_to_their_enumerated_value(sizes, keep: int) -> None:
    machine = deep_machine(*sizes)
    exact = torch.logsumexp(joint(machine)[1], 0).item()
    path = AnnealedPath(machine, torch.linspace(-0.5, 0.5, sizes[0]), keep=keep)
    runs = anneal(path, linear_schedule(12), seed=4, chains=torch.arange(6_000))
    weights = (runs.log_weights + path.log_base_partition - exact).exp()
    stderr = weights.std().item() / math.sqrt(6_000)
    assert abs(weights.mean().item() - 1.0) < N_SIGMA * stderr
    assert stderr < 0.02


@pytest.mark.parametrize("sizes", [(3, 2, 2), (2, 2, 2, 2)])
def test_layered_gibbs_leaves_the_joint_distribution_invariant(sizes) -> None:
    """The transition matrix of even, then odd layers, from the conditionals themselves."""
    machine = deep_machine(*sizes, scale=1.0)
    layers, log_weight = joint(machine)
    pi = torch.softmax(log_weight, 0)
    for parity in (0, 1):
        moved = [layer for layer in range(len(sizes)) if layer % 2 == parity]
        held = [layer for layer in range(len(sizes)) if layer % 2 != parity]
        same = torch.stack([(layers[h][:, None] == layers[h][None]).all(-1) for h in held]).all(0)
        log_p = torch.stack(
            [
                torch.stack(
                    [
                        machine.given(layer, layers).log_probability(
                            layers[layer][to].expand_as(layers[layer])
                        )
                        for to in range(len(pi))
                    ],
                    dim=1,
                )
                for layer in moved
            ]
        ).sum(0)
        transition = torch.where(same, log_p.exp(), 0.0)
        assert (transition.sum(1) - 1).abs().max() < 1e-12
        assert (pi @ transition - pi).abs().max() < 1e-12


def test_deep_chains_reach_the_joint_distribution() -> None:
    machine, n = deep_machine(2, 2, 2), 20_000
    state = gibbs.init(machine, torch.zeros(n, 2), seed=1)
    for _ in range(30):
        state, _ = gibbs.step(machine, state, seed=1)
    digits = torch.cat(state.layers, dim=1) @ (2.0 ** torch.arange(6, dtype=torch.float64))
    observed = torch.bincount(digits.long(), minlength=64) / n
    expected = torch.softmax(joint(machine)[1], 0)
    sigma = (expected * (1 - expected) / n).sqrt()
    assert ((observed - expected).abs() / sigma).max() < N_SIGMA


def test_annealing_run_as_a_model_is_estimated_without_bias(random_machine) -> None:
    """RAISE: exp of each row's value has the run's own probability as its mean, by matrices."""
    machine, base, betas = random_machine(4, 3, seed=3), torch.zeros(4), linear_schedule(3)
    path, states = AnnealedPath(machine, base), enumerate_bits(4)
    hidden = enumerate_bits(3)
    p = torch.full((16,), 1 / 16, dtype=torch.float64)
    for beta in betas[1:]:
        at = machine.tempered(beta, base)
        up = at.hidden_given(states)
        to_h = torch.stack([up.log_probability(h.expand(16, -1)) for h in hidden], 1).exp()
        down = at.visible_given(hidden)
        to_v = torch.stack([down.log_probability(v.expand(8, -1)) for v in states], 1).exp()
        p = p @ to_h @ to_v
    n = 4_000
    rows = states.repeat_interleave(n, 0)
    runs = anneal_backwards(path, betas, {0: rows}, seed=5, chains=torch.arange(16 * n))
    start = -machine.free_energy(states) - path.log_base_partition
    weights = (start[:, None] + torch.unflatten(runs.log_weights, 0, (16, n))).exp()
    stderr = weights.std(1) / math.sqrt(n)
    assert ((weights.mean(1) - p).abs() / stderr).max() < N_SIGMA
    record = reverse_log_likelihood(machine, states, base_bias=base, n_chains=50, n_temperatures=40)
    exact = -machine.free_energy(states) - exact_log_partition(machine)
    # A short run as a model is close to, and in the mean over its samples below, the machine.
    assert abs(record.mean - exact.mean().item()) < 0.1
    assert record.lower < record.mean
    assert record.by_row.shape == (16,)


def test_reverse_runs_from_exact_samples_bound_from_above(random_machine) -> None:
    machine = random_machine(6, 5, seed=8, scale=1.5)
    exact, states = exact_log_partition(machine), enumerate_bits(6)
    p = torch.softmax(-machine.free_energy(states), 0)
    n, path = 4_000, AnnealedPath(machine, torch.zeros(6))
    g = torch.Generator().manual_seed(2)
    start = states[torch.multinomial(p, n, replacement=True, generator=g)]
    runs = anneal_backwards(path, linear_schedule(8), {0: start}, seed=3, chains=torch.arange(n))
    ratio = (runs.log_weights + exact - path.log_base_partition).exp()
    assert abs(ratio.mean().item() - 1.0) < N_SIGMA * ratio.std().item() / math.sqrt(n)
    upper = path.log_base_partition - runs.log_weights
    assert upper.mean().item() > exact
    forward = anneal(path, linear_schedule(8), seed=3, chains=torch.arange(n))
    assert forward.log_weights.mean().item() + path.log_base_partition < exact


def test_interval_covers_the_exact_value(random_machine) -> None:
    """+- 2 standard errors of reliable estimates, over 100 machines of growing strength."""
    covered, unreliable = 0, 0
    for number in range(100):
        machine = random_machine(7, 5, seed=number, scale=0.3 + 0.015 * number)
        estimate = ais_log_partition(
            machine, torch.zeros(7), n_chains=200, n_temperatures=30, seed=number
        )
        error = estimate.log_partition - exact_log_partition(machine)
        unreliable += not estimate.reliable
        covered += (not estimate.reliable) or abs(error) <= 2.0 * estimate.stderr
    assert covered >= 90
    assert unreliable <= 5


def test_adaptive_schedule_rises_and_gains(random_machine) -> None:
    machine = random_machine(12, 8, seed=4, scale=1.5)
    base = torch.full((12,), 2.0)
    path = AnnealedPath(machine, base)
    betas = adaptive_schedule(path, 40, seed=1)
    assert len(betas) == 41
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert all(b > a for a, b in pairwise(betas))
    assert betas == adaptive_schedule(path, 40, seed=1)
    spread = [
        anneal(path, some, seed=3, chains=torch.arange(2_000)).log_weights.var().item()
        for some in (betas, linear_schedule(40))
    ]
    assert spread[0] < spread[1]


def test_runs_do_not_depend_on_how_they_are_split(random_machine) -> None:
    path = AnnealedPath(random_machine(9, 5), torch.zeros(9))
    betas = linear_schedule(5)
    whole = anneal(path, betas, seed=3, chains=torch.arange(20), estimate=1)
    parts = [
        anneal(path, betas, seed=3, chains=some, estimate=1)
        for some in (torch.arange(7), torch.arange(7, 20))
    ]
    assert torch.equal(whole.states[0], torch.cat([part.states[0] for part in parts]))
    assert torch.allclose(whole.log_weights, torch.cat([p.log_weights for p in parts]), atol=1e-12)
    other = anneal(path, betas, seed=3, chains=torch.arange(20), estimate=2)
    assert not torch.equal(whole.log_weights, other.log_weights)


def test_an_unreliable_estimate_says_so(random_machine) -> None:
    machine = random_machine(30, 30, seed=3, scale=2.0)
    record = ais_log_partition(machine, torch.zeros(30), n_chains=50, n_temperatures=2)
    assert isinstance(record, UnreliableLogPartition)
    assert "NOT RELIABLE" in str(record)


def test_bad_schedules_are_named(random_machine) -> None:
    path = AnnealedPath(random_machine(3, 2), torch.zeros(3))
    for betas in ([0.0, 0.5, 0.5, 1.0], [0.1, 1.0], [0.0, 0.9], [0.0]):
        with pytest.raises(ValueError, match="rising from 0 to 1"):
            anneal(path, betas, seed=0, chains=torch.arange(2))
    with pytest.raises(ValueError, match="n_temperatures"):
        adaptive_schedule(path, 0, seed=0)
