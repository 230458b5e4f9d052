"""Unified focal loss: focal cross-entropy of the elements, focal Tversky index of the regions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.losses.reduction import Normalize, Reduction, check, logits_of, reduce

_STEEP = 1e-7
"""Least 1 - TI that is raised to a power below 1, whose slope at 0 is infinite."""


def unified_focal(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    tversky_weight: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
    is_symmetric: bool = False,
    axis: int = 0,
    smooth: float = 1e-7,
    skip_empty: bool = True,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Focal cross-entropy mixed with the focal Tversky index, for unbalanced classes.

    With p_1 = σ(z), p_0 = 1 - p_1, y_1 = y, y_0 = 1 - y, and sums over a region,

    .. math:: TI_c = \frac{TP_c + \epsilon}{TP_c + \delta FN_c + (1-\delta) FP_c + \epsilon},
              \quad TP_c = \sum y_c p_c, \; FN_c = \sum y_c (1 - p_c), \; FP_c = \sum (1 - y_c) p_c

    .. math:: L = \lambda \, T + (1-\lambda) \operatorname{mean}(f), \qquad \text{symmetric:} \;
              T = \tfrac12 \textstyle\sum_c (1-TI_c)^{1-\gamma}, \;
              f = -(1-\delta)(1-p_0)^\gamma y_0 \ln p_0 - \delta (1-p_1)^\gamma y_1 \ln p_1

    The asymmetric loss, the default, enhances only the foreground in T and suppresses only the
    background in f: there the power of 1 - TI_0 is 1, and the factor (1 - p_1)^γ is left out.

    Parameters
    ----------
    logits
        Shape (N,) or (N, C); with ``axis`` 0 a column is a label and the batch is its region (of
        at least 16 C samples, or the index is noise). Pixels: flatten to (images, pixels), axis 1.
    targets
        Shape of ``logits``, 1 for foreground, 0 for background.
    tversky_weight
        λ in [0, 1]: 0 leaves the focal term, 1 the Tversky term.
    delta
        δ in [0, 1]; above 1/2 a class loses more by its missed elements than by false ones, and f
        weighs the foreground more.
    gamma
        γ in [0, 1), the exponent of both terms.
    is_symmetric
        Treat foreground and background alike.
    axis
        The axis along which a region extends.
    smooth
        ε, in elements.
    skip_empty
        Average T over those classes that occur in the region. If False, a region without
        foreground costs λ/2 or so however small its p_1 are; a ``smooth`` of 1 softens that.
    weight, mask, reduction, normalize
        As in :func:`~bnn.losses.reduction.reduce`, and in the sums of a region: an element of
        weight 2 counts there as two.
    from_probs
        ``logits`` are probabilities p_1.

    Returns
    -------
    Tensor
        Shape () or, for "none", of ``logits``: each element has its f and the T of its region, so
        the mean is L, averaged over regions of equal size.

    Raises
    ------
    ValueError
        If a parameter is out of range, or a shape or value is refused by
        :func:`~bnn.losses.reduction.check`.

    Notes
    -----
    As the authors' code has it: one γ for both terms, where their stand-alone losses have others.
    Its symmetric form names an undefined focal Tversky index; here the power is 1 - γ for both
    classes. Deviations: 1 - TI is held at 1e-7 or more before the power, logarithms are those of
    logits and not clipped, and a class that a region lacks is skipped. The paper's results were
    not reproduced.

    References
    ----------
    .. [1] Yeung et al. (2022), Unified focal loss, arXiv:2102.04525.
    """
    _check_parameters(tversky_weight, delta, gamma, smooth)
    scores = logits_of(logits, from_probs)
    targets = check(scores, targets)
    if not -scores.dim() <= axis < scores.dim():
        raise ValueError(f"axis: expected an axis of logits {tuple(scores.shape)}, got {axis}")
    log_p0, log_p1 = F.logsigmoid(-scores), F.logsigmoid(scores)
    # 1 - p_0 is p_1 and 1 - p_1 is p_0: powers of the rounded differences would lose digits.
    foreground = -delta * targets * log_p1
    background = (delta - 1) * (1 - targets) * log_p0 * (gamma * log_p1).exp()
    if is_symmetric:
        foreground = foreground * (gamma * log_p0).exp()
    tversky = _tversky_term(
        torch.stack((log_p0, log_p1)).exp(),
        torch.stack((1 - targets, targets))
        # Checks weight and mask, and gives the sums of a region what an element counts for.
        * reduce(torch.ones_like(scores), weight=weight, mask=mask, reduction="none"),
        powers=(1 - gamma if is_symmetric else 1.0, 1 - gamma),
        axis=axis % scores.dim() + 1,
        smooth=smooth,
        delta=delta,
        skip_empty=skip_empty,
    )
    values = tversky_weight * tversky + (1 - tversky_weight) * (foreground + background)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def _tversky_term(
    p: Tensor,
    members: Tensor,
    *,
    powers: tuple[float, float],
    axis: int,
    smooth: float,
    delta: float,
    skip_empty: bool,
) -> Tensor:
    """T of each region; ``p`` and ``members`` have the two classes in front, background first."""
    true_positive = (members * p).sum(dim=axis, keepdim=True)
    false_negative = (members * p.flip(0)).sum(dim=axis, keepdim=True)
    # What one class misses is false in the other: FP_0 = FN_1, FP_1 = FN_0.
    false_positive = false_negative.flip(0)
    # 1 - TI is this quotient, without the cancellation near TI = 1.
    wrong = delta * false_negative + (1 - delta) * false_positive
    rest = (wrong / (true_positive + wrong + smooth)).clamp(min=_STEEP)
    terms = torch.stack((rest[0] ** powers[0], rest[1] ** powers[1]))
    if not skip_empty:
        return terms.mean(dim=0)
    is_present = (members.sum(dim=axis, keepdim=True) > 0).to(terms)
    return (is_present * terms).sum(dim=0) / is_present.sum(dim=0).clamp(min=1)


def _check_parameters(tversky_weight: float, delta: float, gamma: float, smooth: float) -> None:
    for name, value in (("tversky_weight", tversky_weight), ("delta", delta)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a value in [0, 1], got {value}")
    if not 0 <= gamma < 1:
        raise ValueError(
            f"gamma: expected a value in [0, 1), got {gamma}; at 1 the Tversky term is constant"
        )
    if not smooth > 0:
        raise ValueError(f"smooth: expected smooth > 0, got {smooth}")
