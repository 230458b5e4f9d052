import math

import numpy as np
import pytest
import torch

from bnn.losses import binary_cross_entropy, effective_numbers
from bnn.losses.resampling import (
    corrected_logits,
    draw,
    effective_probabilities,
    inverse_probabilities,
    label_sets,
    marginals,
    multilabel_probabilities,
    oversample,
    progressive_probabilities,
    undersample,
)
from kernels import Purpose, normal

LABELS = np.repeat([0, 1], [900, 100])
THREE = np.repeat([7, 3, 9], [50, 20, 7])


def test_balanced_draws() -> None:
    indices = draw(inverse_probabilities(LABELS), 10_000, seed=1, epoch=0)
    # 3 standard deviations of a fair coin.
    assert abs(int((LABELS[indices] == 1).sum()) - 5000) <= 150
    within = np.bincount(indices, minlength=1000)[900:]
    assert abs(float(within.mean()) - 50) < 2
    assert float(within.std()) == pytest.approx(math.sqrt(50), rel=0.25)


def test_probabilities_of_a_class() -> None:
    def shares(p):
        assert p.sum() == pytest.approx(1)
        return [float(p[THREE == c].sum()) for c in (7, 3, 9)]

    assert shares(inverse_probabilities(THREE)) == pytest.approx([1 / 3] * 3)
    assert shares(inverse_probabilities(THREE, power=0)) == pytest.approx(
        [50 / 77, 20 / 77, 7 / 77]
    )
    roots = np.sqrt([50, 20, 7])
    assert shares(inverse_probabilities(THREE, power=0.5)) == pytest.approx(roots / roots.sum())
    quarter = [(1 / 3 + 3 * n / 77) / 4 for n in (50, 20, 7)]
    found = progressive_probabilities(THREE, epoch=2, n_epochs=8)
    assert shares(found) == pytest.approx(quarter)
    numbers = effective_numbers(torch.tensor([50, 20, 7]), 0.9).numpy()
    expected = np.array([50, 20, 7]) / numbers
    assert shares(effective_probabilities(THREE, beta=0.9)) == pytest.approx(
        expected / expected.sum()
    )


def test_draws_are_named_by_seed_and_epoch() -> None:
    p = inverse_probabilities(LABELS)
    first = draw(p, 200, seed=1, epoch=0)
    assert np.array_equal(first, draw(p, 200, seed=1, epoch=0))
    assert not np.array_equal(first, draw(p, 200, seed=1, epoch=1))
    assert not np.array_equal(first, draw(p, 200, seed=2, epoch=0))
    assert np.array_equal(first[:50], draw(p, 50, seed=1, epoch=0))


def test_a_draw_never_takes_what_has_no_probability() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    counts = np.bincount(draw(p, 4000, seed=4, epoch=0), minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(counts[1] - 1000) < 3 * math.sqrt(4000 * 0.1875)


def test_undersampled_epochs_are_equal_and_use_everything() -> None:
    seen: set[int] = set()
    for epoch in range(math.ceil(50 / 7)):
        indices = undersample(THREE, seed=2, epoch=epoch)
        assert np.unique(indices).size == indices.size == 21
        assert [int((THREE[indices] == c).sum()) for c in (7, 3, 9)] == [7, 7, 7]
        seen.update(indices.tolist())
    assert seen == set(range(77))


def test_undersampled_laps_differ() -> None:
    n_laps = math.ceil(50 / 7)
    of_class = [
        {i for i in undersample(THREE, seed=2, epoch=e).tolist() if THREE[i] == 7}
        for e in (0, n_laps)
    ]
    assert of_class[0] != of_class[1]


def test_oversampled_epochs_repeat_whole_classes() -> None:
    remainders = []
    for epoch in (0, 1):
        indices = oversample(THREE, seed=2, epoch=epoch)
        assert indices.size == 150
        counts = np.bincount(indices, minlength=77)
        assert set(counts[THREE == 7].tolist()) == {1}
        assert sorted(counts[THREE == 3].tolist()) == [2] * 10 + [3] * 10
        assert sorted(counts[THREE == 9].tolist()) == [7] * 6 + [8]
        remainders.append(counts.tolist())
    assert remainders[0] != remainders[1]


def test_the_order_is_mixed() -> None:
    for indices in (oversample(THREE, seed=2, epoch=0), undersample(THREE, seed=2, epoch=0)):
        n_changes = int((np.diff(THREE[indices]) != 0).sum())
        assert n_changes > indices.size // 3


@pytest.mark.parametrize("method", [undersample, oversample])
def test_ranks_share_one_epoch(method) -> None:
    whole = method(THREE, seed=3, epoch=4)
    parts = [method(THREE, seed=3, epoch=4, rank=r, n_ranks=3) for r in range(3)]
    assert np.array_equal(np.stack(parts, 1).reshape(-1), whole)
    if method is undersample:
        assert len(set(np.concatenate(parts).tolist())) == 21
    with pytest.raises(ValueError, match="rank: expected 0 <= rank < n_ranks = 2, got 2"):
        method(THREE, seed=3, epoch=4, rank=2, n_ranks=2)


def test_drawing_ranks_take_disjoint_draws() -> None:
    p = inverse_probabilities(LABELS)
    whole = draw(p, 101, seed=1, epoch=2)
    for rank in range(3):
        part = draw(p, 101, seed=1, epoch=2, rank=rank, n_ranks=3)
        assert np.array_equal(part, whole[rank::3])


def test_oversampled_loss_is_the_weighted_loss() -> None:
    """900 to 100: every positive is there 9 times, which is pos_weight 9 exactly."""
    z = torch.from_numpy(normal(8, Purpose.DIAGNOSTICS, 1000)[0]).double()
    y = torch.from_numpy(LABELS).double()
    indices = torch.from_numpy(oversample(LABELS, seed=5, epoch=0))
    oversampled = binary_cross_entropy(z[indices], y[indices], reduction="sum")
    weighted = binary_cross_entropy(z, y, reduction="sum", pos_weight=9.0)
    assert float(oversampled) == pytest.approx(float(weighted), rel=1e-12)
    # In expectation, drawing does the same: 4 standard errors.
    drawn = torch.from_numpy(draw(inverse_probabilities(LABELS), 20_000, seed=5, epoch=0))
    losses = binary_cross_entropy(z[drawn], y[drawn], reduction="none")
    error = 4 * float(losses.std()) / math.sqrt(20_000)
    assert abs(float(losses.mean()) - float(weighted) / 1800) < error


def test_prior_correction_recovers_the_prior_of_a_constant_model() -> None:
    indices = oversample(LABELS, seed=5, epoch=0)
    sampled = float(LABELS[indices].mean())
    assert sampled == 0.5
    z = torch.tensor([math.log(sampled / (1 - sampled))], dtype=torch.float64)
    corrected = torch.sigmoid(corrected_logits(z, sampled_prior=sampled, true_prior=0.1))
    assert float(corrected) == pytest.approx(0.1, abs=1e-12)
    z = torch.tensor([0.7])
    assert torch.equal(corrected_logits(z, sampled_prior=0.3, true_prior=0.3), z)


def test_multilabel_weights_follow_the_rarest_label() -> None:
    targets = np.zeros((100, 3), dtype=int)
    targets[:60, 0] = 1
    targets[50:70, 1] = 1
    targets[69:74, 2] = 1
    p = multilabel_probabilities(targets)
    relative = [1 / 60, 1 / 20, 1 / 20, 1 / 5, 1 / 5, 1 / 26]
    found = p[[0, 55, 65, 69, 73, 99]]
    assert (found / found[0]).tolist() == pytest.approx([r * 60 for r in relative])
    plain = marginals(targets, np.arange(100))
    assert plain.tolist() == pytest.approx([0.6, 0.2, 0.05])
    drawn = marginals(targets, draw(p, 20_000, seed=6, epoch=0))
    expected = (p[:, None] * targets).sum(0)
    assert drawn.tolist() == pytest.approx(expected.tolist(), abs=0.015)
    assert drawn[2] > 4 * plain[2]


def test_label_sets_number_what_occurs_together() -> None:
    sets = label_sets([[0, 1], [1, 1], [0, 1], [0, 0]])
    assert sets[0] == sets[2]
    assert len({int(s) for s in sets}) == 3
    indices = undersample(sets, seed=1, epoch=0)
    assert indices.size == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: inverse_probabilities([[0, 1]]), r"labels: .*got int64 of shape \(1, 2\)"),
        (lambda: undersample([], seed=1, epoch=0), "labels: expected class numbers"),
        (lambda: oversample([0.5, 1.0], seed=1, epoch=0), "got float64"),
        (lambda: multilabel_probabilities([[0, 2]]), r"targets: expected shape \(N, C\)"),
        (lambda: draw(np.zeros(3), 1, seed=1, epoch=0), "positive sum, got shape"),
        (lambda: draw(np.array([1.0, np.nan]), 1, seed=1, epoch=0), "probabilities: expected"),
        (lambda: draw(np.array([2.0, -1.0]), 1, seed=1, epoch=0), "probabilities: expected"),
        (lambda: progressive_probabilities([0], epoch=3, n_epochs=2), "n_epochs = 2, got 3"),
        (
            lambda: corrected_logits(torch.zeros(1), sampled_prior=1.0, true_prior=0.1),
            "sampled_prior: expected 0 < sampled_prior < 1, got 1",
        ),
    ],
)
def test_bad_input_is_refused(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()
