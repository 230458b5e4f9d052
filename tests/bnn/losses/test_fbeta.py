import logging
import math

import pytest
import torch
from torch import Tensor

from bnn.losses import binary_cross_entropy, fbeta_bce
from bnn.losses.fbeta import KneeBeta, knee, knee_beta
from bnn.losses.fbeta_law import (
    LAWS,
    TruncatedGaussian,
    f_beta,
    f_beta_cdf,
    uniform_f_beta_cdf,
)
from kernels import Purpose, normal, uniform


def test_knee_of_a_saturating_curve() -> None:
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    y = 1.2 * x / (x + 0.2)
    expected = math.sqrt(0.2 * 1.2) - 0.2
    assert expected == pytest.approx(0.2899, abs=1e-4)
    turned = {"rising, concave": (y, expected), "falling, convex": (-y, expected)}
    turned["falling, concave"] = (y.flip(0), 1 - expected)
    turned["rising, convex"] = (-y.flip(0), 1 - expected)
    for curve, place in turned.values():
        assert knee(x, curve) == pytest.approx(place, abs=1e-3)
    # Scales of the axes do not matter.
    assert knee(5 * x - 3, 7 * y + 2) == pytest.approx(5 * expected - 3, abs=5e-3)


def test_no_knee_without_a_bend() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert knee(x, 3 * x + 1) is None
    assert knee(x, -x) is None
    assert knee(x, torch.ones_like(x)) is None
    assert knee(x, 1 + 1e-12 * x.square()) is None  # rounding, not a curve
    assert knee(x, x + 0.03 * x * (1 - x)) is None  # 0.0075 above its chord
    assert knee(x, x + 0.05 * x * (1 - x)) == pytest.approx(0.5)


def test_knee_averages_three_neighbours() -> None:
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    y = torch.sqrt(x)
    y[6] += 0.08  # alone the highest over the chord, with its neighbours not
    assert int((y - x).argmax()) == 6
    assert knee(x, y) == pytest.approx(0.3)


def test_beta_at_the_knee_is_on_its_side() -> None:
    for score in (0.05, 0.3, 0.5, 0.7, 0.95):
        recall = knee_beta(uniform_f_beta_cdf, score)
        precision = knee_beta(uniform_f_beta_cdf, score, side="precision")
        assert 1 < recall < 10
        assert precision == pytest.approx(1 / recall)
    # Where the law says nothing, there is no preference.
    assert knee_beta(uniform_f_beta_cdf, 0.0) == 1
    assert knee_beta(uniform_f_beta_cdf, 1.0) == 1


def problem(n: int = 60) -> tuple[Tensor, Tensor]:
    z = torch.from_numpy(normal(5, Purpose.DIAGNOSTICS, 3, rows=range(n))).double() * 3
    y = (torch.from_numpy(uniform(6, Purpose.DIAGNOSTICS, 3, rows=range(n))) < 0.3).double()
    return z, y


def test_beta_one_is_cross_entropy_and_other_betas_weigh_positives() -> None:
    z, y = problem()
    assert torch.equal(fbeta_bce(z, y), binary_cross_entropy(z, y))
    for beta, power, weight in [(3.0, 1, 3.0), (3.0, 2, 9.0), (0.5, 2, 0.25)]:
        expected = binary_cross_entropy(z, y, pos_weight=weight)
        assert float(fbeta_bce(z, y, beta=beta, weight_power=power)) == pytest.approx(
            float(expected)
        )


def test_gradient_formula() -> None:
    z, y = problem()
    z.requires_grad_()
    beta = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(fbeta_bce(z, y, beta=beta, reduction="sum"), z)
    p, w = torch.sigmoid(z.detach()), beta**2
    assert torch.allclose(gradient, p * (1 - y + w * y) - w * y)
    for label in range(3):
        (alone,) = torch.autograd.grad(
            fbeta_bce(z[:, label], y[:, label], beta=float(beta[label]), reduction="sum"), z
        )
        assert torch.allclose(alone[:, label], gradient[:, label])


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("beta: expected finite values > 0, got 0", {"beta": 0.0}),
        ("beta: .* got inf", {"beta": math.inf}),
        ("weight_power: expected 1 or 2, got 3", {"weight_power": 3}),
    ],
)
def test_bad_arguments(words: str, arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=words):
        fbeta_bce(torch.zeros(2), torch.tensor([0, 1]), **arguments)


def test_update_runs_the_score_and_finds_a_beta_per_label(caplog) -> None:
    chooser = KneeBeta(2, decay=0.75)
    assert chooser.beta.tolist() == [1.0, 1.0]
    precision = torch.tensor([[0.4, 0.9], [0.6, 0.7]])
    recall = torch.tensor([[0.5, 0.8], [0.5, 0.8]])
    with caplog.at_level(logging.INFO, logger="bnn.losses.fbeta"):
        chosen = chooser.update(precision, recall)
    assert chooser.score.tolist() == pytest.approx([0.5, 0.8])
    assert chosen.tolist() == [
        knee_beta(uniform_f_beta_cdf, score) for score in chooser.score.tolist()
    ]
    assert "beta of the labels at the knee: [" in caplog.text
    chooser.update(torch.ones(1, 2), torch.ones(1, 2))
    assert chooser.score.tolist() == pytest.approx([0.75 * 0.5 + 0.25, 0.75 * 0.8 + 0.25])
    # The next loss takes it as it is.
    z, y = problem()
    expected = binary_cross_entropy(z[:, :2], y[:, :2], pos_weight=chooser.beta**2)
    assert torch.equal(fbeta_bce(z[:, :2], y[:, :2], beta=chooser.beta), expected)


@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize("side", ["recall", "precision"])
def test_every_law_and_side_gives_a_beta_in_range(law: str, side: str) -> None:
    chooser = KneeBeta(3, side=side, law=law)
    precision = torch.tensor([[0.4, 0.0, 1.0], [0.5, 0.0, 1.0], [0.3, 0.2, 1.0]])
    recall = torch.tensor([[0.7, 0.0, 1.0], [0.6, 0.1, 1.0], [0.8, 0.1, 1.0]])
    beta = chooser.update(precision, recall)
    assert bool(torch.isfinite(beta).all())
    low, high = (1.0, 10.0) if side == "recall" else (0.1, 1.0)
    assert bool(((beta >= low - 1e-12) & (beta <= high + 1e-12)).all())
    assert beta[0] != 1
    assert beta[2] == 1  # a perfect score has no knee


def test_fitted_laws_are_used() -> None:
    precision, recall = torch.tensor([[0.55], [0.6], [0.65]]), torch.tensor([[0.2], [0.3], [0.4]])
    chooser = KneeBeta(law="gaussian", decay=0.0)
    chosen = float(chooser.update(precision, recall))
    laws = TruncatedGaussian.fit(precision.double()), TruncatedGaussian.fit(recall.double())
    score = 2 * 0.6 * 0.3 / 0.9
    assert chosen == pytest.approx(knee_beta(lambda k, beta: f_beta_cdf(k, beta, *laws), score))
    assert chosen != pytest.approx(knee_beta(uniform_f_beta_cdf, score))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("n_labels: expected 1 or more, got 0", {"n_labels": 0}),
        ("side: expected one of recall, precision, got 'both'", {"side": "both"}),
        ("law: expected one of gaussian, .*, got 'beta'", {"law": "beta"}),
        ("decay: expected 0 <= decay < 1, got 1", {"decay": 1.0}),
    ],
)
def test_bad_choices(words: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=words):
        KneeBeta(**arguments)


def test_bad_statistics() -> None:
    chooser, good = KneeBeta(2), torch.full((3, 2), 0.5)
    with pytest.raises(ValueError, match=r"recall: expected shape \(n_batches, 2\), got \(2, 2\)"):
        chooser.update(good, good[:2])
    with pytest.raises(ValueError, match=r"precision: .* drop NaN batches"):
        chooser.update(good * torch.nan, good)
    with pytest.raises(ValueError, match="precision: expected one or more values"):
        chooser.update(good[:0], good[:0])
    assert chooser.score is None


def toy(first_seed: int, n: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    """Points (n, 3, 5) and labels (n, 5) as trained on and as true, for five seeds.

    5 % positives shifted by (2, 2) and 10 % of the labels flipped; the third coordinate is 1.
    """
    points, seen, true = [], [], []
    for seed in range(first_seed, first_seed + 5):
        draws = torch.from_numpy(uniform(seed, Purpose.DIAGNOSTICS, 2, rows=range(n), index=1))
        label = (draws[:, 0] < 0.05).float()
        place = torch.from_numpy(normal(seed, Purpose.DIAGNOSTICS, 2, rows=range(n)))
        points.append(torch.cat([place + 2 * label.unsqueeze(1), torch.ones(n, 1)], dim=1))
        seen.append(torch.where(draws[:, 1] < 0.1, 1 - label, label))
        true.append(label)
    return torch.stack(points, 2), torch.stack(seen, 1), torch.stack(true, 1)


def precision_and_recall(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    found = (logits > 0).float()
    hits = (found * labels).sum(0)
    return hits / found.sum(0).clamp(min=1), hits / labels.sum(0)


def trained(points: Tensor, seen: Tensor, chooser: KneeBeta | None) -> Tensor:
    """A line per seed, (3, 5), after 6 epochs of 20 steps downhill; without a chooser beta stays 1."""
    weights = torch.zeros(3, 5, requires_grad=True)
    for _ in range(6):
        beta = torch.ones(5) if chooser is None else chooser.beta
        for _ in range(20):
            logits = (points * weights).sum(1)
            loss = fbeta_bce(logits, seen, beta=beta, weight_power=1)
            (gradient,) = torch.autograd.grad(loss, weights)
            weights = (weights - 5 * gradient).detach().requires_grad_()
        if chooser is not None:
            reached = precision_and_recall((points * weights.detach()).sum(1), seen)
            chooser.update(*(value.unsqueeze(0) for value in reached))
    return weights.detach()


def test_recall_side_buys_recall_with_precision() -> None:
    """Rare positives under wrong labels, five seeds; no claim about the paper's figures.

    With beta squared everything is called positive here: recall 1, precision 0.05.
    """
    points, seen, _ = toy(0)
    held_out, _, true = toy(100)
    results = []
    for chooser in (None, KneeBeta(5, decay=0.5)):
        weights = trained(points, seen, chooser)
        results.append(precision_and_recall((held_out * weights).sum(1), true))
    (plain_precision, plain_recall), (precision, recall) = results
    assert bool((precision < plain_precision - 0.5).all())
    assert bool((recall > plain_recall + 0.5).all())
    gain = f_beta(precision, recall, 2.0) - f_beta(plain_precision, plain_recall, 2.0)
    assert bool((gain > 0.1).all())
