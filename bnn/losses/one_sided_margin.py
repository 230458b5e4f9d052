"""One-sided margin loss: each class has a threshold of its own, given as a parameter.

Re-derived from the abstract of the paper; not a transcription of its formula.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from bnn.losses.reduction import Normalize, Reduction, check, logits_of, reduce

Side = Literal["positive", "negative"]
Negatives = Literal["all", "mean", "hardest"]


def one_sided_margin(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    positive_margin: float = 1.0,
    negative_margin: float = 0.0,
    side: Side = "positive",
    power: Literal[1, 2] = 1,
    negatives: Negatives = "all",
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Hinges at two thresholds: positives are pushed past one, negatives below the other.

    .. math:: \ell(s, 1) = \max(0, m_p - s)^q, \qquad \ell(s, 0) = \max(0, s - m_n)^q,
              \qquad m_p > m_n

    Parameters
    ----------
    logits
        Scores s, shape (N,) or (N, C): C labels, or C classes of which one is the target.
    targets
        Shape of ``logits``, values in {0, 1}; class numbers as one-hot rows.
    positive_margin, negative_margin
        The thresholds m_p and m_n, in units of the score.
    side
        "negative" mirrors the thresholds to (-m_n, -m_p): by default negatives are pushed below
        -1 and positives only to 0.
    power
        The exponent q. For q = 1 the derivative is 0 at the kink.
    negatives
        What the negatives of a row count for: "all" of them 1 each, their "mean" (1 / (C - 1) each
        in a one-hot row), or only the "hardest", the one with the largest score (the first of
        equals). The last two need shape (N, C).
    weight, mask, reduction, normalize
        As in :func:`~bnn.losses.reduction.reduce`; a masked negative is not a negative.
    from_probs
        ``logits`` are probabilities, and their log-odds are the scores.

    Returns
    -------
    Tensor
        Shape () or, for reduction "none", of ``logits``.

    Raises
    ------
    ValueError
        If m_p <= m_n, a choice is unknown, or a shape or value is refused by
        :func:`~bnn.losses.reduction.check`.

    Notes
    -----
    Scores are to be cut at :func:`decision_boundary`, which is 0.5 by default; cutting them at 0
    is a mistake. With c = (m_p + m_n) / 2 and g = (m_p - m_n) / 2 the loss is
    g^q hinge((s - c) / g)^q exactly, hinge and squared hinge for (1, -1): with a trainable bias and
    a free scale only the path of the optimiser differs, so no gain over hinge is promised here.

    References
    ----------
    .. [1] Karimi et al. (2022), one-sided margin loss, arXiv:2206.01002; re-derived from its
       abstract.
    """
    upper, lower = _thresholds(positive_margin, negative_margin, side)
    if power not in (1, 2):
        raise ValueError(f"power: expected 1 or 2, got {power}")
    if negatives not in get_args(Negatives):
        raise ValueError(
            f"negatives: expected one of {', '.join(get_args(Negatives))}, got {negatives!r}"
        )
    scores = logits_of(logits, from_probs)
    targets = check(scores, targets)
    # relu, unlike clamp, has slope 0 at the kink.
    below, above = torch.relu(upper - scores), torch.relu(scores - lower)
    if power == 2:
        below, above = below.square(), above.square()
    share = _share(scores.detach(), targets, mask, negatives)
    values = targets * below + (1 - targets) * share * above
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def decision_boundary(
    positive_margin: float = 1.0, negative_margin: float = 0.0, *, side: Side = "positive"
) -> float:
    r"""Score from which on a sample counts as positive: the midpoint of the thresholds.

    .. math:: c = (m_p + m_n) / 2

    Parameters
    ----------
    positive_margin, negative_margin, side
        As in :func:`one_sided_margin`.

    Returns
    -------
    float
        In units of the score. For one class of many take the argmax instead.

    Raises
    ------
    ValueError
        If m_p <= m_n or ``side`` is unknown.
    """
    upper, lower = _thresholds(positive_margin, negative_margin, side)
    return (upper + lower) / 2


def _thresholds(positive_margin: float, negative_margin: float, side: Side) -> tuple[float, float]:
    if not positive_margin > negative_margin:
        raise ValueError(
            f"positive_margin: expected more than negative_margin {negative_margin:g}, got "
            f"{positive_margin:g}; otherwise no score satisfies both classes"
        )
    if side not in get_args(Side):
        raise ValueError(f"side: expected one of {', '.join(get_args(Side))}, got {side!r}")
    if side == "negative":
        return -negative_margin, -positive_margin
    return positive_margin, negative_margin


def _share(
    scores: Tensor, targets: Tensor, mask: Tensor | None, negatives: Negatives
) -> Tensor | float:
    """What each negative of a row counts for; shape of ``scores``."""
    if negatives == "all":
        return 1.0
    if scores.dim() != 2:
        raise ValueError(
            f"negatives: expected logits of shape (N, C) for {negatives!r}, got "
            f"{tuple(scores.shape)}; use negatives='all'"
        )
    is_negative = targets == 0
    if mask is not None:
        is_negative = is_negative & (mask.expand_as(scores) == 1)
    if negatives == "mean":
        return is_negative.to(scores) / is_negative.sum(dim=1, keepdim=True).clamp(min=1)
    hardest = scores.masked_fill(~is_negative, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.zeros_like(scores).scatter_(1, hardest, 1.0)
