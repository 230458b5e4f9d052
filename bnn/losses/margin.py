"""Margin losses on scores: hinge, squared hinge, logistic, and Crammer and Singer's hinge.

With t = 2y - 1 the margin of a score s is m = t s; a binary network without a last BatchNorm has
scores of order sqrt(K) and needs ``margin`` of that order.
"""

import math

import torch
from torch import Tensor

from bnn.losses.reduction import (
    Normalize,
    Reduction,
    check,
    check_one_hot,
    logits_of,
    reduce,
    signs_of,
    softplus,
)


def hinge(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    margin: float = 1.0,
    negative_cost: float = 1.0,
    positive_cost: float = 1.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Distance by which a score misses its margin.

    .. math:: \ell = \max(0, M - t s), \qquad \frac{d\ell}{ds} = -t\,[t s < M]

    The subgradient at the kink is 0. With (N, C) this is one against all, averaged over both axes.

    Parameters
    ----------
    logits
        Scores s, shape (N,) or (N, C).
    targets
        Same shape, in {0, 1}.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`.
    margin
        M, positive.
    negative_cost, positive_cost
        Factors of the loss where the target is 0 and 1, finite and not negative.
    from_probs
        ``logits`` are probabilities: :func:`bnn.losses.reduction.logits_of`.

    Returns
    -------
    Tensor
        Shape (), or that of ``logits`` with "none".

    Raises
    ------
    ValueError
        If shapes differ, a value is out of range or not finite, or a choice is unknown.
    """
    _check_margin(margin)
    logits, targets = _checked(logits, targets, from_probs)
    values = torch.relu(margin - signs_of(targets) * logits)
    values = values * _costs(targets, negative_cost, positive_cost)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def squared_hinge(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    margin: float = 1.0,
    negative_cost: float = 1.0,
    positive_cost: float = 1.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Square of the hinge: smooth to first order, and sensitive to outliers.

    .. math:: \ell = \max(0, M - t s)^2, \qquad \frac{d\ell}{ds} = -2 t \max(0, M - t s)

    Parameters, result and errors are those of :func:`hinge`. Use it behind a last BatchNorm: on
    integer scores of order sqrt(K) one bad sample outweighs the batch.
    """
    _check_margin(margin)
    logits, targets = _checked(logits, targets, from_probs)
    values = torch.relu(margin - signs_of(targets) * logits).square()
    values = values * _costs(targets, negative_cost, positive_cost)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def logistic(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    is_in_bits: bool = False,
    negative_cost: float = 1.0,
    positive_cost: float = 1.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Logistic loss of the margin, in nats: the binary cross-entropy of hard labels.

    .. math:: \ell = \log(1 + e^{-t s}), \qquad \frac{d\ell}{ds} = -t\,\sigma(-t s)

    Parameters
    ----------
    is_in_bits
        Divide by ln 2, so that the loss is never below the number of mistakes.

    Notes
    -----
    The other parameters, the result and the errors are those of :func:`hinge`.
    """
    logits, targets = _checked(logits, targets, from_probs)
    values = softplus(-signs_of(targets) * logits)
    values = values / math.log(2) if is_in_bits else values
    values = values * _costs(targets, negative_cost, positive_cost)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def crammer_singer(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    margin: float = 1.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
) -> Tensor:
    r"""Hinge of one class among C: its score must lead the best of the others by the margin.

    .. math:: \ell = \max(0, M - s_y + \max_{j \ne y} s_j)

    Parameters
    ----------
    logits
        Scores, shape (N, C), C at least 2.
    targets
        Same shape, one-hot.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`, one number per sample: shape (N,).
    margin
        M, positive.

    Returns
    -------
    Tensor
        Shape (), or (N,) with "none".

    Raises
    ------
    ValueError
        If shapes differ, a row is not one-hot, or a choice is unknown.

    References
    ----------
    .. [1] Crammer, Singer (2001), On the algorithmic implementation of multiclass kernel-based
       vector machines.
    """
    _check_margin(margin)
    logits = logits_of(logits, from_probs=False)
    is_class = check_one_hot(logits, targets) == 1
    best_other = logits.masked_fill(is_class, -torch.inf).amax(1)
    values = torch.relu(margin - logits[is_class] + best_other)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def _checked(logits: Tensor, targets: Tensor, from_probs: bool) -> tuple[Tensor, Tensor]:
    logits = logits_of(logits, from_probs)
    return logits, check(logits, targets)


def _check_margin(margin: float) -> None:
    if not 0 < margin < math.inf:
        raise ValueError(f"margin: expected margin > 0, got {margin}")


def _costs(targets: Tensor, negative: float, positive: float) -> Tensor | float:
    for name, cost in (("negative_cost", negative), ("positive_cost", positive)):
        if not 0 <= cost < math.inf:
            raise ValueError(f"{name}: expected a finite cost >= 0, got {cost}")
    if negative == positive == 1:
        return 1.0
    return torch.where(targets == 1, positive, negative).to(targets.dtype)
