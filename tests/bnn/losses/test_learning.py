"""Every loss of the table learns, and what is against imbalance helps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bnn.losses import LOSSES, effective_number_weights, label_weights, positive_weights
from kernels import Purpose, normal

STARTS_WARM = {"xtreme_margin"}
"""Flat where the answer is confidently wrong: 50 steps of cross-entropy first."""


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_learns_what_a_line_separates(name: str) -> None:
    points = torch.from_numpy(normal(7, Purpose.DIAGNOSTICS, 2, rows=range(400)))
    side = (points[:, 0] - 2 * points[:, 1] > 0.3).long()
    points = points + 0.2 * (2 * side - 1).unsqueeze(1) * torch.tensor([1.0, -2.0])
    targets = torch.nn.functional.one_hot(side, 2).float()
    weights = torch.zeros(3, 2, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for step in range(200):
        is_warming = name in STARTS_WARM and step < 50
        loss = LOSSES["binary_cross_entropy" if is_warming else name]
        optimizer.zero_grad()
        loss(points @ weights[:2] + weights[2], targets).backward()
        optimizer.step()
    guess = (points @ weights[:2] + weights[2]).argmax(1)
    assert float((guess == side).float().mean()) >= 0.98


AGAINST_IMBALANCE = {
    "positive_weights": ("binary_cross_entropy", lambda y: {"pos_weight": positive_weights(y)}),
    "class_balanced": (
        "binary_cross_entropy",
        lambda y: {"weight": label_weights(y, effective_number_weights(counts(y)).float())},
    ),
    "focal": ("focal", lambda y: {"alpha": 0.9}),
    "unified_focal": ("unified_focal", lambda y: {}),
}


def counts(targets: Tensor) -> Tensor:
    n_positive = targets.sum()
    return torch.stack([len(targets) - n_positive, n_positive])


def recall_of_the_rare(name: str, options: Callable[[Tensor], dict], seed: int) -> float:
    """One sample in 51 is positive, its class 2.5 standard deviations away from the other."""
    targets = (torch.arange(2040).remainder(51) == 0).float()
    points = torch.from_numpy(normal(seed, Purpose.DIAGNOSTICS, 2, rows=range(2040)))
    points = points + targets.unsqueeze(1) * torch.tensor([2.0, 1.5])
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        LOSSES[name](points @ weights[:2] + weights[2], targets, **options(targets)).backward()
        optimizer.step()
    guess = (points @ weights[:2] + weights[2]) >= 0
    return float(guess[targets == 1].float().mean())


@pytest.fixture(scope="module")
def plain_recall() -> float:
    return sum(recall_of_the_rare("binary_cross_entropy", lambda y: {}, s) for s in range(5)) / 5


@pytest.mark.parametrize("remedy", sorted(AGAINST_IMBALANCE))
def test_remedies_find_more_of_the_rare_class(remedy: str, plain_recall: float) -> None:
    """Recall at the threshold 0, mean of five seeds: at least a tenth above plain cross-entropy."""
    name, options = AGAINST_IMBALANCE[remedy]
    recall = sum(recall_of_the_rare(name, options, seed) for seed in range(5)) / 5
    assert recall >= plain_recall + 0.1
