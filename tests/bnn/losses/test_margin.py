import math

import pytest
import torch
from sklearn.metrics import hinge_loss

from bnn.losses import binary_cross_entropy, crammer_singer, hinge, logistic, squared_hinge
from kernels import Purpose, normal

SCORES = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
TABLE = {
    "hinge": (hinge, {}, [2, 1, 0, 0]),
    "squared_hinge": (squared_hinge, {}, [4, 1, 0, 0]),
    "logistic": (logistic, {}, [1.313262, 0.693147, 0.313262, 0.126928]),
    "logistic_in_bits": (logistic, {"is_in_bits": True}, [1.894636, 1, 0.451941, 0.183118]),
}
SLOPES = {
    "hinge": [-1, -1, 0, 0],
    "squared_hinge": [-4, -2, 0, 0],
    "logistic": [-0.731059, -0.5, -0.268941, -0.119203],
    "logistic_in_bits": [-1.054695, -0.721348, -0.388001, -0.171974],
}


def problem(n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.from_numpy(normal(5, Purpose.DIAGNOSTICS, 2, rows=range(n))).double()
    return 3 * draws[:, 0], (draws[:, 1] > 0).double()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_values_and_slopes_by_margin(name) -> None:
    loss, options, values = TABLE[name]
    for t in (1.0, -1.0):
        scores = (t * SCORES).requires_grad_()
        targets = torch.full((4,), (t + 1) / 2)
        found = loss(scores, targets, reduction="none", **options)
        assert found.tolist() == pytest.approx(values, abs=1e-6)
        (slope,) = torch.autograd.grad(found.sum(), scores)
        # At m = 1 the hinge has its kink: 0 is chosen.
        assert slope.tolist() == pytest.approx([t * s for s in SLOPES[name]], abs=1e-6)


def test_logistic_is_the_cross_entropy() -> None:
    s, y = problem()
    expected = binary_cross_entropy(s, y, reduction="none")
    assert torch.allclose(logistic(s, y, reduction="none"), expected, rtol=1e-14)


@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_squared_hinge_is_the_square_of_the_hinge(margin) -> None:
    s, y = problem()
    found = squared_hinge(s, y, reduction="none", margin=margin)
    assert torch.equal(found, hinge(s, y, reduction="none", margin=margin) ** 2)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_convex(name) -> None:
    loss, options, _ = TABLE[name]
    a, y = problem()
    b = a.flip(0)
    ends = loss(a, y, reduction="none", **options) + loss(b, y, reduction="none", **options)
    middle = loss((a + b) / 2, y, reduction="none", **options)
    assert bool((middle <= ends / 2 + 1e-12).all())


@pytest.mark.parametrize("name", ["hinge", "squared_hinge", "logistic_in_bits"])
def test_never_below_the_number_of_mistakes(name) -> None:
    loss, options, _ = TABLE[name]
    s, y = problem()
    mistakes = ((2 * y - 1) * s < 0).double()
    assert bool((loss(s, y, reduction="none", **options) >= mistakes).all())


def test_scale_of_scores_and_margin() -> None:
    s, y = problem()
    k = 8.0
    assert torch.allclose(hinge(k * s, y, margin=k), k * hinge(s, y), rtol=1e-12)
    assert torch.allclose(squared_hinge(k * s, y, margin=k), k**2 * squared_hinge(s, y), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_costs_of_the_two_sides(name) -> None:
    loss, options, _ = TABLE[name]
    s, y = problem()
    plain = loss(s, y, reduction="none", **options)
    costly = loss(s, y, reduction="none", negative_cost=2, positive_cost=5, **options)
    assert torch.allclose(costly, plain * torch.where(y == 1, 5.0, 2.0), rtol=1e-14)


def test_hinge_equals_that_of_scikit_learn() -> None:
    s, y = problem()
    expected = hinge_loss((2 * y - 1).numpy(), s.numpy())
    assert float(hinge(s, y)) == pytest.approx(expected, rel=1e-12)


def test_crammer_singer_equals_that_of_scikit_learn() -> None:
    s = torch.from_numpy(normal(6, Purpose.DIAGNOSTICS, 4, rows=range(100))).double()
    classes = torch.arange(100).remainder(4)
    found = crammer_singer(s, torch.nn.functional.one_hot(classes, 4))
    expected = hinge_loss(classes.numpy(), s.numpy())
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_crammer_singer_by_hand() -> None:
    s = torch.tensor([[3.0, 1.0, 1.5], [0.0, 2.0, 1.5], [0.0, 2.0, 1.5]], requires_grad=True)
    y = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    found = crammer_singer(s, y, reduction="none")
    assert found.tolist() == [0.0, 1.5, 3.0]
    (slope,) = torch.autograd.grad(found.sum(), s)
    assert slope.tolist() == [[0, 0, 0], [0, 1, -1], [-1, 1, 0]]
    assert crammer_singer(s, y, reduction="none", margin=2.0).tolist() == [0.5, 2.5, 4.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"margin": 0.0}, "margin: expected margin > 0, got 0"),
        ({"margin": math.nan}, "margin: expected margin > 0, got nan"),
        ({"positive_cost": -1.0}, "positive_cost: expected a finite cost >= 0, got -1"),
        ({"negative_cost": math.inf}, "negative_cost: .*got inf"),
    ],
)
def test_bad_parameters_are_refused(arguments, words) -> None:
    with pytest.raises(ValueError, match=words):
        hinge(*problem(), **arguments)
