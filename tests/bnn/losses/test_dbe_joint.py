import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.losses import binary_cross_entropy, dbe_joint
from bnn.losses.dbe_joint import rare_positive_weight
from kernels import Purpose, normal, uniform

SOFTMAX_TERM = 0.991311
BCE_TERMS = [0.126928, 0.313262, 0.474077]
TOTAL = 1.905578
SIX_DIGITS = 1e-6


def labels(n: int = 40, n_labels: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and targets; about a fifth of the rows have no positive."""
    z = torch.from_numpy(normal(2, Purpose.DIAGNOSTICS, n_labels, rows=range(n))).double() * 2
    y = torch.from_numpy(uniform(3, Purpose.DIAGNOSTICS, n_labels, rows=range(n))) < 0.25
    return z, y.double()


def test_values_of_one_sample() -> None:
    z, y = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64), torch.tensor([[1, 0, 1]])
    assert float(dbe_joint(z, y, nu=0.0)) == pytest.approx(SOFTMAX_TERM, abs=SIX_DIGITS)
    elements = dbe_joint(z, y, rho=1.0, reduction="none") - dbe_joint(
        z, y, nu=0.0, reduction="none"
    )
    assert elements[0].tolist() == pytest.approx(BCE_TERMS, abs=SIX_DIGITS)
    assert float(elements.sum()) == pytest.approx(0.914267, abs=SIX_DIGITS)
    assert float(dbe_joint(z, y, rho=1.0)) == pytest.approx(TOTAL, abs=SIX_DIGITS)
    assert float(dbe_joint(z, y, rho=1.0, reduction="sum")) == pytest.approx(TOTAL, abs=SIX_DIGITS)
    # rho and nu scale the terms that they should.
    weighted = SOFTMAX_TERM + 0.5 * (3 * (BCE_TERMS[0] + BCE_TERMS[2]) + BCE_TERMS[1])
    assert float(dbe_joint(z, y, nu=0.5, rho=3.0)) == pytest.approx(weighted, abs=2 * SIX_DIGITS)


def test_one_positive_and_no_bce_is_cross_entropy() -> None:
    z, _ = labels()
    classes = torch.arange(40).remainder(5)
    loss = dbe_joint(z, F.one_hot(classes, 5), nu=0.0)
    assert float(loss) == pytest.approx(float(F.cross_entropy(z, classes)), abs=1e-12)


def test_a_row_without_positives_has_only_bce() -> None:
    z, _ = labels()
    none = torch.zeros_like(z)
    assert float(dbe_joint(z, none, nu=0.0)) == 0
    expected = 5 * binary_cross_entropy(z, none)
    assert float(dbe_joint(z, none, rho=7.0)) == pytest.approx(float(expected))
    # It still counts in the mean.
    y = none.clone()
    y[0, 2] = 1
    alone = dbe_joint(z[:1], y[:1], nu=0.0)
    assert float(dbe_joint(z, y, nu=0.0)) == pytest.approx(float(alone) / 40)


def test_gradient_formula() -> None:
    z, y = labels()
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(dbe_joint(z, y, nu=0.7, rho=3.0), z)
    p, n_positives = torch.sigmoid(z.detach()), y.sum(1, keepdim=True)
    softmax = torch.softmax(z.detach(), 1) - y / n_positives.clamp(min=1)
    bce = p * (1 - y + 3 * y) - 3 * y
    expected = (torch.where(n_positives > 0, softmax, 0) + 0.7 * bce) / 40
    assert torch.allclose(gradient, expected, atol=1e-12)
    assert bool((n_positives == 0).any())
    assert bool((n_positives > 1).any())


def test_permuting_labels_permutes_gradients() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    z, y = labels()
    rho = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    gradients = []
    for chosen in (torch.arange(5), order):
        scores = z[:, chosen].requires_grad_()
        loss = dbe_joint(scores, y[:, chosen], rho=rho[chosen])
        gradients.append(torch.autograd.grad(loss, scores)[0])
    assert torch.allclose(gradients[0][:, order], gradients[1], atol=1e-14)


def test_positives_weigh_as_they_are_rare() -> None:
    y = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]])
    assert rare_positive_weight(y) == 3
    assert rare_positive_weight(y, mask=torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]])) == 2
    assert rare_positive_weight(1 - y) == 1
    assert rare_positive_weight(F.one_hot(torch.zeros(1, dtype=torch.long), 30)) == 10
    assert rare_positive_weight(torch.zeros(4)) == 4
    assert rare_positive_weight(torch.zeros(40)) == 10
    z, _ = labels(2, 4)
    assert torch.equal(dbe_joint(z, y), dbe_joint(z, y, rho=3.0))


def test_a_masked_label_is_as_if_it_did_not_exist() -> None:
    z, y = labels()
    mask = torch.ones_like(z)
    mask[:, 1] = 0
    kept = [0, 2, 3, 4]
    expected = float(dbe_joint(z[:, kept], y[:, kept]))
    z.requires_grad_()
    masked = dbe_joint(z, y, mask=mask)
    assert masked.item() == pytest.approx(expected, abs=1e-12)
    assert not bool(torch.autograd.grad(masked, z)[0][:, 1].any())
    elements = dbe_joint(z, y, mask=mask, reduction="none")
    assert not bool(elements[:, 1].any())


def test_ragged_mask_averages_over_samples_that_count() -> None:
    z, y = labels(3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]])
    rows = [
        dbe_joint(z[i : i + 1, mask[i] == 1], y[i : i + 1, mask[i] == 1], rho=2.0) for i in (0, 2)
    ]
    expected = float(rows[0] + rows[1]) / 2
    assert float(dbe_joint(z, y, rho=2.0, mask=mask)) == pytest.approx(expected, abs=1e-12)


def test_sample_weights() -> None:
    z, y = labels()
    weight = torch.arange(40.0).unsqueeze(1)
    rows = dbe_joint(z, y, rho=2.0, reduction="none").sum(1)
    total = float((rows * weight[:, 0]).sum())
    assert float(dbe_joint(z, y, weight, rho=2.0)) == pytest.approx(total / 40)
    by_weight = dbe_joint(z, y, weight, rho=2.0, normalize="weights")
    assert float(by_weight) == pytest.approx(total / float(weight.sum()))
    assert float(dbe_joint(z, y, 0 * weight, normalize="weights")) == 0


def test_a_single_label_is_binary_cross_entropy() -> None:
    z, y = labels()
    expected = float(binary_cross_entropy(z[:, 0], y[:, 0], pos_weight=2.0))
    assert float(dbe_joint(z[:, 0], y[:, 0], rho=2.0)) == pytest.approx(expected)
    assert float(dbe_joint(z[:, :1], y[:, :1], rho=2.0)) == pytest.approx(expected)
    mask = torch.arange(40) < 30
    masked = float(dbe_joint(z[:, 0], y[:, 0], rho=2.0, mask=mask))
    assert masked == pytest.approx(float(dbe_joint(z[:30, 0], y[:30, 0], rho=2.0)))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("nu: expected finite values >= 0, got -1", {"nu": -1.0}),
        ("rho: expected finite values >= 0, got nan", {"rho": math.nan}),
        ("targets: .* no soft labels", {"targets": torch.full((2, 3), 0.5)}),
    ],
)
def test_bad_arguments(words: str, arguments: dict) -> None:
    targets = arguments.pop("targets", torch.ones(2, 3))
    with pytest.raises(ValueError, match=words):
        dbe_joint(torch.zeros(2, 3), targets, **arguments)


def test_more_than_two_axes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"logits: expected shape \(N,\) or \(N, C\), got \(2, 3, 4\)"
    ):
        dbe_joint(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
