"""Focal loss: cross-entropy that fades for samples which are already right."""

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


def focal(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Focal loss of C independent binary labels.

    .. math:: \mathrm{FL} = -\alpha_t (1 - p_t)^\gamma \log p_t, \qquad p_t = \sigma(t z), \qquad
              t = 2y - 1

    .. math:: \frac{d\,\mathrm{FL}}{dz} = t\,\alpha_t (1 - p_t)^\gamma
              (\gamma p_t \log p_t - (1 - p_t))

    Parameters
    ----------
    logits
        Shape (N,) or (N, C).
    targets
        Same shape, in {0, 1}.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`.
    gamma
        Focus, at least 0; 0 is the cross-entropy.
    alpha
        Weight of positives in [0, 1], negatives weigh 1 - alpha; None weighs neither. The usual
        0.25 makes positives count *less*: against plain imbalance choose 0.5 and more, or None.
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

    Notes
    -----
    Formula and defaults from memory of [1]_; the gradient is derived here and tested. Start the
    last bias at :func:`initial_bias`, or the many negatives dominate the first steps.

    References
    ----------
    .. [1] Lin et al. (2017), Focal loss for dense object detection, arXiv:1708.02002.
    """
    _check_gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected 0 <= alpha <= 1 or None, got {alpha}")
    logits = logits_of(logits, from_probs)
    targets = check(logits, targets)
    correct = signs_of(targets) * logits
    # 1 - p_t as exp(-softplus): a power of the difference loses digits and has infinite slope at 0.
    values = torch.exp(-gamma * softplus(correct)) * softplus(-correct)
    if alpha is not None:
        values = values * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def softmax_focal(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    gamma: float = 2.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
) -> Tensor:
    r"""Focal loss of one class among C.

    .. math:: \mathrm{FL} = -(1 - p_y)^\gamma \log p_y, \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    logits
        Shape (N, C), C at least 2.
    targets
        Same shape, one-hot.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`, one number per sample: shape (N,).
    gamma
        Focus, at least 0; 0 is the cross-entropy.

    Returns
    -------
    Tensor
        Shape (), or (N,) with "none".

    Raises
    ------
    ValueError
        If shapes differ, a row is not one-hot, or a choice is unknown.

    Notes
    -----
    The multi-class form of [1]_, from memory; log(1 - p_y) is a difference of two log-sum-exps.

    References
    ----------
    .. [1] Lin et al. (2017), Focal loss for dense object detection, arXiv:1708.02002.
    """
    _check_gamma(gamma)
    logits = logits_of(logits, from_probs=False)
    is_class = check_one_hot(logits, targets) == 1
    log_total = logits.logsumexp(1)
    log_others = logits.masked_fill(is_class, -torch.inf).logsumexp(1)
    values = torch.exp(gamma * (log_others - log_total)) * (log_total - logits[is_class])
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def initial_bias(prior: float = 0.01) -> float:
    r"""Bias of the last layer that starts with probability ``prior``: -ln((1 - prior) / prior).

    Raises
    ------
    ValueError
        If ``prior`` is not inside (0, 1).
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior: expected 0 < prior < 1, got {prior}")
    return -math.log((1 - prior) / prior)


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma: expected gamma >= 0, got {gamma}")
