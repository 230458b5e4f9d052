import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from bnn.losses import binary_cross_entropy, focal, initial_bias, softmax_focal
from kernels import Purpose, normal

Z = torch.linspace(-20, 20, 50, dtype=torch.float64)
ONES = torch.ones_like(Z)


def logit(p: float) -> torch.Tensor:
    return torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)


def test_without_focus_it_is_the_cross_entropy() -> None:
    for y in (ONES, 0 * ONES):
        plain = binary_cross_entropy(Z, y, reduction="none")
        unweighted = focal(Z, y, reduction="none", gamma=0, alpha=None)
        assert torch.allclose(unweighted, plain, rtol=1e-14, atol=0)
        half = focal(Z, y, reduction="none", gamma=0, alpha=0.5)
        assert torch.allclose(half, plain / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("p", "y", "alpha", "loss"),
    [
        (0.5, 1.0, None, 0.1732868),
        (0.5, 0.0, None, 0.1732868),
        (0.9, 1.0, 0.25, 2.634013e-4),
        (0.1, 0.0, 0.25, 3 * 2.634013e-4),
    ],
)
def test_values(p, y, alpha, loss) -> None:
    found = focal(logit(p), torch.tensor([y]), alpha=alpha)
    assert float(found) == pytest.approx(loss, rel=1e-6)


def test_defaults_are_those_of_detectors() -> None:
    y = torch.tensor([1.0])
    assert float(focal(logit(0.9), y)) == float(focal(logit(0.9), y, gamma=2, alpha=0.25))


def test_easy_samples_fade() -> None:
    y = torch.tensor([1.0])
    entropies = [float(binary_cross_entropy(logit(p), y)) for p in (0.9, 0.1)]
    assert entropies[0] / entropies[1] == pytest.approx(0.0458, rel=2e-3)
    losses = [float(focal(logit(p), y)) for p in (0.9, 0.1)]
    assert losses[0] / losses[1] == pytest.approx(5.65e-4, rel=2e-3)


def test_below_the_weighted_cross_entropy_and_decreasing_in_gamma() -> None:
    bound = 0.25 * binary_cross_entropy(Z, ONES, reduction="none")
    losses = [focal(Z, ONES, reduction="none", gamma=g) for g in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert bool((losses[0] <= bound * (1 + 1e-14)).all())
    for weaker, stronger in pairwise(losses):
        assert bool((stronger < weaker).all())


@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_formula(y, gamma) -> None:
    z = Z.clone().requires_grad_()
    loss = focal(z, y * ONES, reduction="sum", gamma=gamma)
    (slope,) = torch.autograd.grad(loss, z)
    t, alpha = 2 * y - 1, 0.25 if y else 0.75
    p = torch.sigmoid(t * Z)
    q = torch.sigmoid(-t * Z)
    expected = t * alpha * q**gamma * (gamma * p * F.logsigmoid(t * Z) - q)
    assert torch.allclose(slope, expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize(("gamma", "steepest"), [(0.5, 1.009), (2.0, 1.129)])
def test_steepest_slope(gamma, steepest) -> None:
    z = torch.linspace(-20, 20, 40_001, dtype=torch.float64, requires_grad=True)
    y = torch.ones_like(z)
    (slope,) = torch.autograd.grad(focal(z, y, reduction="sum", gamma=gamma, alpha=None), z)
    assert float(slope.abs().max()) == pytest.approx(steepest, abs=5e-4)


def test_softmax_form_on_one_of_many() -> None:
    z = torch.from_numpy(3 * normal(1, Purpose.DIAGNOSTICS, 5, rows=range(40))).double()
    classes = torch.arange(40).remainder(5)
    y = F.one_hot(classes, 5)
    plain = softmax_focal(z, y, reduction="none", gamma=0)
    assert torch.allclose(plain, F.cross_entropy(z, classes, reduction="none"), rtol=1e-12)
    p = torch.softmax(z, 1)[y == 1]
    expected = -((1 - p) ** 2) * torch.log(p)
    assert torch.allclose(softmax_focal(z, y, reduction="none"), expected, rtol=1e-10)


def test_two_classes_are_the_binary_form_of_the_difference() -> None:
    z = torch.stack([torch.zeros_like(Z), Z], dim=1)
    y = torch.tensor([[0, 1]]).expand(50, 2)
    two = softmax_focal(z, y, reduction="none", gamma=1.5)
    assert torch.allclose(two, focal(Z, ONES, reduction="none", gamma=1.5, alpha=None), rtol=1e-12)


def test_initial_bias_starts_at_the_prior() -> None:
    assert initial_bias() == pytest.approx(-4.59512, abs=1e-5)
    assert float(torch.sigmoid(torch.tensor(initial_bias(0.2)))) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gamma": -1.0}, "gamma: expected gamma >= 0, got -1"),
        ({"gamma": math.nan}, "gamma: .*got nan"),
        ({"alpha": 1.5}, "alpha: expected 0 <= alpha <= 1 or None, got 1.5"),
    ],
)
def test_bad_parameters_are_refused(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        focal(Z, ONES, **arguments)
    with pytest.raises(ValueError, match="prior: expected 0 < prior < 1, got 0"):
        initial_bias(0)
