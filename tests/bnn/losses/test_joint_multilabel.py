import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import label_ranking_loss
from torch import Tensor

from bnn.losses.cross_entropy import binary_cross_entropy
from bnn.losses.joint_multilabel import (
    RelationPenalty,
    joint_multilabel,
    relation_term,
    two_way_logits,
)
from bnn.losses.label_relations import correlation_relations, emotion_relations
from bnn.quantizers import ste_sign

LARGEST = 2 + math.sqrt(2)  # eigenvalue of the emotions' relations


def batch(n: int, n_labels: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, n_labels, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(n, n_labels, generator=generator) < 0.3).double()


def heads(n_labels: int = 8, n_features: int = 5, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_labels, n_features, generator=generator, dtype=torch.float64)


def test_two_way_softmax_is_half_the_cross_entropy_of_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(20, 9, 2, generator=generator, dtype=torch.float64)
    targets = (torch.rand(20, 9, generator=generator) < 0.5).double()
    two_hot = torch.stack((1 - targets, targets), dim=2)
    authors = -(two_hot * F.log_softmax(pairs, dim=2)).mean()
    ours = joint_multilabel(two_way_logits(pairs), targets)
    assert float(authors) == pytest.approx(float(ours) / 2, abs=1e-12)
    assert two_way_logits(torch.tensor([[1.0, 4.0]])).tolist() == [3.0]
    with pytest.raises(ValueError, match=r"pairs: expected shape \(..., 2\), got \(20, 9\)"):
        two_way_logits(targets)


def test_without_penalty_it_is_binary_cross_entropy() -> None:
    logits, targets = batch(30, 4)
    by_torch = F.binary_cross_entropy_with_logits(logits, targets)
    assert float(joint_multilabel(logits, targets)) == pytest.approx(float(by_torch), abs=1e-12)
    nothing = RelationPenalty(correlation_relations(targets), strength=0.0, l2=0.0)
    with_nothing = joint_multilabel(logits, targets, heads=heads(4), penalty=nothing)
    assert float(with_nothing) == float(joint_multilabel(logits, targets))
    for options in (
        {"pos_weight": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"weight": torch.tensor([1.0, 0.0, 3.0, 4.0]), "normalize": "weights"},
        {"mask": logits > 0, "reduction": "none"},
    ):
        expected = binary_cross_entropy(logits, targets, **options)
        assert torch.equal(joint_multilabel(logits, targets, **options), expected)
    probabilities = joint_multilabel(logits.sigmoid(), targets, from_probs=True)
    assert float(probabilities) == pytest.approx(float(by_torch), abs=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_penalty_is_added_as_it_is(reduction) -> None:
    logits, targets = batch(30, 8)
    w, relations = heads(), emotion_relations()
    penalty = RelationPenalty(relations, strength=0.3, l2=0.2)
    loss = joint_multilabel(logits, targets, reduction=reduction, heads=w, penalty=penalty)
    expected = (
        float(binary_cross_entropy(logits, targets, reduction=reduction))
        + 0.3 * float(relation_term(w, relations))
        + 0.1 * float((w**2).sum())
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_relation_term_by_its_double_sum() -> None:
    generator = torch.Generator().manual_seed(2)
    relations = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    w = heads(6)
    raw, cosine, positive = 0.0, 0.0, 0.0
    for j in range(6):
        for k in range(6):
            omega, squares = float(relations[j, k]), float(((w[j] - w[k]) ** 2).sum())
            raw += omega * squares / 2
            positive += max(omega, 0) * squares / 2
            cosine += omega * (1 - float(w[j] @ w[k] / (w[j].norm() * w[k].norm())))
    for mode, value in (("raw", raw), ("cosine", cosine), ("positive", positive)):
        assert float(relation_term(w, relations, mode)) == pytest.approx(value, rel=1e-10)


def test_relation_term_of_rows_that_sum_to_zero_is_a_trace() -> None:
    w, relations = heads(), emotion_relations().double()
    raw = float(relation_term(w, relations, "raw"))
    assert raw == pytest.approx(-float(torch.trace(w.T @ relations @ w)), abs=1e-9)
    assert raw <= 0


@pytest.mark.parametrize("mode", ["cosine", "positive", "raw"])
def test_equal_heads_cost_nothing(mode) -> None:
    equal = heads()[:1].expand(8, 5)
    assert float(relation_term(equal, emotion_relations(), mode)) == pytest.approx(0, abs=1e-12)


def test_gradient_of_raw_is_the_formula() -> None:
    w, relations = heads().requires_grad_(), emotion_relations().double()
    (gradient,) = torch.autograd.grad(relation_term(w, relations, "raw"), w)
    differences = w.detach()[:, None] - w.detach()[None]
    by_formula = 2 * (relations[..., None] * differences).sum(dim=1)
    torch.testing.assert_close(gradient, by_formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["cosine", "positive", "raw"])
def test_gradient(mode) -> None:
    w, relations = heads().requires_grad_(), emotion_relations().double()
    assert torch.autograd.gradcheck(lambda w: relation_term(w, relations, mode), w)


def test_cosine_sees_directions_only_and_is_bounded() -> None:
    w, relations = heads(), emotion_relations()
    value = float(relation_term(w, relations))
    lengths = torch.arange(1.0, 9.0)[:, None]
    assert float(relation_term(w * lengths, relations)) == pytest.approx(value, abs=1e-9)
    assert abs(value) <= 2 * float(relations.abs().sum())
    # Two heads that should exclude each other, as far apart as they get: omega (1 - cos) = -2.
    apart = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert float(relation_term(apart, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))) == -4.0


def test_cosine_of_a_head_of_zeros() -> None:
    w = heads()
    w[3] = 0
    w.requires_grad_()
    value = relation_term(w, emotion_relations())
    (gradient,) = torch.autograd.grad(value, w)
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())
    zeros = relation_term(torch.zeros(8, 5), emotion_relations())
    # What is left is the sum of omega off the diagonal.
    assert float(zeros) == -8.0


def test_positive_is_convex_and_not_negative() -> None:
    relations = emotion_relations().double()
    for seed in range(10):
        a, b = heads(seed=seed), heads(seed=seed + 100)
        ends = [relation_term(w, relations, "positive") for w in (a, b)]
        assert min(ends) >= 0
        assert relation_term((a + b) / 2, relations, "positive") <= sum(ends) / 2


def test_raw_warns_when_it_has_no_lower_bound() -> None:
    relations = emotion_relations()
    for strength, l2 in ((1e-4, 1e-4), (1e-1, 1e-2), (1.0, 2 * LARGEST - 1e-6)):
        with pytest.warns(UserWarning, match=r"unbounded below.*use mode='cosine'"):
            RelationPenalty(relations, mode="raw", strength=strength, l2=l2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RelationPenalty(relations, mode="raw", strength=1.0, l2=2 * LARGEST + 1e-6)
        RelationPenalty(relations, mode="raw", strength=0.0, l2=0.0)
        RelationPenalty(relations, mode="cosine", strength=1e-1, l2=1e-2)
        RelationPenalty(relations, mode="positive", strength=1e-1, l2=0.0)
        RelationPenalty(torch.ones(3, 3), mode="raw", strength=1e-1, l2=0.0)


@pytest.mark.filterwarnings("ignore:penalty. unbounded below")
@pytest.mark.parametrize(("mode", "diverges"), [("raw", True), ("cosine", False)])
def test_descent_diverges_only_in_raw(mode, diverges) -> None:
    features = heads(40, 5, seed=3)
    targets = batch(40, 8)[1]
    penalty = RelationPenalty(emotion_relations(), mode=mode, strength=1e-1, l2=1e-2)
    w = (0.1 * heads()).requires_grad_()
    losses = []
    for _ in range(60):
        loss = joint_multilabel(features @ w.T, targets, heads=w, penalty=penalty)
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - 0.5 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    if diverges:
        assert losses[-1] < -1e6
        assert float(w.detach().norm()) > 1e4
    else:
        assert losses[-1] < losses[0]
        assert float(w.detach().norm()) < 10


def test_bad_input() -> None:
    logits, targets = batch(30, 8)
    penalty = RelationPenalty(emotion_relations())
    for words, call in [
        ("heads: expected along with penalty", lambda: joint_multilabel(logits, targets, penalty=penalty)),
        ("penalty: expected along with heads", lambda: joint_multilabel(logits, targets, heads=heads())),
        ("reduction: expected mean or sum", lambda: joint_multilabel(logits, targets, None, "none", heads=heads(), penalty=penalty)),
        (r"heads: expected shape \(8, D\).* got \(7, 5\)", lambda: penalty(heads(7))),
        (r"relations: expected shape \(C, C\), got \(2, 3\)", lambda: RelationPenalty(torch.ones(2, 3))),
        ("relations: expected finite", lambda: RelationPenalty(torch.full((2, 2), torch.nan))),
        ("mode: expected one of cosine, positive, raw, got 'pos'", lambda: RelationPenalty(torch.eye(2), mode="pos")),
        ("strength: expected a finite value >= 0, got -1", lambda: RelationPenalty(torch.eye(2), strength=-1)),
        ("l2: expected a finite value >= 0, got nan", lambda: RelationPenalty(torch.eye(2), l2=math.nan)),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def correlated_toy(seed: int) -> tuple[Tensor, Tensor]:
    """700 samples of 20 features; 8 labels are thresholds on 4 hidden factors."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(700, 20, generator=generator)
    factors = torch.tanh(2 * features @ torch.randn(20, 4, generator=generator) / 20**0.5)
    scores = factors @ torch.randn(4, 8, generator=generator)
    noise = 0.3 * torch.randn(700, 8, generator=generator)
    return features, (scores + noise > 0.5).float()


def ranking_loss_of(seed: int, *, is_joint: bool) -> float:
    """Of heads on one binary encoder, or of 8 binary encoders with a head each; 200 samples."""
    features, targets = correlated_toy(seed)
    n_encoders, n_labels = (1, 8) if is_joint else (8, 1)
    generator = torch.Generator().manual_seed(seed + 1000)
    encoders = torch.randn(n_encoders, 20, 32, generator=generator).mul(0.3).requires_grad_()
    weights = torch.randn(n_encoders, n_labels, 32, generator=generator).mul(0.1).requires_grad_()
    biases = torch.zeros(8, requires_grad=True)
    adam = torch.optim.Adam([encoders, weights, biases], lr=5e-3)

    def forward(x: Tensor) -> Tensor:
        codes = ste_sign(x @ encoders)
        return (codes @ weights.mT).permute(1, 0, 2).reshape(len(x), 8) + biases

    penalty = RelationPenalty(correlation_relations(targets[:200]))
    for _ in range(100):
        adam.zero_grad()
        loss = joint_multilabel(
            forward(features[:200]), targets[:200], heads=weights.reshape(8, 32), penalty=penalty
        ) if is_joint else joint_multilabel(forward(features[:200]), targets[:200])  # fmt: skip
        loss.backward()
        adam.step()
    with torch.no_grad():
        return float(label_ranking_loss(targets[200:].numpy(), forward(features[200:]).numpy()))


def test_joint_is_not_worse_than_separate_models() -> None:
    joint, separate = (
        np.mean([ranking_loss_of(seed, is_joint=is_joint) for seed in range(5)])
        for is_joint in (True, False)
    )
    assert joint <= separate
