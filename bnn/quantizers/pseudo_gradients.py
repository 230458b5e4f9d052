"""Sign and the two ways to give a step function a derivative: a clip mask in bits, or x itself.

``straight_through`` remembers one bit of each element (is it within the clip), ``sign_with_slope``
remembers the element. Bit 1 is +1, bit 0 is -1 and ``sign(0) = +1`` everywhere.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import torch_ops

_WORD_BITS = 32
_ROW = 1 << 12
"""Longest row of a packed mask: many rows, because rows are what is shared among threads."""


def sign(x: Tensor) -> Tensor:
    """Sign that is never zero: +1 where ``x >= 0``, else -1; no gradient.

    ``torch.sign`` has a third value at 0 and must not be used in a binary network.
    """
    x = x.detach()
    # Comparing into floats is vectorised, comparing into bools and converting is not.
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


def straight_through(
    x: Tensor, quantize: Callable[[Tensor], Tensor], window: tuple[float, float]
) -> Tensor:
    r"""Any step function with the clipped straight-through estimator.

    .. math:: y = q(x), \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } l \le x \le h \text{ else } 0

    Parameters
    ----------
    x
        Any shape, floating.
    quantize
        q, element by element; its own gradient is not asked for.
    window
        The bounds l and h, inclusive.

    Returns
    -------
    Tensor
        ``quantize(x)``; for backward one bit per element is saved.
    """
    result: Tensor = _StraightThrough.apply(x, quantize, *window)  # type: ignore[no-untyped-call]
    return result


def sign_with_slope(x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Sign with any pseudo-gradient that needs x.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := \text{slope}(x)

    Parameters
    ----------
    x
        Any shape, floating.
    slope
        Shape and dtype as its argument's.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward x itself is saved, not bits.
    """
    result: Tensor = _SignWithSlope.apply(x, slope)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, quantize: Callable[[Tensor], Tensor], low: float, high: float
    ) -> Tensor:
        ctx.memory_format = (
            torch.channels_last
            if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        values = x.detach()
        if low == -high:
            _, within = torch_ops.pack_signs(_whole_words(values, ctx.memory_format), high)
        else:
            inside = ((values >= low) & (values <= high)).to(torch.uint8)
            within = torch_ops.pack(_whole_words(inside, ctx.memory_format), 1.0)
        ctx.save_for_backward(within)
        return quantize(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (within,) = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous(memory_format=ctx.memory_format)
        clipped = torch_ops.masked(_whole_words(gradient, ctx.memory_format), within)
        return clipped.as_strided(gradient.shape, gradient.stride()), None, None, None


def _whole_words(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The elements in the order of memory, in rows that fill their words if their number allows."""
    flat = x.contiguous(memory_format=memory_format)
    if memory_format is torch.channels_last:
        flat = flat.permute(0, 2, 3, 1)
    power = flat.numel() & -flat.numel()
    return flat.reshape(-1, min(power, _ROW) if power >= _WORD_BITS else max(flat.numel(), 1))


class _SignWithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.slope(x), None
