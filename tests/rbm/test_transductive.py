import numpy as np
import pytest
import torch
from torch import Tensor

from rbm import BoltzmannMachine, TBMConfig, fit_tbm
from rbm.models import all_states, to_bit_parameters
from rbm.models.poset import zeta
from rbm.models.transductive import _newton, sample_space
from rbm.quantum import fit_exact
from rbm.states import state_numbers
from rbm.tasks import digits_4x4

BOUNDARY = 1e-8  # the fit stops when expectations agree to 1e-10
KNOWN_KL = 1e-9


@pytest.fixture
def transactions() -> Tensor:
    """Ten transactions over a, b, c from the first author's slides."""
    rows = "ab abc ab abc ab ac ac abc a b".split()
    return torch.tensor([[int(unit in row) for unit in "abc"] for row in rows])


@pytest.fixture(scope="module")
def digits(digit_pixels: Tensor) -> Tensor:
    return digits_4x4(digit_pixels)


def probabilities(fit) -> dict[int, float]:
    masks, log_p = fit.machine.outcome_masks, fit.machine.log_probabilities()
    return dict(zip(masks.tolist(), log_p.exp().tolist(), strict=True))


def test_slide_example_at_the_boundary(transactions: Tensor) -> None:
    fit = fit_tbm(transactions, TBMConfig(min_support=0.55, max_order=2))
    a, b, c = 1, 2, 4
    assert fit.machine.parameter_masks.tolist() == [a, b, a | b]
    expected = {0: 0.0, b: 0.1, a: 0.15, a | c: 0.15, a | b: 0.3, a | b | c: 0.3}
    assert probabilities(fit) == pytest.approx(expected, abs=BOUNDARY)
    assert fit.kl == pytest.approx(0.016989903681506, abs=KNOWN_KL)
    assert fit.is_boundary
    assert fit.is_converged


def test_slide_example_with_more_parameters(transactions: Tensor) -> None:
    fit = fit_tbm(transactions, TBMConfig(min_support=0.4, max_order=2))
    assert (fit.n_parameters, fit.n_outcomes) == (5, 7)
    assert fit.kl == pytest.approx(0.011422860114607, abs=KNOWN_KL)


def test_saturated_machine_reproduces_the_data(transactions: Tensor) -> None:
    fit = fit_tbm(transactions, TBMConfig(min_support=0.0, max_order=3))
    expected = {0: 0, 1: 0.1, 2: 0.1, 3: 0.3, 4: 0, 5: 0.2, 6: 0, 7: 0.3}
    assert probabilities(fit) == pytest.approx(expected, abs=BOUNDARY)
    assert fit.kl == pytest.approx(0.0, abs=KNOWN_KL)
    assert fit.is_boundary


def test_expectations_are_the_supports(transactions: Tensor) -> None:
    fit = fit_tbm(transactions, TBMConfig(min_support=0.3, max_order=2))
    p = fit.machine.log_probabilities().exp().numpy()
    eta = zeta(fit.machine.parameter_masks, fit.machine.outcome_masks) @ p
    support = dict(zip(fit.machine.parameter_masks.tolist(), eta.tolist(), strict=True))
    expected = {1: 0.9, 2: 0.7, 4: 0.5, 3: 0.6, 5: 0.5, 6: 0.3}
    assert support == pytest.approx(expected, abs=BOUNDARY)


def test_pseudo_counts_keep_the_fit_inside(transactions: Tensor) -> None:
    fit = fit_tbm(transactions, TBMConfig(min_support=0.55, pseudo_count=1.0))
    assert not fit.is_boundary
    assert probabilities(fit)[0] > 0.01
    assert abs(fit.machine.theta).max() < 5.0


@pytest.mark.parametrize(
    ("min_support", "max_order", "n_parameters", "n_outcomes", "kl"),
    [
        (0.0, 1, 13, 245, 0.450),
        (0.05, 2, 36, 255, 0.377),
        (0.0, 2, 77, 295, 0.202),
        (0.02, 3, 96, 277, 0.207),
        (0.05, 3, 92, 274, 0.290),
    ],
)
def test_reference_row_of_the_digits(
    digits: Tensor,
    min_support: float,
    max_order: int,
    n_parameters: int,
    n_outcomes: int,
    kl: float,
) -> None:
    fit = fit_tbm(digits, TBMConfig(min_support=min_support, max_order=max_order))
    assert (fit.n_parameters, fit.n_outcomes) == (n_parameters, n_outcomes)
    assert fit.kl == pytest.approx(kl, abs=0.0005)
    assert fit.entropy == pytest.approx(4.6956, abs=0.00005)
    assert fit.is_converged


def test_log_prob_of_rows(digits: Tensor) -> None:
    fit = fit_tbm(digits, TBMConfig())
    assert fit.machine.log_prob(digits).mean().item() == pytest.approx(
        -(fit.entropy + fit.kl), abs=1e-10
    )
    assert torch.equal(
        state_numbers(fit.machine.outcomes()), torch.from_numpy(fit.machine.outcome_masks)
    )
    unseen = 1 - digits[:1]
    assert state_numbers(unseen).item() not in fit.machine.outcome_masks
    with pytest.raises(ValueError, match="extend"):
        fit.machine.log_prob(unseen)
    extended = fit_tbm(digits, TBMConfig(), extend=unseen)
    assert extended.n_outcomes == fit.n_outcomes + 1
    assert extended.machine.log_prob(unseen).item() < 0.0
    assert extended.machine.log_probabilities().exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_full_sample_space_and_pairs_are_the_ordinary_machine() -> None:
    """S = all states, B = singles and pairs: the maximum likelihood Boltzmann machine."""
    g = torch.Generator().manual_seed(0)
    rows = (torch.rand(400, 4, generator=g) < torch.tensor([0.3, 0.5, 0.6, 0.4])).to(torch.uint8)
    fit = fit_tbm(rows, TBMConfig(min_support=0.0, max_order=2), extend=all_states(4))
    assert (fit.n_parameters, fit.n_outcomes) == (10, 16)
    target = torch.bincount(state_numbers(rows), minlength=16).double() / 400
    machine = BoltzmannMachine(torch.zeros(4), torch.zeros(4, 4))
    fit_exact(machine, target, 1000, 0.05)
    assert torch.allclose(machine.log_probabilities(), fit.machine.log_probabilities(), atol=1e-5)
    bias, weights, _ = to_bit_parameters(machine.bias, machine.couplings)
    theta = dict(zip(fit.machine.parameter_masks.tolist(), fit.machine.theta, strict=True))
    assert theta[0b0100] == pytest.approx(bias[2].item(), abs=1e-4)
    assert theta[0b1010] == pytest.approx(weights[1, 3].item(), abs=1e-4)


def test_newton_and_gradient_ascent_reach_the_same_theta(transactions: Tensor) -> None:
    config = TBMConfig(min_support=0.3, max_order=2, pseudo_count=2.0)
    fit = fit_tbm(transactions, config)
    features = zeta(fit.machine.parameter_masks, fit.machine.outcome_masks)
    data = np.bincount(state_numbers(transactions).numpy(), minlength=8)
    target = data + 2.0 / 8
    wanted = features @ (target / target.sum())
    theta = np.zeros(fit.n_parameters)
    for _ in range(20_000):
        score = np.exp(theta @ features)
        theta += 1.5 * (wanted - features @ (score / score.sum()))
    assert np.allclose(theta, fit.machine.theta, atol=1e-6)


@pytest.mark.parametrize("n_rows", [500, 8000])
def test_variance_is_half_the_parameters_per_row(n_rows: int) -> None:
    """E KL(projection, fit) -> |B| / 2N (Cramer-Rao), for data from the model itself."""
    rng = np.random.default_rng(0)
    parameters = np.array([1 << i for i in range(6)] + [3, 5, 24, 48], dtype=np.int64)
    outcomes = sample_space(parameters, rng.integers(0, 64, 40))
    features = zeta(parameters, outcomes)
    score = np.exp(rng.normal(0, 0.5, 10) @ features)
    truth = score / score.sum()
    n_repeats, config, divergences = 60, TBMConfig(), []
    for _ in range(n_repeats):
        data = rng.multinomial(n_rows, truth) / n_rows
        fit = _newton(6, parameters, outcomes, data, data, config)
        log_p = fit.machine.log_probabilities().numpy()
        divergences.append(truth @ (np.log(truth) - log_p))
    # 2N KL is nearly chi-square with |B| = 10: relative s.e. sqrt(2 / 10 / 60) = 0.06.
    assert np.mean(divergences) == pytest.approx(10 / (2 * n_rows), rel=0.2)


def test_bad_arguments_are_named(transactions: Tensor) -> None:
    with pytest.raises(ValueError, match="lower min_support"):
        fit_tbm(transactions, TBMConfig(min_support=1.0))
    with pytest.raises(ValueError, match="threshold"):
        fit_tbm(transactions * 2, TBMConfig())
    with pytest.raises(ValueError, match="at least one row"):
        fit_tbm(transactions[:0], TBMConfig())
    for bad in (
        {"min_support": 2.0}, {"max_order": 0}, {"pseudo_count": -1.0}, {"tolerance": 0.0},
        {"max_iterations": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            TBMConfig(**bad)
