"""Every kind of unit: its normaliser, mean, draws and probabilities are those of enumeration."""

import math

import pytest
import torch
from torch import Tensor

from kernels.philox import Purpose
from rbm.conditionals import Address
from rbm.units import BERNOULLI, GAUSSIAN, UNITS, GaussianUnits, JoinedUnits, SoftmaxUnits, Units

EXACT = 1e-12
COUNTED = [name for name in UNITS if name != "gaussian"]
SIZE = {"bernoulli": 4, "spin": 4, "softmax": 6, "gaussian": 4, "joined": 4}


def field_of(name: str, scale: float = 1.5) -> Tensor:
    g = torch.Generator().manual_seed(3)
    return scale * torch.randn(SIZE[name], generator=g, dtype=torch.float64)


def all_states(units: Units, n_units: int) -> Tensor:
    count = units.n_states(n_units)
    assert count is not None
    return units.enumerate(n_units, 0, count)


@pytest.mark.parametrize("name", COUNTED)
def test_normaliser_and_mean_are_sums_over_all_states(name: str) -> None:
    units, field = UNITS[name], field_of(name)
    states = all_states(units, len(field))
    units.check("states", states)
    assert len(torch.unique(states, dim=0)) == len(states)
    log_weight = units.log_base(states) + units.statistics(states) @ field
    log_z = torch.logsumexp(log_weight, 0)
    assert units.log_normaliser(field).item() == pytest.approx(log_z.item(), abs=EXACT)
    p = (log_weight - log_z).exp()
    conditional = units.conditional(field[None])
    assert torch.allclose(conditional.mean[0], p @ states, atol=EXACT)
    assert torch.allclose(conditional.log_probability(states), p.log(), atol=1e-10)


@pytest.mark.parametrize("name", COUNTED)
def test_draws_have_their_probabilities(name: str) -> None:
    """Chi-square over the enumerated states; 40,000 independent draws."""
    units, field, n = UNITS[name], field_of(name, 0.7), 40_000
    states = all_states(units, len(field))
    conditional = units.conditional(field.expand(n, -1))
    drawn = conditional.draw(Address(11, Purpose.DIAGNOSTICS, torch.arange(n), 5, 9))
    units.check("drawn", drawn)
    observed = (drawn[:, None] == states).all(-1).sum(0, dtype=torch.float64)
    expected = n * units.conditional(field[None]).log_probability(states).exp()
    chi_square = ((observed - expected).square() / expected).sum().item()
    degrees = len(states) - 1
    # Mean d, variance 2 d; five deviations are beyond the 0.9999 quantile for these d.
    assert observed.sum() == n
    assert chi_square < degrees + 5.0 * math.sqrt(2.0 * degrees)


def test_gaussian_units_integrate_to_their_normaliser() -> None:
    units, field = GaussianUnits(0.7), torch.tensor([0.9], dtype=torch.float64)
    grid = torch.linspace(-15.0, 15.0, 30_001, dtype=torch.float64)[:, None]
    weight = (units.log_base(grid) + units.statistics(grid) @ field).exp()
    assert units.log_normaliser(field).item() == pytest.approx(
        math.log(weight.sum().item() * 0.001), abs=1e-10
    )
    conditional = units.conditional(field[None])
    assert conditional.mean.item() == pytest.approx(0.63, abs=EXACT)
    density = conditional.log_probability(grid).exp()
    assert torch.allclose(density, weight / units.log_normaliser(field).exp(), atol=1e-12)


def test_gaussian_draws_have_mean_and_deviation() -> None:
    n = 20_000
    field = torch.tensor([1.0, -2.0], dtype=torch.float64).expand(n, -1)
    drawn = (
        GaussianUnits(2.0)
        .conditional(field)
        .draw(Address(1, Purpose.DIAGNOSTICS, torch.arange(n), 0))
    )
    expected = torch.tensor([2.0, -4.0], dtype=torch.float64)
    assert (drawn.mean(0) - expected).abs().max() < 4.5 * 2.0 / math.sqrt(n)
    assert (drawn.std(0) - 2.0).abs().max() < 4.5 * 2.0 / math.sqrt(2 * n)


@pytest.mark.parametrize("name", list(UNITS))
def test_a_draw_depends_on_its_own_chain_only(name: str) -> None:
    field = field_of(name).expand(9, -1)
    chains = torch.tensor([4, 5, 0, 77, 78, 79, 1, 2, 3])

    def draw(rows: Tensor) -> Tensor:
        conditional = UNITS[name].conditional(field[rows])
        return conditional.draw(Address(3, Purpose.GIBBS_HIDDEN, chains[rows], 8, 2))

    parts = [draw(torch.arange(2)), draw(torch.arange(2, 9))]
    assert torch.equal(draw(torch.arange(9)), torch.cat(parts))


@pytest.mark.parametrize("name", list(UNITS))
def test_base_field_gives_the_means_of_the_data(name: str) -> None:
    """Up to the smoothing of one count each way, which 2,000 rows make small."""
    units, n = UNITS[name], 2_000
    conditional = units.conditional(field_of(name).expand(n, -1))
    rows = conditional.draw(Address(5, Purpose.DIAGNOSTICS, torch.arange(n), 0))
    fitted = units.conditional(units.base_field(rows)[None]).mean[0]
    assert (fitted - rows.mean(0)).abs().max() < 3.0 / n


def test_a_missing_variable_sends_nothing() -> None:
    units = SoftmaxUnits(3)
    states = torch.tensor([[0.0, 0, 0, 0, 1, 0]])
    units.check("states", states)
    assert units.statistics(states)[0, :3].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bernoulli", 0.5, "values 0 and 1, got 0.5"),
        ("bernoulli", math.nan, "values 0 and 1, got nan"),
        ("spin", 0.0, "spins"),
        ("softmax", 2.0, "one-hot"),
        ("gaussian", math.inf, "finite values, got inf"),
        ("joined", -1.0, "values 0 and 1"),
    ],
)
def test_strange_values_are_named(name: str, value: float, words: str) -> None:
    states = (
        UNITS[name]
        .conditional(field_of(name)[None])
        .draw(Address(0, Purpose.DIAGNOSTICS, torch.arange(1), 0))
    )
    states[0, 0] = value
    with pytest.raises(ValueError, match=words):
        UNITS[name].check("visible", states)


def test_bad_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="categories"):
        SoftmaxUnits(1)
    with pytest.raises(ValueError, match="std"):
        GaussianUnits(0.0)
    with pytest.raises(ValueError, match="can be enumerated"):
        GAUSSIAN.enumerate(2, 0, 1)
    with pytest.raises(ValueError, match="multiple of 3"):
        SoftmaxUnits(3).check("visible", torch.zeros(1, 4))
    assert JoinedUnits(((BERNOULLI, 1), (GAUSSIAN, 1))).n_states(2) is None
