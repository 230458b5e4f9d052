import math

import pytest
import torch

from rbm import BoltzmannMachine
from rbm.models import from_bit_parameters, to_bit_parameters
from rbm.quantum import fit_exact, kl_divergence
from rbm.states import enumerate_bits, enumerate_spins

EXACT = 1e-12
PRINTED = 5e-8


def random_parameters(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, generator=g, dtype=torch.float64),
        torch.triu(torch.randn(n, n, generator=g, dtype=torch.float64), diagonal=1),
    )


def test_published_probabilities_of_three_spins() -> None:
    """BoltzMM (R package): exponent s'Ms/2 + b's; listed with the first spin slowest."""
    machine = BoltzmannMachine(torch.tensor([0.0, 0.5, 0.25]), torch.full((3, 3), 0.1))
    expected = [
        0.0666189,
        0.0736253,
        0.1213876,
        0.2001342,
        0.0446560,
        0.0736253,
        0.1213876,
        0.2985652,
    ]
    by_state = torch.tensor(expected).reshape(2, 2, 2).permute(2, 1, 0).reshape(-1).double()
    assert (machine.log_probabilities().exp() - by_state).abs().max() < PRINTED


def test_ring_has_the_transfer_matrix_partition_function() -> None:
    n, coupling, field = 12, 0.7, 0.3
    couplings = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        a, b = sorted((i, (i + 1) % n))
        couplings[a, b] = coupling
    machine = BoltzmannMachine(torch.full((n,), field, dtype=torch.float64), couplings)
    root = math.sqrt(math.exp(2 * coupling) * math.sinh(field) ** 2 + math.exp(-2 * coupling))
    middle = math.exp(coupling) * math.cosh(field)
    closed = math.log((middle + root) ** n + (middle - root) ** n)
    assert closed == pytest.approx(12.752303565397545, abs=EXACT)
    assert machine.log_partition() == pytest.approx(closed, abs=1e-11)


def test_bits_and_spins_are_the_same_machine() -> None:
    bias, weights = random_parameters(5)
    bits = enumerate_bits(5)
    exponent = bits @ bias + ((bits @ weights) * bits).sum(1)
    spin_bias, couplings, constant = from_bit_parameters(bias, weights)
    machine = BoltzmannMachine(spin_bias, couplings)
    assert torch.allclose(machine.log_weights() + constant, exponent, atol=EXACT)
    assert machine.log_partition() + constant == pytest.approx(
        exponent.logsumexp(0).item(), abs=EXACT
    )
    back_bias, back_weights, back_constant = to_bit_parameters(spin_bias, couplings)
    assert torch.allclose(back_bias, bias, atol=EXACT)
    assert torch.allclose(back_weights, weights, atol=EXACT)
    assert back_constant == pytest.approx(-constant, abs=EXACT)


def test_gradient_is_the_difference_of_moments_and_the_finite_difference() -> None:
    machine = BoltzmannMachine(*random_parameters(4, seed=1))
    g = torch.Generator().manual_seed(2)
    target = torch.rand(16, generator=g, dtype=torch.float64)
    target /= target.sum()
    spins = enumerate_spins(4)
    p = machine.log_probabilities().exp()
    slopes = machine.gradient(target)
    assert torch.allclose(slopes[0], (target - p) @ spins, atol=EXACT)
    for parameter, slope, cell in (
        (machine.bias, slopes[0], (2,)),
        (machine.couplings, slopes[1], (1, 3)),
    ):
        values = []
        for shift in (1e-5, -2e-5):
            parameter[cell] += shift
            values.append((target @ machine.log_probabilities()).item())
        parameter[cell] += 1e-5
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope[cell].item(), abs=1e-8)
    assert not torch.tril(slopes[1]).any()


def test_learning_recovers_a_machine_of_its_own_kind() -> None:
    truth = BoltzmannMachine(*random_parameters(4, seed=3))
    learned = BoltzmannMachine(torch.zeros(4), torch.zeros(4, 4))
    fit = fit_exact(learned, truth.log_probabilities().exp(), 1000, 0.05)
    assert fit.kl < 1e-8
    assert torch.allclose(learned.couplings, truth.couplings, atol=1e-3)
    assert len(fit.kl_curve) == 1000


def test_kl_ignores_states_without_mass() -> None:
    target = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    log_p = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()
    assert kl_divergence(target, log_p) == pytest.approx(0.5 * math.log(2), abs=EXACT)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="couplings"):
        BoltzmannMachine(torch.zeros(3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="20 spins"):
        BoltzmannMachine(torch.zeros(21), torch.zeros(21, 21))
