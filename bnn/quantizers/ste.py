"""Straight-through estimators: the incoming gradient passes unchanged where x is within a clip."""

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.pseudo_gradients import sign, straight_through


def ste_sign(x: Tensor, clip: float = 1.0) -> Tensor:
    r"""Sign with the clipped straight-through estimator.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } |x| \le c \text{ else } 0

    Parameters
    ----------
    x
        Any shape, floating.
    clip
        The bound c, inclusive; 1.0 in [1]_, 1.25 in QuickNet, 1.3 in MeliusNet, 1.5 in BNext.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward it saves one bit per element.

    Raises
    ------
    ValueError
        If ``clip`` is not positive.

    References
    ----------
    .. [1] Hubara et al. (2016), Binarized neural networks, arXiv:1602.02830.
    """
    check_clip(clip)
    return straight_through(x, sign, (-clip, clip))


def identity_sign(x: Tensor) -> Tensor:
    r"""Sign whose gradient is passed on everywhere.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := 1

    Parameters
    ----------
    x
        Any shape, floating.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; nothing is saved for backward.

    Notes
    -----
    Latent weights are not held back by it: nothing but a constraint keeps them near 0.

    References
    ----------
    .. [1] Bengio, Léonard, Courville (2013), Estimating or propagating gradients through
       stochastic neurons, arXiv:1308.3432.
    """
    result: Tensor = _Identity.apply(x)  # type: ignore[no-untyped-call]
    return result


def ste_heaviside(x: Tensor, clip: float = 1.0) -> Tensor:
    r"""Step to {0, 1} with the clipped straight-through estimator.

    .. math:: q(x) = 1 \text{ if } x > 0 \text{ else } 0, \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } |x| \le c \text{ else } 0

    The one binariser that gives its lower value at 0, as in Larq: a unit is on only if its input
    is positive.

    Parameters
    ----------
    x
        Any shape, floating.
    clip
        The bound c, inclusive.

    Returns
    -------
    Tensor
        0 or 1, shape and dtype of ``x``; for backward it saves one bit per element.

    Raises
    ------
    ValueError
        If ``clip`` is not positive.

    References
    ----------
    .. [1] Larq, quantizers, ``SteHeaviside``.
    """
    check_clip(clip)
    return straight_through(x, _heaviside, (-clip, clip))


class SteSign(Quantizer):
    """:func:`ste_sign` as a module; parameter and errors are those of the function."""

    def __init__(self, clip: float = 1.0) -> None:
        super().__init__()
        check_clip(clip)
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return ste_sign(x, self.clip)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"clip={self.clip}"


class IdentitySign(Quantizer):
    """:func:`identity_sign` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return identity_sign(x)


class SteHeaviside(SteSign):
    """:func:`ste_heaviside` as a module; parameter and errors are those of the function."""

    levels = (0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, any shape, to {0, 1}."""
        return ste_heaviside(x, self.clip)


def check_clip(clip: float) -> None:
    """Refuse a clip that passes no gradient at all."""
    if not clip > 0:
        raise ValueError(f"clip: expected clip > 0, got {clip}")


def _heaviside(x: Tensor) -> Tensor:
    return torch.gt(x, 0, out=torch.empty_like(x))


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]
