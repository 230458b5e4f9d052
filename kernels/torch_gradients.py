"""Straight-through gradients of the binary layers, clipped where the latent value is beyond 1.

Both forward functions multiply signs, so both gradients are products with the other operand's
signs, and ``sign`` itself passes a gradient on where ``|x| <= 1``. Of x two bits per element are
saved, its sign and whether it is within the clip; of the weight the parameter itself. Imported by
:mod:`kernels.torch_ops` only.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Gradient: TypeAlias = tuple[Callable[..., Any], Callable[..., None]]
"""The backward function and the one that saves what it needs."""


def _save(ctx: Any, x: Tensor, weight: Tensor, words: Tensor, within: Tensor) -> None:
    ctx.save_for_backward(words, within, weight)
    ctx.n_in = x.shape[-1 if weight.dim() == 2 else 1]
    ctx.dtype = x.dtype
    # Under autocast a product of floats has gradients of the lower precision; so has this one.
    device = x.device.type
    is_lower = torch.is_autocast_enabled(device)
    lower = torch.get_autocast_dtype(device) if is_lower else torch.float32
    ctx.gradient_dtype = torch.bfloat16 if lower == torch.bfloat16 else torch.float32


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight = inputs
    _save(ctx, x, weight, *torch.ops.bitspin.pack_signs(x.contiguous()))


def _save_linear_train(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, *inputs[:2], *output[1:])


def _linear(
    ctx: Any, gradient: Tensor, *of_words: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None]:
    words, within, weight = ctx.saved_tensors
    product = torch.ops.bitspin.signs_product
    n_out, n_in = weight.shape
    rows = gradient.reshape(-1, n_out).to(ctx.gradient_dtype).contiguous()
    # Before the products: those of the weight serve both.
    weight_words, weight_within = torch.ops.bitspin.pack_signs(weight.contiguous())
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        mask = within.view(rows.shape[0], -1) if within.numel() else None
        grad_x = product(rows, weight_words, n_in, False, mask, ctx.dtype)
        grad_x = grad_x.view(*gradient.shape[:-1], n_in)
    if ctx.needs_input_grad[1]:
        words = words.view(rows.shape[0], -1)
        grad_weight = product(rows, words, n_in, True, weight_within, weight.dtype)
    return grad_x, grad_weight, None


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *options = inputs
    pixels = x.permute(0, 2, 3, 1).contiguous()
    _save(ctx, x, weight, *torch.ops.bitspin.pack_signs(pixels))
    ctx.stride, ctx.padding, ctx.groups, ctx.border = options


def _save_conv2d_train(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, *options, _ = inputs
    _save(ctx, x, weight, *output[1:])
    ctx.stride, ctx.padding, ctx.groups, ctx.border = options


def _conv2d(ctx: Any, gradient: Tensor, *of_words: Tensor | None) -> tuple[Tensor | None, ...]:
    """The signs exist as reals only here, for the library's convolutions of reals.

    On CUDA a float32 gradient is rounded as ``torch.backends.cudnn.allow_tf32`` says.
    """
    words, within, weight = ctx.saved_tensors
    high, wide = ctx.padding
    height, width = words.shape[1:3]
    is_minus_one = ctx.border == "minus_one"
    if is_minus_one:
        words = F.pad(words, (0, 0, wide, wide, high, high))  # a zero bit is -1
    signs = torch.ops.bitspin.unpack_signs(words, ctx.n_in, ctx.gradient_dtype)
    weight_signs = torch.where(weight >= 0, 1.0, -1.0).to(ctx.gradient_dtype)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        gradient.to(ctx.gradient_dtype),
        signs.permute(0, 3, 1, 2),
        weight_signs.contiguous(memory_format=torch.channels_last),
        None,
        ctx.stride,
        [0, 0] if is_minus_one else ctx.padding,
        [1, 1],
        False,
        [0, 0],
        ctx.groups,
        [*ctx.needs_input_grad[:2], False],
    )
    if grad_x is not None:
        if is_minus_one:
            grad_x = grad_x[:, :, high : high + height, wide : wide + width]
        if within.numel():
            pixels = grad_x.permute(0, 2, 3, 1).contiguous()
            grad_x = torch.ops.bitspin.masked(pixels, within).permute(0, 3, 1, 2)
        grad_x = grad_x.to(ctx.dtype)
    if grad_weight is not None:
        grad_weight = _clip(grad_weight.to(weight.dtype), weight)
    return grad_x, grad_weight, None, None, None, None, None


def _clip(gradient: Tensor, x: Tensor) -> Tensor:
    """Fused, and strictly inside its bounds: below the next number after 1."""
    bound = 1 + torch.finfo(x.dtype).eps
    clipped: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, -bound, bound)
    return clipped


BINARY_LINEAR: Final[Gradient] = (_linear, _save_linear)
BINARY_LINEAR_TRAIN: Final[Gradient] = (_linear, _save_linear_train)
BINARY_CONV2D: Final[Gradient] = (_conv2d, _save_conv2d)
BINARY_CONV2D_TRAIN: Final[Gradient] = (_conv2d, _save_conv2d_train)
