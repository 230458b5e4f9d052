"""Rounding of the int8 weights and int32 biases of the first and the last layer."""

from typing import Any

import torch
from torch import Tensor

INT8_MAX = 127
"""Largest magnitude of an int8 weight; -128 is never used, so negation stays in range."""


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


class _StraightRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(scale)
        return torch.round(x / scale).clamp_(-limit, limit)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (scale,) = ctx.saved_tensors
        return grad_outputs[0] / scale, None, None
