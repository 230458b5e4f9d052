"""Lowerings of layers with weights: they become convolutions that wait for what follows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from bnn.layers import (
    INT8_UNIT,
    BinaryConv1d,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    Int8Conv2d,
    Int8Head,
)
from bnn.layers.conv_norm import ConvNorm
from bnn.layers.windows import Window
from bnn.lowering.context import Context
from bnn.lowering.elementwise import lower_norm, max_pool
from bnn.lowering.values import Convolution, Label, Value, is_bits
from kernels import DType, OpCode

_DENSE: Final = Window((1, 1), (1, 1), (0, 0))


def lower_binary_conv(context: Context, layer: BinaryConv2d, value: Value) -> Value:
    """Product of bits; the scale of the weights goes into the unit."""
    rank = 3 if isinstance(layer, BinaryConv1d) else 4
    check_rank(context, value, rank)
    weights, scale = binary_weights(layer)
    return of_bits(context, value, weights, scale, layer.window, layer.groups, layer.border, rank)


def lower_binary_linear(context: Context, layer: BinaryLinear, value: Value) -> Value:
    """Dense layer: a convolution whose kernel covers the image."""
    check_rank(context, value, 2)
    rows, scale = binary_weights(layer)
    weights = covering(context, rows, value)
    return of_bits(context, value, weights, scale, _DENSE, 1, "minus_one", 2)


def lower_int8_conv(context: Context, layer: Int8Conv2d, value: Value) -> Value:
    """Int8 weights over pixels, bits or a stream, with a border of 0."""
    check_rank(context, value, 4)
    weights = _integers(context, layer.integer_weight())
    return of_anything(context, value, weights, layer.window, layer.groups, INT8_UNIT, None, 4)


def lower_int8_head(context: Context, layer: Int8Head, value: Value) -> Value:
    """Int8 dense layer over all activations, with a bias in units of its scale."""
    weights = _integers(context, layer.integer_weight())
    if value.rank == 2:
        weights = covering(context, weights.reshape(len(weights), -1), value)
    elif weights.shape[2:] != value.dims[:2]:
        raise ValueError(
            f"{context.name}: expected activations of {weights.shape[2:]}, got {value.dims[:2]}; "
            "build the head with kernel = (height, width)"
        )
    bias = layer.integer_bias().detach().cpu().double().numpy()
    if not np.isfinite(bias).all():
        raise ValueError(f"{context.name}: expected a finite bias, got nan or infinity")
    unit = float(layer.scale())
    return of_anything(context, value, weights, _DENSE, 1, unit, bias, 2)


def lower_conv_norm(context: Context, layer: ConvNorm, value: Value) -> Value:
    """The three modules in a row."""
    conv: Any = layer.conv
    part = _part(context, "conv")
    if type(conv) not in CONVOLUTIONS:
        known = ", ".join(kind.__name__ for kind in CONVOLUTIONS)
        raise ValueError(
            f"{part.name}: expected one of {known} in a ConvNorm, got {type(conv).__name__}; write "
            "convolution, pool and normalisation one after the other"
        )
    value = CONVOLUTIONS[type(conv)](part, conv, value)
    if layer.pool > 1:
        value = max_pool(context, value, (layer.pool,) * 2, (layer.pool,) * 2, (0, 0))
    return context.value(lower_norm(_part(context, "norm"), layer.norm, value))


def _part(context: Context, name: str) -> Context:
    """Context of a module inside of the layer."""
    return replace(context, label=Label(f"{context.name}.{name}", context.label.node))


def of_bits(
    context: Context,
    value: Value,
    weights: NDArray[np.int8],
    scale: NDArray[np.float64],
    window: Window,
    groups: int,
    border: str,
    rank: int,
) -> Value:
    """±1 weights over bits; ``scale`` is their factor, shape (C_out,)."""
    if not is_bits(context.program, value):
        raise ValueError(
            f"{context.name}: expected ±1 from {value.name}; put a Sign() before this layer"
        )
    zero_border = border == "zero" and any(window.padding)
    return waiting(
        context, value, OpCode.CONV_B1, weights, scale, window, groups, zero_border, None, rank
    )


def of_anything(
    context: Context,
    value: Value,
    weights: NDArray[np.int8],
    window: Window,
    groups: int,
    unit: float | NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    rank: int,
) -> Value:
    """Int8 weights over what there is; ``unit`` is their scale, ``bias`` in units of it."""
    program, source = context.program, value.source
    factor = float(np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1).max())
    is_plain = isinstance(source, int) and not value.chain
    zero_border = False
    if is_bits(program, value):
        code, zero_border = OpCode.CONV_B1_I8, any(window.padding)
    elif is_plain and isinstance(source, int) and program.dtype(source) is DType.U8:
        code = OpCode.CONV_U8
    else:
        code = OpCode.CONV_I32
        if bias is not None:
            factor += float(np.abs(bias).max())
        value, _ = context.stream_for(value, factor)
    if bias is not None:
        bias = np.rint(bias / value.unit[0])
        if np.abs(bias).max() >= 1 << 31:
            raise ValueError(
                f"{context.name}: expected a bias that fits int32, got up to {np.abs(bias).max()}"
            )
    units = value.unit[0] * np.broadcast_to(unit, len(weights))
    return waiting(context, value, code, weights, units, window, groups, zero_border, bias, rank)


def waiting(
    context: Context,
    value: Value,
    code: OpCode,
    weights: NDArray[np.int8],
    unit: NDArray[np.float64],
    window: Window,
    groups: int,
    zero_border: bool,
    bias: NDArray[np.float64] | None,
    rank: int,
) -> Value:
    """Lay out a convolution; ``weights`` are (C_out, C_in / groups, KH, KW) as in torch."""
    if weights.shape[1] * groups != value.dims[2]:
        raise ValueError(
            f"{context.name}: expected {weights.shape[1] * groups} channels, got {value.dims[2]}"
        )
    assert isinstance(value.source, int)
    moved = Window(weights.shape[2:], window.stride, window.padding)
    rows, columns = moved.out_size(*value.dims[:2])
    low, high = context.program.intervals[value.source]
    if any(window.padding) and (zero_border or code is not OpCode.CONV_B1):
        low, high = min(low, 0), max(high, 0)
    convolution = Convolution(
        name=context.name,
        code=code,
        data=value.source,
        weights=np.ascontiguousarray(weights.transpose(0, 2, 3, 1)),
        data_interval=(low, high),
        dims=(rows, columns, len(weights)),
        stride=window.stride,
        padding=window.padding,
        groups=groups,
        zero_border=zero_border,
        bias=None if bias is None else bias.astype(np.int64),
    )
    return Value(
        label=context.label,
        source=convolution,
        unit=unit,
        dims=convolution.dims,
        rank=rank,
    )


def covering(context: Context, rows: NDArray[np.int8], value: Value) -> NDArray[np.int8]:
    """Weights (C_out, C H W) of a flattened image as a kernel (C_out, C, H, W) that covers it."""
    height, width, n_channels = value.dims
    if rows.shape[1] != height * width * n_channels:
        raise ValueError(
            f"{context.name}: expected {rows.shape[1]} features, got {height * width * n_channels}"
        )
    return rows.reshape(-1, n_channels, height, width)


def check_rank(context: Context, value: Value, rank: int) -> None:
    """Refuse a float tensor of other axes."""
    if value.rank != rank:
        raise ValueError(
            f"{context.name}: expected {rank} axes, got {value.rank} from {value.name}"
        )


@torch.no_grad()
def binary_weights(layer: BinaryLayer) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Signs of the quantised weights, shape of the latent ones, and their scale per channel."""
    quantised = layer.weight_quantizer(layer.latent_weight).detach().cpu().double().numpy()
    rows = quantised.reshape(len(quantised), -1)
    is_scaled = layer.weight_quantizer.is_scaled
    scale = np.abs(rows).max(axis=1) if is_scaled else np.ones(len(rows))
    return np.where(quantised >= 0, 1, -1).astype(np.int8), scale


def _integers(context: Context, weights: torch.Tensor) -> NDArray[np.int8]:
    values = weights.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"{context.name}: expected finite weights, got nan or infinity")
    return values.astype(np.int8)


CONVOLUTIONS: Final[dict[type, Callable[..., Value]]] = {
    BinaryConv2d: lower_binary_conv,
    BinaryConv1d: lower_binary_conv,
    Int8Conv2d: lower_int8_conv,
}
"""What may stand in a :class:`~bnn.layers.ConvNorm`."""
