"""Weights of -1, 0 and +1."""

from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.pseudo_gradients import straight_through
from bnn.quantizers.ste import check_clip

Threshold: TypeAlias = float | Literal["twn"]
"""A number, or the rule of Ternary Weight Networks."""


def ste_tern(x: Tensor, threshold: Threshold = 0.05, clip: float = 1.0) -> Tensor:
    r"""Ternary step with the clipped straight-through estimator.

    .. math:: q(x) = +1 \text{ if } x > \Delta, \; -1 \text{ if } x < -\Delta, \; \text{else } 0,
              \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } |x| \le c \text{ else } 0

    Parameters
    ----------
    x
        Any shape, floating.
    threshold
        Δ, not negative; "twn" is :func:`twn_threshold` of ``x``, a constant in backward.
    clip
        The bound c, inclusive.

    Returns
    -------
    Tensor
        -1, 0 or +1, shape and dtype of ``x``; for backward it saves one bit per element.

    Raises
    ------
    ValueError
        If ``threshold`` is negative or another word, or ``clip`` is not positive.

    References
    ----------
    .. [1] Li, Liu (2016), Ternary weight networks, arXiv:1605.04711.
    """
    check_clip(clip)
    _check_threshold(threshold)
    delta = twn_threshold(x) if threshold == "twn" else threshold
    return straight_through(x, partial(_ternary, threshold=delta), (-clip, clip))


@torch.no_grad()
def twn_threshold(weights: Tensor) -> Tensor:
    r"""Threshold that is nearly the best for weights of a normal or uniform distribution.

    .. math:: \Delta = \frac{0.7}{n} \sum_{i=1}^{n} |w_i|

    over all weights of the layer, [1]_ of :func:`ste_tern`; shape ().
    """
    return 0.7 * weights.abs().mean()


class SteTern(Quantizer):
    """:func:`ste_tern` as a module; parameters and errors are those of the function."""

    levels = (-1.0, 0.0, 1.0)

    def __init__(self, threshold: Threshold = 0.05, clip: float = 1.0) -> None:
        super().__init__()
        check_clip(clip)
        _check_threshold(threshold)
        self.threshold: Threshold = threshold
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, any shape, to {-1, 0, 1}."""
        return ste_tern(x, self.threshold, self.clip)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"threshold={self.threshold!r}, clip={self.clip}"


def _check_threshold(threshold: float | str) -> None:
    is_known = threshold == "twn" if isinstance(threshold, str) else threshold >= 0
    if not is_known:
        raise ValueError(f"threshold: expected a number >= 0 or 'twn', got {threshold!r}")


def _ternary(x: Tensor, threshold: float | Tensor) -> Tensor:
    return (x > threshold).to(x.dtype) - (x < -threshold).to(x.dtype)
