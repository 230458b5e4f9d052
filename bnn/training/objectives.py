"""What a classifier is trained to minimise: losses of (N, C) logits and N class numbers.

Every objective gives one number per sample, so that class weights mean the same for all. One more
is a function and a line in ``OBJECTIVES``.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnn import losses
from bnn.training.config import TrainConfig

Objective = Callable[[Tensor, Tensor, TrainConfig], Tensor]
"""From logits (N, C) and class numbers (N,) to the losses of the samples, shape (N,)."""


def objective(
    logits: Tensor, labels: Tensor, config: TrainConfig, weights: Tensor | None = None
) -> Tensor:
    r"""Mean loss of the samples of one shard.

    .. math:: L = \frac{1}{N} \sum_i w_{y_i} \ell_i

    Parameters
    ----------
    logits
        Shape (N, C).
    labels
        Class numbers, shape (N,), int64.
    config
        Names the loss and gives its options.
    weights
        w, shape (C,); None is 1 for every class. It is divided by N, not by the sum of the
        weights: so a shard counts for what is in it.

    Returns
    -------
    Tensor
        Shape (); not a number if a logit is not finite, whatever the loss makes of that.
    """
    if config.loss == "cross_entropy" and weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if not bool(torch.isfinite(logits).all()):
        # A loss that raised here would leave the other workers waiting for this one's rows.
        return (logits * torch.nan).sum()
    values = OBJECTIVES[config.loss](logits, labels, config)
    return (values if weights is None else values * weights[labels]).mean()


def class_weights(labels: NDArray[np.integer], n_classes: int, config: TrainConfig) -> Tensor:
    """Weights of the classes, shape (n_classes,), float32, from all labels of the training data.

    A class without samples counts as one sample.
    """
    counts = torch.from_numpy(np.bincount(labels, minlength=n_classes)).clamp(min=1)
    return CLASS_WEIGHTS[config.class_weights](counts).to(torch.float32)


def _cross_entropy(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    smoothing = config.label_smoothing
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1])


def _binary_cross_entropy(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    return losses.binary_cross_entropy(logits, targets, reduction="none").mean(1)


def _crammer_singer(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    return losses.crammer_singer(logits, targets, reduction="none", margin=config.margin)


def _focal(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    values = losses.focal(logits, targets, reduction="none", gamma=config.focal_gamma, alpha=None)
    return values.mean(1)


def _hinge(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    return losses.hinge(logits, targets, reduction="none", margin=config.margin).mean(1)


def _logistic(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    return losses.logistic(logits, _one_hot(logits, labels), reduction="none").mean(1)


def _softmax_focal(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    return losses.softmax_focal(logits, targets, reduction="none", gamma=config.focal_gamma)


def _squared_hinge(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    targets = _one_hot(logits, labels)
    return losses.squared_hinge(logits, targets, reduction="none", margin=config.margin).mean(1)


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "crammer_singer": _crammer_singer,
    "focal": _focal,
    "hinge": _hinge,
    "logistic": _logistic,
    "softmax_focal": _softmax_focal,
    "squared_hinge": _squared_hinge,
}
"""Losses of :mod:`bnn.losses` that make sense for one class among C, and the cross-entropy."""

CLASS_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "equal": lambda counts: torch.ones(len(counts)),
    "inverse_frequency": losses.inverse_frequency_weights,
    "effective_number": losses.effective_number_weights,
}
"""Counts of the classes, shape (C,), to their weights."""
