"""Binarisers and the int8 weight rounding, each with its pseudo-gradient.

Bit 1 is +1, bit 0 is -1 and ``sign(0) = +1`` everywhere. A binariser maps a tensor to ±1 of the
same shape and dtype; what distinguishes two binarisers is only the derivative used in backward.
One more binariser = one function here and one line in ``QUANTIZERS``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import torch_ops

_WORD_BITS = 32
_ROW = 1 << 12
"""Longest row of a packed mask: many rows, because rows are what is shared among threads."""
INT8_MAX = 127
"""Largest magnitude of an int8 weight; -128 is never used, so negation stays in range."""


def sign(x: Tensor) -> Tensor:
    """Sign that is never zero: +1 where ``x >= 0``, else -1; no gradient.

    ``torch.sign`` has a third value at 0 and must not be used in a binary network.
    """
    x = x.detach()
    # Comparing into floats is vectorised, comparing into bools and converting is not.
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


def ste_sign(x: Tensor, clip: float = 1.0) -> Tensor:
    r"""Sign with the clipped straight-through estimator.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } |x| \le c \text{ else } 0

    Parameters
    ----------
    x
        Any shape, floating.
    clip
        The bound c, inclusive; 1.0 in [1]_.

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
    if not clip > 0:
        raise ValueError(f"clip: expected clip > 0, got {clip}")
    result: Tensor = _SteSign.apply(x, clip)  # type: ignore[no-untyped-call]
    return result


def approx_sign(x: Tensor) -> Tensor:
    r"""Sign with the triangular pseudo-gradient of Bi-Real Net.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := 2 - 2|x| \text{ if } |x| \le 1 \text{ else } 0

    The derivative of the piecewise quadratic that approximates sign most closely among those which
    leave it only on [-1, 1].

    Parameters
    ----------
    x
        Any shape, floating.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``.

    References
    ----------
    .. [1] Liu et al. (2018), Bi-Real Net, arXiv:1808.00278.
    """
    result: Tensor = _ApproxSign.apply(x)  # type: ignore[no-untyped-call]
    return result


def int8_scale(weights: Tensor, *, per_channel: bool) -> Tensor:
    r"""Step of the symmetric int8 grid that just holds the weights.

    .. math:: s = \max |w| / 127

    Parameters
    ----------
    weights
        Shape (C_out, ...); the maximum runs over everything but the first axis, or over all.
    per_channel
        One scale per output channel, or one for the whole tensor.

    Returns
    -------
    Tensor
        Shape (C_out, 1, ...) or (), without gradient; 1 where all weights are zero.
    """
    magnitude = weights.detach().abs()
    if per_channel:
        largest = magnitude.flatten(1).amax(dim=1).reshape(-1, *[1] * (weights.dim() - 1))
    else:
        largest = magnitude.max()
    return torch.where(largest > 0, largest / INT8_MAX, torch.ones_like(largest))


def int8_weights(weights: Tensor, scale: Tensor) -> Tensor:
    r"""Fake-quantised weights in units of their scale: integers in [-127, 127], held as floats.

    .. math:: q(w) = \operatorname{clip}(\operatorname{round}(w / s), -127, 127), \qquad
              \frac{\partial q}{\partial w} := 1 / s

    Straight through: rounding and clipping count as the identity in backward. ``scale * q`` is the
    usual fake-quantised weight; the integers themselves are returned because a sum of products of
    integers is exact in floats, which is what makes training and the integer network agree.

    Parameters
    ----------
    weights
        Any shape, floating.
    scale
        Broadcastable to ``weights``, positive; treated as a constant.

    Returns
    -------
    Tensor
        Shape and dtype of ``weights``.
    """
    result: Tensor = _StraightRound.apply(weights, scale, INT8_MAX)  # type: ignore[no-untyped-call]
    return result


def int32_bias(bias: Tensor, scale: Tensor) -> Tensor:
    r"""Bias in units of an accumulator, rounded: integers held as floats.

    .. math:: q(b) = \operatorname{round}(b / s), \qquad \frac{\partial q}{\partial b} := 1 / s

    Parameters
    ----------
    bias
        Any shape, floating.
    scale
        Value of one unit of the accumulator, positive; treated as a constant.

    Returns
    -------
    Tensor
        Shape and dtype of ``bias``.
    """
    result: Tensor = _StraightRound.apply(bias, scale, torch.inf)  # type: ignore[no-untyped-call]
    return result


class _SteSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: float) -> Tensor:
        ctx.memory_format = (
            torch.channels_last
            if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        _, within = torch_ops.pack_signs(_whole_words(x.detach(), ctx.memory_format), clip)
        ctx.save_for_backward(within)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (within,) = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous(memory_format=ctx.memory_format)
        clipped = torch_ops.masked(_whole_words(gradient, ctx.memory_format), within)
        return clipped.as_strided(gradient.shape, gradient.stride()), None


def _whole_words(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The elements in the order of memory, in rows that fill their words if their number allows."""
    flat = x.contiguous(memory_format=memory_format)
    if memory_format is torch.channels_last:
        flat = flat.permute(0, 2, 3, 1)
    power = flat.numel() & -flat.numel()
    return flat.reshape(-1, min(power, _ROW) if power >= _WORD_BITS else max(flat.numel(), 1))


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # 2 - 2|x| is negative exactly where |x| > 1, so one clamp is both branches.
        slope: Tensor = (2 - 2 * x.abs()).clamp_(min=0)
        return grad_outputs[0] * slope


class _StraightRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(scale)
        return torch.round(x / scale).clamp_(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (scale,) = ctx.saved_tensors
        return grad_outputs[0] / scale, None, None


QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "approx_sign": approx_sign,
    "ste_sign": ste_sign,
}
