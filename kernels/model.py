"""The integer network as data; :mod:`kernels.model_rules` says what is valid.

A model is a list of operations in the order in which they run. A convolution has integer
accumulators, then an optional max-pool of them, then an optional threshold that turns them into
bits; a dense layer is a convolution whose kernel covers the image. Residual streams are int32:
:attr:`OpCode.SCALE` brings an accumulator to the stream's binary point, :attr:`OpCode.ADD` adds,
:attr:`OpCode.THRESHOLD` is the sign that the next convolution reads.
There are no floats: a float last layer becomes int8 weights with one scale in the metadata, or,
where 8 bits are too few, two int8 layers, one of them times 256 (SCALE, then ADD): 16 bits.
Tensor 0 is the input of the network, the ``out`` of the last operation its int32 output; the batch
is no dimension. Activations are (H, W, C), weights (C_out, KH, KW, C_in / groups), thresholds
(2, C_out). The C runtime checks the same rules (``c/open.c``, ``c/rules.c``).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from typing import Final, TypeAlias

from kernels.errors import ModelFormatError
from kernels.layout import CHANNEL_WORD, n_words

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MAX_OPS: Final = 1024
MAX_TENSORS: Final = 8192
MAX_BYTES: Final = 2**31 - 1
"""Of one tensor, and of the arena: an int32 then indexes both, also on a 32-bit phone."""
INT32_MAX: Final = 2**31 - 1


class DType(IntEnum):
    """Element type of a tensor, with its code in the file."""

    U8 = 0
    I8 = 1
    I32 = 2
    I64 = 3
    BITS = 4
    U16 = 5
    """Since version 1.1; tables only."""


class OpCode(IntEnum):
    """What an operation computes, with its code in the file. K is KH * KW * C_in / groups."""

    CONV_U8 = 1
    """acc = sum x * w over uint8 data and int8 weights; the border is 0."""
    CONV_B1 = 2
    """acc = K - 2 popc(x ^ w) over bits; the border is -1, or 0 with ``zero_border``."""
    CONV_B1_I8 = 3
    """acc = sum (+-1) * w over bits and int8 weights; the border as in CONV_B1."""
    CONV_I8 = 4
    """acc = sum x * w over int8 data and int8 weights; the border is 0."""
    CONV_I32 = 5
    """acc = sum x * w over int32 data and int8 weights; the border is 0. Version 1.1 has it as a
    dense layer only: weights (C_out, H, W, C) that cover the data."""
    THRESHOLD = 6
    """bit = (x >= t) ^ flip, per channel, of integers."""
    SCALE = 7
    """y = (x * m + b + 2^(s-1)) >> s, per channel; with three rows of m, m and b depend on x."""
    ADD = 8
    """y = x + residual."""
    MAX_POOL = 9
    """Largest of a window, of bits (their OR) or of int32; what is outside does not count."""
    AVERAGE_POOL = 10
    """SCALE of the sum of a window; outside is 0, so 1 / (window) is part of m."""
    LOOKUP = 11
    """y = table[clamp(x, -n / 2, n / 2 - 1) + n / 2] of n entries: a sigmoid, or any function."""
    CONCAT = 12
    """Channels of x, then those of residual. This and what follows since version 1.2."""
    SLICE = 13
    """Box of rows, columns and channels of int32, or of bits by whole words of 32 channels."""
    MULTIPLY = 14
    """y = (x * residual + 2^(s-1)) >> s, element by element: the gates of a recurrent cell."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model."""

    dtype: DType
    dims: tuple[int, ...]
    data: bytes | None = None
    """Canonical little-endian bytes of a constant; None for an activation."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor; the last axis of bits is filled up to whole words."""
        if self.dtype is DType.BITS:
            return prod(self.dims[:-1]) * n_words(self.dims[-1], CHANNEL_WORD) * 4
        return prod(self.dims) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Op:
    """One operation; ``data``, ``out`` and the operands after them number tensors.

    With a threshold (row 0 = t, row 1 = flip) the output is ``(pooled acc >= t) ^ flip`` as bits,
    without one it is the pooled accumulators as int32. A bias is added before pooling.
    """

    code: OpCode
    data: int
    weights: int | None
    """Of a convolution or dense layer; the table of a LOOKUP, uint16 (n,), n even up to 2^16."""
    out: int
    threshold: int | None = None
    """int32 (2, C)."""
    bias: int | None = None
    """int32 (C,); of SCALE and AVERAGE_POOL int64 (1, C), or (2, C) with three rows of m."""
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    pool: tuple[int, int] = (1, 1)
    """Window of MAX_POOL and AVERAGE_POOL, which move by ``stride``. Of a convolution: window and
    stride of the max-pool behind it; incomplete windows are dropped."""
    multiplier: int | None = None
    """m of SCALE and AVERAGE_POOL, int32 (1, C); or (3, C): m where x >= knee, m below, knee."""
    residual: int | None = None
    """Second summand of ADD, second factor of MULTIPLY, second part of CONCAT."""
    groups: int = 1
    """Of a convolution: channels are split into so many, which do not see each other."""
    shift: int = 0
    """s of SCALE, AVERAGE_POOL and MULTIPLY, 1 to 31."""
    zero_border: bool = False
    """Outside the image is 0 instead of -1; CONV_B1 and CONV_B1_I8 only."""
    start: tuple[int, int, int] = (0, 0, 0)
    """First row, column and channel of SLICE; of bits the channel is a multiple of 32."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Rows, columns and channels of SLICE; of bits the channels are a multiple of 32, or all the
    rest. Zeros in other operations."""

    @property
    def constants(self) -> tuple[int, ...]:
        """Numbers of the constant operands."""
        operands = (self.weights, self.threshold, self.multiplier, self.bias)
        return tuple(i for i in operands if i is not None)

    @property
    def activations(self) -> tuple[int, ...]:
        """Numbers of the tensors that are read and not constant."""
        return (self.data,) if self.residual is None else (self.data, self.residual)


@dataclass(frozen=True)
class Model:
    """Operations in running order, their tensors, and metadata that the runtime never parses."""

    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    metadata: dict[str, JSON] = field(default_factory=dict)


_ITEM_BYTES = {DType.U8: 1, DType.I8: 1, DType.I32: 4, DType.I64: 8, DType.U16: 2}
CONVOLUTIONS: Final = (OpCode.CONV_U8, OpCode.CONV_B1, OpCode.CONV_B1_I8, OpCode.CONV_I8)
"""What may pool, threshold and need memory to work in; CONV_I32 does none of it."""
POOLS: Final = (OpCode.MAX_POOL, OpCode.AVERAGE_POOL)
SCALES: Final = (OpCode.SCALE, OpCode.AVERAGE_POOL)
SHIFTED: Final = (*SCALES, OpCode.MULTIPLY)
GROUPED: Final = (*CONVOLUTIONS, OpCode.CONV_I32)


def output_shape(op: Op, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
    """Shape (H, W, C_out) that ``op`` produces; windows are rounded down.

    Raises
    ------
    ModelFormatError
        If the shapes of the operands do not belong together, or nothing would be left.
    """
    data = tensors[op.data].dims
    if len(data) != 3:
        raise ModelFormatError(f"data: expected (H, W, C), got {data}")
    if op.code is OpCode.CONV_I32 and op.pool != (1, 1):
        raise ModelFormatError(f"params: CONV_I32 takes no pool, got {op.pool}; append MAX_POOL")
    if op.weights is not None and op.code in GROUPED:
        return _convolution_shape(op, data, tensors[op.weights].dims)
    if op.code in POOLS:
        sizes = [_size(op, axis, data, op.pool[axis], 1) for axis in (0, 1)]
        return sizes[0], sizes[1], data[2]
    if (op.stride, op.padding, op.pool) != ((1, 1), (0, 0), (1, 1)):
        raise ModelFormatError(f"params: {op.code.name} takes no stride, padding or pool")
    if op.code is OpCode.SLICE:
        return _slice_shape(op, tensors[op.data])
    if op.code is OpCode.CONCAT and op.residual is not None:
        return _concat_shape(data, tensors[op.residual].dims)
    if op.residual is not None and tensors[op.residual].dims != data:
        raise ModelFormatError(
            f"residual: expected the shape of data {data}, got {tensors[op.residual].dims}"
        )
    return data[0], data[1], data[2]


def is_dense(op: Op, tensors: Sequence[Tensor]) -> bool:
    """Tell if a CONV_I32 is what version 1.1 knows: weights cover the data, nothing else is set."""
    covers = op.weights is not None and tensors[op.weights].dims[1:] == tensors[op.data].dims
    return covers and (op.stride, op.padding, op.groups) == ((1, 1), (0, 0), 1)


def _slice_shape(op: Op, data: Tensor) -> tuple[int, int, int]:
    ends = [at + n for at, n in zip(op.start, op.size, strict=True)]
    inside = all(end <= n for end, n in zip(ends, data.dims, strict=True))
    if min(op.start) < 0 or min(op.size) < 1 or not inside:
        raise ModelFormatError(
            f"slice: expected a box inside of data {data.dims}, got {op.size} from {op.start} on"
        )
    channels = data.dims[2]
    if data.dtype is DType.BITS and (op.start[2] % 32 or (op.size[2] % 32 and ends[2] < channels)):
        raise ModelFormatError(
            f"slice: expected whole words of 32 of the {channels} bits, or all the rest, "
            f"got {op.size[2]} from {op.start[2]} on; slice before the threshold"
        )
    return op.size


def _concat_shape(data: tuple[int, ...], residual: tuple[int, ...]) -> tuple[int, int, int]:
    if len(residual) != 3 or residual[:2] != data[:2]:
        raise ModelFormatError(
            f"residual: expected height and width of data {data}, got {residual}"
        )
    return data[0], data[1], data[2] + residual[2]


def _convolution_shape(
    op: Op, data: tuple[int, ...], weights: tuple[int, ...]
) -> tuple[int, int, int]:
    if len(weights) != 4 or data[2] != weights[3] * op.groups or weights[0] % op.groups:
        raise ModelFormatError(
            "weights: expected (C_out, KH, KW, C_in / groups) with the C_in of data (H, W, C_in), "
            f"got weights {weights}, data {data} and {op.groups} groups"
        )
    sizes = [_size(op, axis, data, weights[1 + axis], op.pool[axis]) for axis in (0, 1)]
    return sizes[0], sizes[1], weights[0]


def _size(op: Op, axis: int, data: tuple[int, ...], kernel: int, pool: int) -> int:
    """Windows of ``kernel`` along an axis, and of them windows of ``pool``."""
    stride, padding = op.stride[axis], op.padding[axis]
    if stride < 1 or pool < 1 or kernel < 1 or not 0 <= padding < kernel:
        raise ModelFormatError(
            "params: expected stride >= 1, pool >= 1 and 0 <= padding < kernel, "
            f"got stride {stride}, pool {op.pool[axis]}, padding {padding} with kernel {kernel}"
        )
    padded = data[axis] + 2 * padding
    fits = kernel <= padded <= INT32_MAX  # every coordinate is an int32 in the runtime
    size = ((padded - kernel) // stride + 1) // pool if fits else 0
    if size < 1:
        raise ModelFormatError(
            f"data: expected room for one output, got {data} with kernel {kernel}, "
            f"padding {padding}, stride {stride} and pool {pool}"
        )
    return size


def logical_digest(model: Model) -> str:
    """SHA-256 (hex) of the operations and the canonical weights, whatever target a file is for."""
    digest = hashlib.sha256(struct.pack("<2I", len(model.ops), len(model.tensors)))
    for op in model.ops:
        # What version 1.0 did not know is added only where it is used: old digests stay.
        more = (_number(op.multiplier), _number(op.residual), op.groups, op.shift, op.zero_border)
        has_more = more != (-1, -1, 1, 0, False)
        box = (*op.start, *op.size)
        references = [_number(i) for i in (op.weights, op.threshold, op.bias)]
        code = op.code | has_more << 16 | any(box) << 17
        digest.update(struct.pack("<6q", code, op.data, references[0], op.out, *references[1:]))
        digest.update(struct.pack("<6q", *op.stride, *op.padding, *op.pool))
        digest.update(struct.pack("<5q", *more) if has_more else b"")
        digest.update(struct.pack("<6q", *box) if any(box) else b"")
    for tensor in model.tensors:
        rank, is_constant = len(tensor.dims), tensor.data is not None
        digest.update(struct.pack(f"<3I{rank}Q", tensor.dtype, rank, is_constant, *tensor.dims))
        digest.update(tensor.data or b"")
    return digest.hexdigest()


def _number(tensor: int | None) -> int:
    return -1 if tensor is None else tensor
