import math

import pytest
import torch
from torch import Tensor

import rbm.likelihood
import rbm.partition
from rbm import (
    RBM,
    PCDConfig,
    ais_log_partition,
    exact_log_partition,
    fit,
    independent_log_likelihood,
    log_likelihood,
)
from rbm.states import enumerate_bits

EXACT = 1e-10
N_SIGMA = 4.0


@pytest.fixture(scope="module")
def trained(digit_bits: Tensor) -> RBM:
    machine = RBM(64, 16, seed=1)
    fit(machine, digit_bits[:1400], PCDConfig(epochs=30, batch_size=50, n_chains=100))
    return machine


@pytest.mark.parametrize(("n_visible", "n_hidden"), [(5, 3), (3, 5), (4, 4)])
def test_exact_is_the_sum_over_all_joint_states(random_machine, n_visible, n_hidden) -> None:
    machine = random_machine(n_visible, n_hidden, seed=n_hidden)
    both = enumerate_bits(n_visible + n_hidden)
    energy = machine.energy(both[:, :n_visible], both[:, n_visible:])
    assert exact_log_partition(machine) == pytest.approx((-energy).logsumexp(0).item(), abs=1e-12)


def test_chunks_of_states_add_up(random_machine, monkeypatch) -> None:
    machine = random_machine(6, 5)
    whole = exact_log_partition(machine)
    monkeypatch.setattr(rbm.partition, "_STATES_PER_CHUNK", 7)
    assert exact_log_partition(machine) == pytest.approx(whole, abs=1e-12)


def test_machine_without_weights_is_exact_by_ais() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, generator=g, dtype=torch.float64) for n in (6, 4))
    machine = RBM.from_parameters(torch.zeros(6, 4, dtype=torch.float64), a, b)
    expected = (torch.log1p(a.exp()).sum() + torch.log1p(b.exp()).sum()).item()
    assert exact_log_partition(machine) == pytest.approx(expected, abs=EXACT)
    estimate = ais_log_partition(machine, a, n_chains=20, n_temperatures=10)
    assert estimate.log_partition == pytest.approx(expected, abs=EXACT)
    assert estimate.effective_sample_size == pytest.approx(20.0, abs=EXACT)
    assert estimate.stderr < EXACT


@pytest.mark.parametrize("n_temperatures", [1, 5])
def test_mean_weight_is_unbiased(random_machine, n_temperatures: int) -> None:
    """Few temperatures and many runs: catches a weight taken after the move."""
    machine = random_machine(5, 4, seed=2, scale=0.7)
    base = torch.linspace(-1.0, 1.0, 5)
    estimate = ais_log_partition(machine, base, n_chains=50_000, n_temperatures=n_temperatures)
    error = estimate.log_partition - exact_log_partition(machine)
    assert abs(error) < N_SIGMA * estimate.stderr
    assert estimate.stderr < 0.02


def test_ais_on_a_trained_machine(trained: RBM, digit_bits: Tensor) -> None:
    exact = exact_log_partition(trained)
    estimate = ais_log_partition(trained, trained.base_bias(digit_bits[:1400]), seed=2)
    assert abs(estimate.log_partition - exact) < N_SIGMA * estimate.stderr
    assert estimate.lower < exact < estimate.upper
    assert estimate.stderr < 0.03
    assert estimate.reliable


def test_base_rate_start_beats_the_uniform_one(trained: RBM, digit_bits: Tensor) -> None:
    base = trained.base_bias(digit_bits[:1400])
    informed = ais_log_partition(trained, base, n_temperatures=100)
    uniform = ais_log_partition(trained, torch.zeros(64), n_temperatures=100)
    assert informed.effective_sample_size > uniform.effective_sample_size
    assert informed.variance_of_log_weights < uniform.variance_of_log_weights


def test_weight_summary_by_hand() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    record = rbm.partition.summarise(
        [weights[:1].log(), weights[1:].log()], 1.5, floor=-math.inf, n_temperatures=10
    )
    assert record.log_partition == pytest.approx(1.5 + math.log(3.0), abs=EXACT)
    relative = math.sqrt(14.0 / 3.0) / 3.0 / 2.0  # std / mean / sqrt(n)
    assert record.stderr == pytest.approx(relative, abs=EXACT)
    assert record.effective_sample_size == pytest.approx(144.0 / 50.0, abs=EXACT)
    assert not record.reliable
    assert record.lower == -math.inf
    assert record.upper == pytest.approx(1.5 + math.log(3.0) + math.log1p(3 * relative), abs=EXACT)


def test_error_bar_is_the_spread_over_seeds(random_machine) -> None:
    machine = random_machine(8, 8, seed=5, scale=1.0)
    exact = exact_log_partition(machine)
    records = [
        ais_log_partition(machine, torch.zeros(8), n_chains=400, n_temperatures=6, seed=seed)
        for seed in range(40)
    ]
    ratios = torch.tensor([math.exp(record.log_partition - exact) for record in records])
    assert abs(ratios.mean() - 1.0) < N_SIGMA * ratios.std() / math.sqrt(40)
    claimed = torch.tensor([record.stderr for record in records]).mean()
    # The spread over 40 seeds is known to about 1 / sqrt(80) = 11 %.
    assert 0.65 * claimed < ratios.std() < 1.4 * claimed


def test_too_few_effective_runs_are_reported(random_machine) -> None:
    machine = random_machine(30, 30, seed=3, scale=2.0)
    record = ais_log_partition(machine, torch.zeros(30), n_chains=50, n_temperatures=2)
    assert record.effective_sample_size < 5.0
    assert not record.reliable
    assert math.isfinite(record.lower)


def test_log_likelihood_exact(random_machine) -> None:
    machine = random_machine(4, 3)
    rows = enumerate_bits(4)[[1, 5, 5, 12]].to(torch.uint8)
    result = log_likelihood(machine, rows)
    log_p = -machine.free_energy(rows) - exact_log_partition(machine)
    assert result.mean == pytest.approx(log_p.mean().item(), abs=EXACT)
    assert result.sampling_stderr == pytest.approx(log_p.std(correction=0).item() / 2, abs=EXACT)
    assert result.stderr == result.sampling_stderr
    assert result.lower == result.mean == result.upper
    assert (result.method, result.effective_sample_size, result.reliable) == ("exact", None, True)


def test_log_likelihood_by_ais_combines_both_errors(random_machine, monkeypatch) -> None:
    machine = random_machine(8, 6, scale=0.5)
    rows = enumerate_bits(8)[::5]
    exact = log_likelihood(machine, rows)
    monkeypatch.setattr(rbm.likelihood, "EXACT_MAX_STATES", 16)
    result = log_likelihood(machine, rows, n_temperatures=200, seed=4)
    assert result.method == "ais"
    assert abs(result.mean - exact.mean) < N_SIGMA * result.log_partition_stderr
    assert result.stderr == pytest.approx(
        math.hypot(result.log_partition_stderr, exact.sampling_stderr), abs=EXACT
    )
    assert result.lower < exact.mean < result.upper
    assert (result.n_chains, result.n_temperatures) == (100, 200)


def test_independent_log_likelihood_by_hand() -> None:
    train = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=torch.uint8)
    test = torch.tensor([[1, 1]], dtype=torch.uint8)
    # Smoothed rates (3 + 1) / (4 + 2) and (1 + 1) / (4 + 2).
    expected = math.log(4 / 6) + math.log(2 / 6)
    assert independent_log_likelihood(train, test) == pytest.approx(expected, abs=EXACT)


def test_independent_floor_of_the_digits(digit_bits: Tensor) -> None:
    import numpy as np

    order = torch.from_numpy(np.random.default_rng(42).permutation(1797))
    shuffled = digit_bits[order]
    floor = independent_log_likelihood(shuffled[:1400], shuffled[1400:])
    assert floor == pytest.approx(-24.53, abs=0.005)


def test_bad_arguments_are_named(random_machine) -> None:
    machine = random_machine(4, 3)
    with pytest.raises(ValueError, match="base_bias"):
        ais_log_partition(machine, torch.zeros(3))
    with pytest.raises(ValueError, match="n_chains"):
        ais_log_partition(machine, torch.zeros(4), n_chains=1)
    with pytest.raises(ValueError, match="at least one row"):
        log_likelihood(machine, torch.zeros(0, 4))
    with pytest.raises(ValueError, match="use ais_log_partition"):
        exact_log_partition(RBM(31, 31))
