"""Intervals in which the integers of a model lie on any input: why nothing can overflow.

Interval arithmetic, op by op, with one interval per tensor. The file declares the interval of every
int32 tensor, so that a reader without memory checks each operation alone (``c/rules.c``).
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ModelFormatError
from kernels.model import GROUPED, INT32_MAX, SCALES, DType, Op, OpCode, Tensor

Interval: TypeAlias = tuple[int, int]
"""Least and greatest value, both included."""

INT32: Final[Interval] = (-INT32_MAX - 1, INT32_MAX)
OF_DTYPE: Final[dict[DType, Interval]] = {
    DType.U8: (0, 255),
    DType.I8: (-128, 127),
    DType.I32: INT32,
    DType.BITS: (-1, 1),
}
"""What the values of an activation can be if nothing else is known; bits mean -1 and +1."""

MAX_TABLE: Final = 1 << 16
"""Entries of a table, which are uint16 as well."""
MAX_OFFSET: Final = 1 << 61
"""Of |b| in a scale: |x m| + |b| + 2^30 <= 2^62 + 2^61 + 2^30 < 2^63."""


def output_interval(op: Op, tensors: Sequence[Tensor], known: Mapping[int, Interval]) -> Interval:
    """Interval of what ``op`` writes, from those of what it reads.

    Raises
    ------
    ModelFormatError
        If an int32 could overflow, also inside of a sum.
    """
    data = known[op.data]
    if tensors[op.out].dtype is DType.BITS:
        found = OF_DTYPE[DType.BITS]
    elif op.code in GROUPED:
        found = _product(op, tensors, data)
    elif op.code in SCALES:
        found = _scale(op, tensors, _window_sum(op, tensors, data))
    elif op.code is OpCode.ADD and op.residual is not None:
        other = known[op.residual]
        found = data[0] + other[0], data[1] + other[1]
    elif op.code is OpCode.CONCAT and op.residual is not None:
        other = known[op.residual]
        found = min(data[0], other[0]), max(data[1], other[1])
    elif op.code is OpCode.MULTIPLY and op.residual is not None:
        ends = [x * y for x in data for y in known[op.residual]]  # x * y is extreme at corners
        half = 1 << op.shift - 1
        found = (min(ends) + half) >> op.shift, (max(ends) + half) >> op.shift
    elif op.code is OpCode.LOOKUP:
        found = (0, MAX_TABLE - 1)
    else:
        found = data
    return _int32("out", found)


def values(tensor: Tensor) -> NDArray[np.int64]:
    """Entries of a constant of integers.

    Raises
    ------
    ValueError
        If the tensor is an activation or packed.
    """
    kinds = {
        **{DType.U8: "u1", DType.I8: "i1", DType.U16: "<u2"},
        **{DType.I32: "<i4", DType.I64: "<i8"},
    }
    if tensor.data is None or tensor.dtype not in kinds:
        raise ValueError(f"tensor: expected a constant of integers, got {tensor.dtype.name}")
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).astype(np.int64).reshape(tensor.dims)


def _int32(name: str, interval: Interval) -> Interval:
    if interval[0] < INT32[0] or interval[1] > INT32[1]:
        raise ModelFormatError(f"{name}: expected int32, got values in {interval}; scale down")
    return interval


def _product(op: Op, tensors: Sequence[Tensor], data: Interval) -> Interval:
    """Accumulators with their bias; partial sums lie in the interval without it."""
    if op.weights is None:
        raise ModelFormatError("weights: expected a tensor number, got none")
    weights = tensors[op.weights]
    n_out = weights.dims[0]
    if weights.dtype is DType.BITS:
        highs = np.full(n_out, prod(weights.dims[1:]))
        lows = -highs
    else:
        rows = values(weights).reshape(n_out, -1)
        positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
        if (positive - negative).max() > INT32_MAX:
            raise ModelFormatError("weights: expected a sum of magnitudes below 2**31")
        # The border and a sum not yet complete count as 0.
        low, high = min(data[0], 0), max(data[1], 0)
        lows, highs = low * positive + high * negative, high * positive + low * negative
    _int32("acc", (int(lows.min()), int(highs.max())))
    if op.bias is not None:
        bias = values(tensors[op.bias])
        lows, highs = lows + bias, highs + bias
    return int(lows.min()), int(highs.max())


def _window_sum(op: Op, tensors: Sequence[Tensor], data: Interval) -> Interval:
    """Sums of the windows of AVERAGE_POOL; of SCALE, whose window is 1 x 1, the data."""
    dims = tensors[op.data].dims
    n = min(op.pool[0], dims[0]) * min(op.pool[1], dims[1])
    low, high = n * data[0], n * data[1]
    if any(op.padding):  # fewer than n values may be inside
        low, high = min(low, 0), max(high, 0)
    return _int32("sum", (low, high))


def _scale(op: Op, tensors: Sequence[Tensor], x: Interval) -> Interval:
    """(x m + b + 2^(s-1)) >> s, monotone in x: its ends are those of x, and the knee's."""
    if op.multiplier is None or op.bias is None:
        raise ModelFormatError("multiplier, bias: expected tensor numbers, got none")
    multiplier, bias = values(tensors[op.multiplier]), values(tensors[op.bias])
    half = 1 << op.shift - 1

    def at(x: NDArray[np.int64] | int, row: int, where: NDArray[np.bool_]) -> list[int]:
        y = (x * multiplier[row] + bias[row] + half) >> op.shift
        return [int(y[where].min()), int(y[where].max())] if where.any() else []

    if len(multiplier) == 1:
        always = np.ones(multiplier.shape[1], np.bool_)
        ends = at(x[0], 0, always) + at(x[1], 0, always)
    else:
        knee = multiplier[2]
        above, below = knee <= x[1], knee > x[0]
        ends = at(np.maximum(knee, x[0]), 0, above) + at(x[1], 0, above)
        ends += at(x[0], 1, below) + at(np.minimum(knee - 1, x[1]), 1, below)
    return min(ends), max(ends)
