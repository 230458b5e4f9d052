r"""Lowering of transposed convolutions: one convolution for all phases, then rows and columns.

Output q = s m + r (before padding is removed) meets the pixels m - t with the taps r + s t, so with
T = ceil(k / s) every phase r is an ordinary convolution of T taps, in reverse, with T - 1 pixels of
border. For stride 1 that is all. Else the phases are channels of one convolution, whose taps beyond
the kernel are 0 (then its weights are int8), and :func:`bnn.lowering.stacking.stack` puts its rows
below each other and its columns beside each other: 3 (M + N) operations for M x N places.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bnn.layers import BinaryConvTranspose2d, Window
from bnn.lowering.context import Context
from bnn.lowering.program import Program
from bnn.lowering.stacking import COLUMNS, ROWS, stack
from bnn.lowering.values import Value, as_tensor, is_bits
from bnn.lowering.weighted import binary_weights, check_rank, of_anything, of_bits
from kernels import OpCode
from kernels.model import MAX_OPS

_MOST: Final = MAX_OPS // 4
"""Rows and columns together; the rest of the network needs operations as well."""


def lower_transposed(context: Context, layer: BinaryConvTranspose2d, value: Value) -> Value:
    """Phases, interleaved; the border is that of the layer."""
    check_rank(context, value, 4)
    if not is_bits(context.program, value):
        raise ValueError(
            f"{context.name}: expected ±1 from {value.name}; put a Sign() before this layer"
        )
    weights, scale = binary_weights(layer)
    window, stride = layer.window, layer.window.stride
    phases = _phases(weights, stride)
    n_phases, reach = stride[0] * stride[1], (phases.shape[2] - 1, phases.shape[3] - 1)
    size = window.transposed_size(*value.dims[:2])
    if min(size) < 1:
        raise ValueError(f"{context.name}: expected an image of which {window} leaves something")
    crop = window.padding
    if stride == (1, 1) and crop[0] <= reach[0] and crop[1] <= reach[1]:
        # What padding would remove is not computed.
        reach, crop = (reach[0] - crop[0], reach[1] - crop[1]), (0, 0)
    whole = Window((phases.shape[2], phases.shape[3]), (1, 1), reach)
    units = np.repeat(scale, n_phases)
    if (phases != 0).all():
        made = of_bits(context, value, phases, units, whole, layer.groups, layer.border, 4)
    elif layer.border == "zero" or not any(reach):
        made = of_anything(context, value, phases, whole, layer.groups, units, None, 4)
    else:
        raise ValueError(
            f"{context.name}: expected a kernel that stride {stride} divides or border='zero', got "
            f"{window}; taps of 0 beyond the kernel have no border of -1"
        )
    if made.dims == (*size, len(scale)):
        return made
    made, tensor = as_tensor(context.program, made)
    tensor = _interleaved(context, tensor, stride)
    tensor = context.program.append(
        context.name, OpCode.SLICE, tensor, start=(*crop, 0), size=(*size, len(scale))
    )
    return Value(
        label=context.label, source=tensor, unit=scale.copy(), dims=context.program.dims(tensor)
    )


def _phases(weights: NDArray[np.int8], stride: tuple[int, int]) -> NDArray[np.int8]:
    """Kernels (C_out * s_w * s_h, C_in, T_h, T_w), the row's phase innermost, taps in reverse."""
    n_out, n_in, *kernel = weights.shape
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    whole = np.zeros((n_out, n_in, taps[0] * stride[0], taps[1] * stride[1]), np.int8)
    whole[:, :, : kernel[0], : kernel[1]] = weights
    split = whole.reshape(n_out, n_in, taps[0], stride[0], taps[1], stride[1])
    split = split[:, :, ::-1, :, ::-1].transpose(0, 5, 3, 1, 2, 4)
    return np.ascontiguousarray(split.reshape(-1, n_in, *taps))


def _interleaved(context: Context, tensor: int, stride: tuple[int, int]) -> int:
    """Channels (C, s_w, s_h) of each place become rows and columns."""
    program = context.program
    height, width, _ = program.dims(tensor)
    if stride != (1, 1) and height + width > _MOST:
        raise ValueError(
            f"{context.name}: expected at most {_MOST} rows and columns to be interleaved, three "
            f"operations each, got {height + width}; upsample a smaller image"
        )
    if stride[0] > 1:
        rows = [_cut(program, context.name, tensor, ROWS, row) for row in range(height)]
        tensor = stack(program, context.name, rows, ROWS, stride[0])
    if stride[1] > 1:
        columns = [_cut(program, context.name, tensor, COLUMNS, column) for column in range(width)]
        tensor = stack(program, context.name, columns, COLUMNS, stride[1])
    return tensor


def _cut(program: Program, name: str, tensor: int, axis: int, number: int) -> int:
    """One row or column."""
    height, width, n_channels = program.dims(tensor)
    start = (number, 0, 0) if axis == ROWS else (0, number, 0)
    size = (1, width, n_channels) if axis == ROWS else (height, 1, n_channels)
    return program.append(name, OpCode.SLICE, tensor, start=start, size=size)
