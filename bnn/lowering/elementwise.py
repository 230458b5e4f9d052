"""Lowerings of what has no weights to multiply: signs, normalisations, pools, sums, reshaping."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from bnn.folding import affine, knee, normalisation
from bnn.lowering.context import Context
from bnn.lowering.values import (
    Value,
    as_sign,
    average,
    before_sign,
    is_bits,
    maximum,
    tensor_value,
)
from bnn.quantizers import RPReLU, RSign
from kernels import DType, OpCode


def lower_sign(context: Context, module: nn.Module | None, value: Value, *_: Any) -> Value:
    """Bits; every sign has this value, and only its gradient is its own."""
    value = before_sign(context.program, value, context.point)
    return as_sign(context.program, context.value(value))


def lower_rsign(context: Context, module: RSign, value: Value) -> Value:
    """Bits of a shifted value."""
    shift = named(context, affine, value.dims[2], mean=-module.shift)
    value = before_sign(context.program, value, context.point)
    return as_sign(context.program, context.value(value).linked(shift))


def lower_norm(context: Context, module: Any, value: Value) -> Value:
    """Affine link of the running statistics."""
    if value.rank == 2 and value.dims[:2] != (1, 1):
        raise ValueError(
            f"{context.name}: expected a normalisation before flatten, whose channels are those of "
            f"{value.name}, got {value.dims[:2]} positions per channel"
        )
    link = named(context, normalisation, module)
    if len(link.mean) != value.dims[2]:
        raise ValueError(f"{context.name}: expected {len(link.mean)} channels, got {value.dims[2]}")
    return context.value(value).linked(link)


def lower_relu(
    context: Context, module: nn.Module | None, value: Value, inplace: bool = False
) -> Value:
    """Knee of slope 0; whether torch overwrites its input is nothing to the integers."""
    return context.value(value).linked(knee(value.dims[2], 0.0))


def lower_prelu(context: Context, module: nn.PReLU, value: Value) -> Value:
    """Knee with the module's slopes."""
    return context.value(value).linked(named(context, knee, value.dims[2], module.weight))


def lower_rprelu(context: Context, module: RPReLU, value: Value) -> Value:
    """Shift, knee, shift."""
    n = value.dims[2]
    return context.value(value).linked(
        named(context, affine, n, mean=-module.shift_in),
        named(context, knee, n, module.slope),
        named(context, affine, n, beta=module.shift_out),
    )


def lower_identity(context: Context, module: nn.Module | None, value: Value, *_: Any) -> Value:
    """The value as it is: also dropout, which does nothing in evaluation mode."""
    return value


def lower_max_pool(context: Context, module: Any, value: Value) -> Value:
    """Largest of a window."""
    if module.ceil_mode or module.dilation not in (1, (1, 1)):
        raise ValueError(f"{context.name}: expected whole windows without dilation, got {module}")
    return max_pool(context, value, module.kernel_size, module.stride, module.padding)


def lower_max_pool_function(
    context: Context,
    module: None,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """``F.max_pool2d``."""
    if ceil_mode or return_indices or dilation not in (1, (1, 1)):
        raise ValueError(f"{context.name}: expected whole windows without dilation or indices")
    return max_pool(context, value, kernel_size, stride or kernel_size, padding)


def max_pool(context: Context, value: Value, kernel: Any, stride: Any, padding: Any) -> Value:
    """Largest of a window; arguments are numbers or pairs, as torch has them."""
    window, steps, border = (
        _pair(number, value.rank, fill) for number, fill in ((kernel, 1), (stride, 1), (padding, 0))
    )
    return maximum(
        context.program,
        value,
        context.point,
        context.label,
        window=window,
        stride=steps,
        padding=border,
    )


def lower_average_pool(context: Context, module: Any, value: Value) -> Value:
    """Mean of a window; the border counts as 0, which is torch's default."""
    if module.ceil_mode or getattr(module, "divisor_override", None) is not None:
        raise ValueError(f"{context.name}: expected whole windows and no divisor, got {module}")
    window, stride, padding = (
        _pair(number, value.rank, fill)
        for number, fill in ((module.kernel_size, 1), (module.stride, 1), (module.padding, 0))
    )
    if any(padding) and not module.count_include_pad:
        raise ValueError(f"{context.name}: expected count_include_pad=True, got {module}")
    return average(
        context.program,
        value,
        context.point,
        context.label,
        window=window,
        stride=stride,
        padding=padding,
    )


def lower_global_average(context: Context, module: Any, value: Value) -> Value:
    """Mean of the whole image."""
    if module.output_size not in (1, (1, 1), (1,)):
        raise ValueError(f"{context.name}: expected output size 1, got {module.output_size}")
    return _global_average(context, value)


def lower_mean(
    context: Context, module: None, value: Value, dim: Any = None, keepdim: bool = False
) -> Value:
    """``x.mean((2, 3))``: of the whole image, or ``x.mean(2)`` of a sequence."""
    axes = sorted(
        axis % value.rank for axis in (dim if isinstance(dim, tuple | list) else [dim or 0])
    )
    if value.rank < 3 or axes != list(range(2, value.rank)):
        raise ValueError(f"{context.name}: expected the mean of all positions, got axes {dim}")
    mean = _global_average(context, value)
    return mean if keepdim else replace(mean, rank=2)


def _global_average(context: Context, value: Value) -> Value:
    return average(
        context.program,
        value,
        context.point,
        context.label,
        window=value.dims[:2],
        stride=(1, 1),
        padding=(0, 0),
    )


def lower_add(context: Context, module: None, first: Any, second: Any) -> Value:
    """Sum of two streams, exact."""
    for value in (first, second):
        if not isinstance(value, Value):
            raise ValueError(f"{context.name}: expected two activations to add, got {value!r}")
    left, right = context.stream(first), context.stream(second)
    if left.dims != right.dims:
        raise ValueError(f"{context.name}: expected equal shapes, got {left.dims} and {right.dims}")
    total = context.program.append(context.name, OpCode.ADD, _tensor(left), residual=_tensor(right))
    return tensor_value(context.program, context.value(left), total, 2.0**-context.point)


def lower_concat(context: Context, module: None, values: Any, dim: int = 0) -> Value:
    """Channels of several values behind each other; of bits, the sign of their stream."""
    first = values[0]
    if dim not in (1, 1 - first.rank) or any(value.rank != first.rank for value in values):
        raise ValueError(f"{context.name}: expected channels to be concatenated, got axis {dim}")
    if first.rank == 2 and any(value.dims[:2] != (1, 1) for value in values):
        raise ValueError(f"{context.name}: expected a concatenation before flatten")
    program = context.program
    streams = [context.stream(value) for value in values]
    tensor = _tensor(streams[0])
    for stream in streams[1:]:
        tensor = program.append(context.name, OpCode.CONCAT, tensor, residual=_tensor(stream))
    if not all(is_bits(program, value) for value in values):
        return tensor_value(program, context.value(streams[0]), tensor, 2.0**-context.point)
    rows = np.zeros((2, program.dims(tensor)[2]), np.int32)
    threshold = program.constant(DType.I32, rows)
    bits = program.append(context.name, OpCode.THRESHOLD, tensor, DType.BITS, threshold=threshold)
    return tensor_value(program, context.value(first), bits, 1.0)


def lower_flatten_module(context: Context, module: nn.Flatten, value: Value) -> Value:
    """``nn.Flatten``."""
    return lower_flatten(context, None, value, module.start_dim, module.end_dim)


def lower_flatten(
    context: Context, module: None, value: Value, start_dim: int = 0, end_dim: int = -1
) -> Value:
    """All axes behind the batch, or rows and columns where there is one row.

    The integers stay (H, W, C); a dense layer that follows has its weights moved instead.
    """
    start, end = start_dim % value.rank, end_dim % value.rank
    if (start, end) == (1, value.rank - 1):
        return _with_rank(context, value, 2)
    if (value.rank, start, end) == (4, 2, 3) and value.dims[0] == 1:
        return _with_rank(context, value, 3)
    raise ValueError(
        f"{context.name}: expected flatten(1), or flatten(2) of one row, got axes {start} to {end} "
        f"of {value.dims}"
    )


def lower_squeeze(context: Context, module: None, value: Value, dim: int = 2) -> Value:
    """``x.squeeze(2)`` of images of one row: a sequence."""
    if (value.rank, dim % value.rank) != (4, 2) or value.dims[0] != 1:
        raise ValueError(f"{context.name}: expected squeeze(2) of one row, got {value.dims}")
    return _with_rank(context, value, 3)


def lower_unsqueeze(context: Context, module: None, value: Value, dim: int) -> Value:
    """``x.unsqueeze(2)`` of a sequence: an image of one row."""
    if (value.rank, dim) != (3, 2):
        raise ValueError(f"{context.name}: expected unsqueeze(2) of a sequence, got {value.dims}")
    return _with_rank(context, value, 4)


def _with_rank(context: Context, value: Value, rank: int) -> Value:
    """The same integers as a float tensor of other axes."""
    return replace(context.value(value), rank=rank)


def _tensor(value: Value) -> int:
    assert isinstance(value.source, int)  # a stream is a tensor
    return value.source


def _pair(number: Any, rank: int, fill: int) -> tuple[int, int]:
    """Arguments of a pool as (vertical, horizontal); along a sequence there is one row."""
    numbers = tuple(number) if isinstance(number, tuple | list) else (number,)
    if rank == 3:
        return fill, int(numbers[0])
    return int(numbers[0]), int(numbers[-1])


def named(context: Context, build: Any, *arguments: Any, **fields: Any) -> Any:
    """Build a link; a message about its parameters begins with the layer."""
    try:
        return build(*arguments, **fields)
    except ValueError as error:
        raise ValueError(f"{context.name}: {error}") from error
