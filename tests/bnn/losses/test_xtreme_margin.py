import math

import pytest
import torch
from torch import Tensor

from bnn.losses import binary_cross_entropy, xtreme_margin

LAMBDAS = [(0.0, 0.0), (1.0, 1.0), (2.0, 5.0)]
# Probability, label, and the loss for each pair of LAMBDAS.
VALUES = [
    (0.9, 1, (1.0, 0.609756, 0.238095)),
    (0.1, 0, (1.0, 0.609756, 0.438596)),
    (1.0, 1, (1.0, 0.5, 0.166667)),
    (0.3, 1, (1.902797,) * 3),
    (0.7, 0, (1.902797,) * 3),
    (0.0, 1, (2.718282,) * 3),
    (1.0, 0, (2.718282,) * 3),
    (0.5, 0, (1.359141,) * 3),
    (0.499, 1, (1.361859,) * 3),
    (0.5, 1, (1.359141,) * 3),
]
# Half a unit of the sixth digit, and a probability of 1 is clamped to 1 - 1e-7.
SIX_DIGITS = 1e-6


def loss(p: Tensor, y: Tensor, lambdas: tuple[float, float], reduction: str = "none") -> Tensor:
    negative, positive = lambdas
    return xtreme_margin(
        p,
        y,
        reduction=reduction,
        lambda_negative=negative,
        lambda_positive=positive,
        from_probs=True,
    )


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values(number: int, dtype: torch.dtype) -> None:
    p = torch.tensor([row[0] for row in VALUES], dtype=dtype)
    y = torch.tensor([row[1] for row in VALUES])
    expected = torch.tensor([row[2][number] for row in VALUES], dtype=dtype)
    assert float((loss(p, y, LAMBDAS[number]) - expected).abs().max()) < SIX_DIGITS


def test_one_half_is_a_mistake_for_both_labels() -> None:
    result = xtreme_margin(torch.zeros(2), torch.tensor([0, 1]), reduction="none")
    assert result.tolist() == pytest.approx([math.e / 2] * 2)
    just_right = xtreme_margin(torch.tensor([-1e-6, 1e-6]), torch.tensor([0, 1]), reduction="none")
    assert just_right.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("lambdas", LAMBDAS)
def test_gradient_in_the_probability(lambdas: tuple[float, float]) -> None:
    p = torch.linspace(0.01, 0.99, 50, dtype=torch.float64).repeat(2).requires_grad_()
    y = torch.arange(100) // 50
    (gradient,) = torch.autograd.grad(loss(p, y, lambdas, "sum"), p)
    q = p.detach()
    reward = torch.tensor(lambdas, dtype=torch.float64)[y]
    correct = -4 * reward * (2 * q - 1) / (1 + reward * (2 * q - 1) ** 2) ** 2
    expected = torch.where((q - y).abs() < 0.5, correct, math.e * torch.sign(q - y))
    assert float((gradient - expected).abs().max()) < 1e-10


def test_a_confident_mistake_has_the_slope_of_the_sigmoid() -> None:
    z = torch.tensor([-8.0, -2.0, 3.0, 9.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1, 1, 0, 0])
    (gradient,) = torch.autograd.grad(xtreme_margin(z, y, reduction="sum"), z)
    slope = torch.sigmoid(z) * torch.sigmoid(-z)
    assert torch.allclose(gradient, math.e * slope * torch.tensor([-1.0, -1.0, 1.0, 1.0]).double())
    assert float(gradient[3]) < 1e-3


def test_turning_probabilities_and_labels_exchanges_the_lambdas() -> None:
    p = torch.linspace(0, 1, 41, dtype=torch.float64).repeat(2)
    y = torch.arange(82) // 41
    assert torch.allclose(loss(p, y, (2.0, 5.0)), loss(1 - p, 1 - y, (5.0, 2.0)), atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_confidence_on_the_correct_side_pays(label: int) -> None:
    p = torch.linspace(0.501, 0.999, 60, dtype=torch.float64)
    p = p if label else 1 - p
    values = loss(p, torch.full((60,), label), (2.0, 5.0))
    assert bool((values.diff() < 0).all())
    constant = loss(p, torch.full((60,), label), (0.0, 0.0))
    assert torch.equal(constant, torch.ones_like(p))


def test_lambda_of_a_class_moves_only_its_correct_samples() -> None:
    p = torch.linspace(0, 1, 42, dtype=torch.float64).repeat(2)  # without 1/2
    y = torch.arange(84) // 42
    lower, higher = loss(p, y, (2.0, 5.0)), loss(p, y, (2.0, 6.0))
    is_correct = (y == 1) & (p > 0.5)
    assert bool((higher[is_correct] < lower[is_correct]).all())
    assert torch.equal(higher[~is_correct], lower[~is_correct])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(dtype: torch.dtype) -> None:
    z = torch.tensor([1e3, -1e3, 1e3, -1e3], dtype=dtype, requires_grad=True)
    values = xtreme_margin(z, torch.tensor([1, 0, 0, 1]), reduction="none", lambda_positive=4.0)
    assert values.tolist() == pytest.approx([0.2, 0.5, math.e, math.e], rel=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), z)
    assert gradient.tolist() == [0.0] * 4


def test_mixture_with_cross_entropy() -> None:
    z = torch.tensor([-3.0, -0.5, 0.2, 4.0], dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    pure = xtreme_margin(z, y, reduction="none")
    entropy = binary_cross_entropy(z, y, reduction="none")
    assert torch.equal(xtreme_margin(z, y, reduction="none", mix=0.0), entropy)
    mixed = xtreme_margin(z, y, reduction="none", mix=0.25)
    assert torch.allclose(mixed, 0.75 * entropy + 0.25 * pure)


def test_labels_have_lambdas_of_their_own() -> None:
    z = torch.tensor([[2.0, 1.0], [-1.0, -3.0]])
    y = torch.tensor([[1, 1], [0, 0]])
    rewards = torch.tensor([0.5, 8.0])
    both = xtreme_margin(
        z, y, reduction="none", lambda_positive=rewards, lambda_negative=rewards.flip(0)
    )
    for label in range(2):
        alone = xtreme_margin(
            z[:, label],
            y[:, label],
            reduction="none",
            lambda_positive=float(rewards[label]),
            lambda_negative=float(rewards[1 - label]),
        )
        assert torch.equal(both[:, label], alone)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("lambda_negative: expected finite values >= 0, got -1", {"lambda_negative": -1.0}),
        ("lambda_positive: .* got nan", {"lambda_positive": math.nan}),
        ("mix: expected 0 <= mix <= 1, got 1.5", {"mix": 1.5}),
    ],
)
def test_bad_arguments(words: str, arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=words):
        xtreme_margin(torch.zeros(2), torch.tensor([0, 1]), **arguments)


def test_soft_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="no soft labels"):
        xtreme_margin(torch.zeros(2), torch.tensor([0.5, 1]))
