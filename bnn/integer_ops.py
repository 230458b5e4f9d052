"""Every operation of the model format in torch: the arithmetic of the integer network.

Values are (N, H, W, C); bits are ±1. Matrix products run in the dtype they are given, which the
caller chooses so that nothing rounds; everything else is int64.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import Op, OpCode
from kernels.model import CONVOLUTIONS, GROUPED, SCALES
from kernels.model import Tensor as Stored
from kernels.reference import decode

Operands: TypeAlias = Mapping[str, Tensor]
"""Values by role: data, residual and the constants of an operation."""


def constants(op: Op, tensors: tuple[Stored, ...]) -> dict[str, Tensor]:
    """Constant operands as int64; bits are ±1."""
    names = ("weights", "threshold", "multiplier", "bias")
    return {
        name: torch.from_numpy(np.array(decode(tensors[number])))
        for name in names
        if (number := getattr(op, name)) is not None
    }


def magnitude(op: Op, tensors: tuple[Stored, ...], interval: tuple[int, int]) -> int:
    """Bound on the magnitude of every partial sum of a convolution, in any order of summation."""
    assert op.weights is not None
    weights = np.abs(decode(tensors[op.weights]))
    sums = weights.reshape(len(weights), -1).sum(axis=1) * max(abs(end) for end in interval)
    if op.bias is not None:
        sums = sums + np.abs(decode(tensors[op.bias]))
    return int(sums.max())


def evaluate_op(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    """Run one operation.

    Parameters
    ----------
    op
        Any of the format.
    values
        ``data`` and ``residual`` (N, H, W, C), int32 or int8, and what :func:`constants` gives.
    dtype
        Of the matrix products: int64, or floats that are exact here.

    Returns
    -------
    Tensor
        (N, H', W', C'), int32; int8 ±1 if the output is bits.
    """
    result = OPERATIONS[op.code](op, values, dtype)
    if op.threshold is None:
        return result.to(values["data"].dtype if op.code in _KEEP else torch.int32)
    level, flip = values["threshold"].to(result.dtype)
    bits: Tensor = ((result >= level) ^ (flip == 1)).to(torch.int8) * 2 - 1
    return bits


_KEEP: Final = (OpCode.MAX_POOL, OpCode.SLICE)
"""Operations whose output has the type of their data: int32, or ±1 as int8."""


def _convolution(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    of_bits = op.code in (OpCode.CONV_B1, OpCode.CONV_B1_I8)
    border = -1 if of_bits and not op.zero_border else 0
    x = _padded(values["data"].to(dtype), op, border)
    weights = values["weights"].to(dtype)
    n_out, kernel = len(weights), weights.shape[1:3]
    # Patches and a matrix product: no transform (Winograd, FFT) with fractions can slip in.
    patches = torch.stack(_taps(x, op, (kernel[0], kernel[1])), dim=-2)
    *shape, n_taps, n_in = patches.shape
    grouped = patches.reshape(-1, n_taps, op.groups, n_in // op.groups).permute(2, 0, 1, 3)
    rows = weights.reshape(op.groups, n_out // op.groups, -1)
    acc = torch.bmm(grouped.reshape(op.groups, -1, rows.shape[2]), rows.transpose(1, 2))
    acc = acc.permute(1, 0, 2).reshape(*shape, n_out)
    if "bias" in values:
        acc = acc + values["bias"].to(dtype)
    return _pooled(acc, op.pool) if op.code in CONVOLUTIONS else acc


def _pooled(acc: Tensor, pool: tuple[int, int]) -> Tensor:
    """Largest value of every complete window."""
    n, height, width, n_channels = acc.shape
    rows, columns = height // pool[0], width // pool[1]
    whole = acc[:, : rows * pool[0], : columns * pool[1]]
    return whole.reshape(n, rows, pool[0], columns, pool[1], n_channels).amax(dim=(2, 4))


def _padded(x: Tensor, op: Op, value: int) -> Tensor:
    rows, columns = op.padding
    return F.pad(x, (0, 0, columns, columns, rows, rows), value=value)


def _taps(x: Tensor, op: Op, window: tuple[int, int]) -> list[Tensor]:
    """Values at each place of the window, each (N, H', W', C)."""
    (stride_h, stride_w), (kernel_h, kernel_w) = op.stride, window
    rows = (x.shape[1] - kernel_h) // stride_h * stride_h + 1
    columns = (x.shape[2] - kernel_w) // stride_w * stride_w + 1
    return [
        x[:, i : i + rows : stride_h, j : j + columns : stride_w]
        for i in range(kernel_h)
        for j in range(kernel_w)
    ]


def _scaled(x: Tensor, op: Op, values: Operands) -> Tensor:
    x, multiplier, bias = x.to(torch.int64), values["multiplier"], values["bias"]
    m, b = multiplier[0], bias[0]
    if len(multiplier) == 3:
        above = x >= multiplier[2]
        m, b = torch.where(above, m, multiplier[1]), torch.where(above, b, bias[1])
    return (x * m + b + (1 << op.shift - 1)) >> op.shift


def _scale(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    return _scaled(values["data"], op, values)


def _average_pool(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    x = _padded(values["data"].to(torch.int64), op, 0)
    return _scaled(sum(_taps(x, op, op.pool), torch.zeros((), dtype=torch.int64)), op, values)


def _max_pool(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    data = values["data"]
    least = torch.iinfo(data.dtype).min
    return torch.stack(_taps(_padded(data, op, least), op, op.pool)).amax(dim=0)


def _threshold(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    return values["data"].to(torch.int64)


def _add(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    return values["data"].to(torch.int64) + values["residual"]


def _multiply(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    product = values["data"].to(torch.int64) * values["residual"]
    return (product + (1 << op.shift - 1)) >> op.shift


def _concat(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    return torch.cat([values["data"], values["residual"]], dim=-1)


def _slice(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    row, column, channel = op.start
    rows, columns, channels = op.size
    x = values["data"][:, row : row + rows, column : column + columns]
    return x[..., channel : channel + channels]


def _lookup(op: Op, values: Operands, dtype: torch.dtype) -> Tensor:
    table = values["weights"]
    half = len(table) // 2
    return table[values["data"].to(torch.int64).clamp(-half, half - 1) + half]


OPERATIONS: Final[dict[OpCode, Callable[[Op, Operands, torch.dtype], Tensor]]] = {
    **{code: _convolution for code in GROUPED},
    **{code: _scale for code in SCALES},
    OpCode.AVERAGE_POOL: _average_pool,
    OpCode.THRESHOLD: _threshold,
    OpCode.ADD: _add,
    OpCode.MAX_POOL: _max_pool,
    OpCode.LOOKUP: _lookup,
    OpCode.CONCAT: _concat,
    OpCode.SLICE: _slice,
    OpCode.MULTIPLY: _multiply,
}
"""What computes each operation, before the threshold that a convolution may have."""
