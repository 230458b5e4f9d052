"""Straight-through gradients of the binary layers, clipped where the latent value is beyond 1.

Both forward functions multiply signs, so both gradients are products with the other operand's
signs, and ``sign`` itself passes a gradient on where ``|x| <= 1``. Imported by
:mod:`kernels.torch_ops` only.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Gradient: TypeAlias = tuple[Callable[..., Any], Callable[..., None]]
"""The backward function and the one that saves what it needs."""
_BORDER_VALUE = {"minus_one": -1.0, "zero": 0.0}


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def _clip(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient * (x.abs() <= 1)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _linear(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = _clip(gradient @ _sign(weight), x)
    if ctx.needs_input_grad[1]:
        n_out, n_in = weight.shape
        rows, signs = gradient.reshape(-1, n_out), _sign(x).reshape(-1, n_in)
        grad_weight = _clip(rows.T @ signs, weight)
    return grad_x, grad_weight


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.stride, ctx.padding, ctx.groups, ctx.border = inputs
    ctx.save_for_backward(x, weight)


def _conv2d(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    high, wide = ctx.padding
    padded = F.pad(_sign(x), (wide, wide, high, high), value=_BORDER_VALUE[ctx.border])
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        gradient,
        padded,
        _sign(weight),
        None,
        ctx.stride,
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        ctx.groups,
        [*ctx.needs_input_grad[:2], False],
    )
    if grad_x is not None:
        height, width = x.shape[2:]
        grad_x = _clip(grad_x[:, :, high : high + height, wide : wide + width], x)
    if grad_weight is not None:
        grad_weight = _clip(grad_weight, weight)
    return grad_x, grad_weight, None, None, None, None


BINARY_LINEAR: Final[Gradient] = (_linear, _save_linear)
BINARY_CONV2D: Final[Gradient] = (_conv2d, _save_conv2d)
