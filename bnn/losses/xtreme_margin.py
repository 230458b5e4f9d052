"""Xtreme Margin loss: bounded, with one number per class for how much confidence is worth.

The formula is that of a public write-up of the paper; gradients and limits were derived here.
"""

import math

import torch
from torch import Tensor

from bnn.losses.reduction import Normalize, Reduction, check, logits_of, reduce, signs_of, softplus


def xtreme_margin(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    lambda_negative: float | Tensor = 1.0,
    lambda_positive: float | Tensor = 1.0,
    mix: float = 1.0,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Error of the probability on mistakes, a reward for confidence elsewhere.

    With :math:`p = \sigma(z)` and the label's constant :math:`\lambda_y`:

    .. math:: \ell = e \, |p - y| \text{ if } |p - y| \ge \tfrac12, \qquad
              \ell = \frac{1}{1 + \lambda_y (2p - 1)^2} \text{ else}

    .. math:: \frac{\partial \ell}{\partial p} = \pm e, \qquad
              \frac{\partial \ell}{\partial p} =
              -\frac{4 \lambda_y (2p - 1)}{(1 + \lambda_y (2p - 1)^2)^2}

    Parameters
    ----------
    logits
        z, shape (N,) or (N, C); C columns are C binary problems.
    targets
        y, shape of ``logits``, values in {0, 1}.
    lambda_negative
        :math:`\lambda_1` of the paper, for y = 0; not negative, broadcasts to ``logits``.
    lambda_positive
        :math:`\lambda_2` of the paper, for y = 1. Larger values pay for confidence on the class;
        .1, 1, 5, 10, 50 are worth trying.
    mix
        :math:`\mu` in :math:`(1 - \mu) \text{BCE} + \mu \ell`, in [0, 1]; for a warm start.
    weight, mask, reduction, normalize
        As :func:`~bnn.losses.reduction.reduce`.
    from_probs
        Whether ``logits`` are probabilities.

    Returns
    -------
    Tensor
        Shape () or, for "none", of ``logits``; an element lies in :math:`(0, e]`.

    Raises
    ------
    ValueError
        If the targets are not in {0, 1}, a lambda is negative or not finite, or ``mix`` is outside
        [0, 1]; and as :func:`~bnn.losses.reduction.check`.

    Notes
    -----
    Neither convex nor continuous: at p = ½ it jumps from 1 to e/2. There the correct side is flat,
    and far on the wrong side the slope in z vanishes: confident mistakes are given up, which helps
    with wrong labels and makes a cold start slow. Begin with ``mix=0`` and raise it, or train with
    cross-entropy first. p = ½ itself is a mistake for either label; the paper's rounding would call
    it correct for y = 1, with the value of a mistake.

    References
    ----------
    .. [1] Wali (2022), Xtreme Margin: a tunable loss function for binary classification problems,
       arXiv:2211.00176.
    """
    z = logits_of(logits, from_probs)
    y = check(z, targets)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix: expected 0 <= mix <= 1, got {mix}")
    negative = _constant("lambda_negative", lambda_negative, z)
    reward = torch.where(y == 1, _constant("lambda_positive", lambda_positive, z), negative)
    margin = signs_of(y) * z
    distance = torch.sigmoid(-margin)  # |p - y|, and (2p - 1)^2 = (1 - 2|p - y|)^2
    correct = 1 / (1 + reward * (1 - 2 * distance).square())
    # By the logit, because a distance of 1/2 may be a rounded one.
    values = torch.where(margin > 0, correct, math.e * distance)
    if mix < 1:
        values = torch.lerp(softplus(-margin), values, mix)
    return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)


def _constant(name: str, value: float | Tensor, z: Tensor) -> Tensor:
    constant = torch.as_tensor(value, dtype=z.dtype, device=z.device)
    if not bool((torch.isfinite(constant) & (constant >= 0)).all()):
        raise ValueError(f"{name}: expected finite values >= 0, got {value}")
    return constant
