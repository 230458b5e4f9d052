import math

import pytest
import torch
from torch import Tensor

from bnn.losses.fbeta_law import (
    InverseExponential,
    TruncatedGaussian,
    Uniform,
    f_beta,
    f_beta_cdf,
    uniform_f_beta_cdf,
)
from kernels import Purpose, uniform

SCORES = [0.3, 0.6, 0.9]
CDF = {
    1.0: [0.37806, 0.75251, 0.98127],
    0.5: [0.35622, 0.71937, 0.97412],
    2.0: [0.35622, 0.71937, 0.97412],
}
N_DRAWS, FEWER = 2_000_000, 200_000
# Four standard errors of a share of N_DRAWS draws, which is largest at one half.
SAMPLING = 4 * 0.5 / math.sqrt(N_DRAWS)
SOME_LAWS = [
    Uniform(),
    TruncatedGaussian(0.6, 0.15),
    TruncatedGaussian(0.95, 0.1),
    InverseExponential(1.5),
]


def betas(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def closed_form(score: float, beta: float) -> float:
    return float(uniform_f_beta_cdf(score, betas(beta)))


@pytest.fixture(scope="module")
def draws() -> Tensor:
    values = uniform(3, Purpose.DIAGNOSTICS, N_DRAWS, rows=range(2))
    return torch.from_numpy(values).double()


@pytest.mark.parametrize("beta", sorted(CDF))
def test_closed_form_values(beta: float) -> None:
    result = [closed_form(score, beta) for score in SCORES]
    assert result == pytest.approx(CDF[beta], abs=1e-5)


@pytest.mark.parametrize("beta", sorted(CDF))
def test_closed_form_against_draws(beta: float, draws: Tensor) -> None:
    scores = f_beta(draws[0], draws[1], beta)
    for score in SCORES:
        share = float((scores <= score).double().mean())
        assert share == pytest.approx(closed_form(score, beta), abs=SAMPLING)


@pytest.mark.parametrize("beta", [0.1, 0.7, 1.0, 3.0, 10.0])
def test_closed_form_is_a_distribution_and_does_not_know_the_side(beta: float) -> None:
    scores = torch.linspace(0, 1, 201, dtype=torch.float64).tolist()
    values = torch.tensor([closed_form(score, beta) for score in scores])
    assert values[0] == 0
    assert values[-1] == 1
    assert bool((values.diff() > 0).all())
    mirrored = torch.tensor([closed_form(score, 1 / beta) for score in scores])
    assert torch.allclose(values, mirrored, atol=1e-12)
    # From below, the limit k = 1 is continuous too.
    assert closed_form(1 - 1e-9, beta) == pytest.approx(1, abs=1e-6)


def test_closed_form_refuses_what_is_no_score() -> None:
    with pytest.raises(ValueError, match=r"score: expected 0 <= score <= 1, got 1\.5"):
        closed_form(1.5, 1.0)


def test_f_beta_identities() -> None:
    precision, recall = betas(0.2, 0.9, 0.5, 0.0), betas(0.6, 0.3, 0.5, 0.0)
    harmonic = 2 / (1 / precision[:3] + 1 / recall[:3])
    assert torch.allclose(f_beta(precision, recall, 1.0)[:3], harmonic)
    assert torch.allclose(f_beta(precision, recall, 0.0), precision)
    assert torch.allclose(f_beta(precision, recall, 1e6), recall)
    assert float(f_beta(precision, recall, 1.0)[3]) == 0
    # 8 hits, 2 false alarms, 4 misses: F_2 = 5 * 8 / (5 * 8 + 4 * 4 + 2).
    assert float(f_beta(betas(8 / 10), betas(8 / 12), 2.0)) == pytest.approx(40 / 58)


@pytest.mark.parametrize("law", SOME_LAWS, ids=str)
def test_laws_have_mass_one_and_densities_that_are_derivatives(law) -> None:
    p = torch.linspace(1e-4, 1, 20_001, dtype=torch.float64)
    cumulative = law.cumulative(p)
    assert float(cumulative[-1]) == pytest.approx(1)
    density = law.density(p)
    mass = torch.cat([cumulative[:1], torch.cumulative_trapezoid(density, p) + cumulative[0]])
    assert float((mass - cumulative).abs().max()) < 1e-6


def test_quadrature_is_the_closed_form_for_uniform_laws() -> None:
    at = betas(0.1, 0.5, 1.0, 2.0, 10.0)
    for score in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        quadrature = f_beta_cdf(score, at, Uniform(), Uniform())
        # The integrand has a pole next to its range, which costs digits at small scores.
        assert torch.allclose(quadrature, uniform_f_beta_cdf(score, at), atol=1e-5)


def test_quadrature_against_draws_of_other_laws(draws: Tensor) -> None:
    draws = draws[:, :FEWER]
    precision = 1 / (1 - torch.log(draws[0].clamp(min=1e-12)) / 1.5)
    mean, deviation = 0.6, 0.15
    law = TruncatedGaussian(mean, deviation)
    # By inverting the distribution on a fine grid.
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    recall = grid[torch.searchsorted(law.cumulative(grid), draws[1]).clamp(max=100_000)]
    for beta in (0.5, 1.0, 2.0):
        for score in SCORES:
            share = float((f_beta(precision, recall, beta) <= score).double().mean())
            expected = float(f_beta_cdf(score, betas(beta), InverseExponential(1.5), law))
            assert share == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(FEWER) + 1e-5)


def test_fits() -> None:
    values = betas(0.4, 0.5, 0.6, 0.5)
    gaussian = TruncatedGaussian.fit(values)
    assert (gaussian.mean, gaussian.deviation) == pytest.approx((0.5, math.sqrt(0.005)))
    assert TruncatedGaussian.fit(betas(0.7)).deviation == 0.03
    # Odds against of 1 and 3 have mean 2.
    assert InverseExponential.fit(betas(0.5, 0.25)).rate == pytest.approx(0.5)
    assert math.isfinite(InverseExponential.fit(betas(0.0, 1.0)).rate)
    assert math.isfinite(InverseExponential.fit(betas(1.0)).rate)
