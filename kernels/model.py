"""The integer network as data: tensors, operations, and the rules that a model has to keep.

A model is a list of operations in the order in which they run. Every operation is a convolution
with integer accumulators, then an optional max-pool of the accumulators, then an optional
threshold that turns them into bits; a dense layer is a convolution whose kernel covers the image.
Tensor 0 is the input of the network, the ``out`` of the last operation its int32 output; the batch
is no dimension. Activations are (H, W, C), weights (C_out, KH, KW, C_in), thresholds (2, C_out).
The C runtime checks the same rules (``c/open.c``).
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


class OpCode(IntEnum):
    """What an operation computes, with its code in the file. K is KH * KW * C_in."""

    CONV_U8 = 1
    """acc = sum x * w over uint8 data and int8 weights; the border is 0."""
    CONV_B1 = 2
    """acc = K - 2 popc(x ^ w) over bits; the border is -1."""
    CONV_B1_I8 = 3
    """acc = sum (+-1) * w over bits and int8 weights; the border is -1."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model."""

    dtype: DType
    dims: tuple[int, ...]
    data: bytes | None = None
    """Canonical little-endian bytes of a constant; None for an activation."""
    layout: int = 0
    """Packing; 0 is the canonical rows, the only one so far."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor; the last axis of bits is filled up to whole words."""
        if self.dtype is DType.BITS:
            return prod(self.dims[:-1]) * n_words(self.dims[-1], CHANNEL_WORD) * 4
        return prod(self.dims) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Op:
    """One operation; ``data``, ``weights``, ``out``, ``threshold`` and ``bias`` number tensors.

    With a threshold (row 0 = t, row 1 = flip) the output is ``(pooled acc >= t) ^ flip`` as bits,
    without one it is the pooled accumulators as int32. A bias is added before pooling.
    """

    code: OpCode
    data: int
    weights: int
    out: int
    threshold: int | None = None
    bias: int | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    pool: tuple[int, int] = (1, 1)
    """Window and stride of the max-pool; incomplete windows are dropped."""


@dataclass(frozen=True)
class Model:
    """Operations in running order, their tensors, and metadata that the runtime never parses."""

    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    metadata: dict[str, JSON] = field(default_factory=dict)


_ITEM_BYTES = {DType.U8: 1, DType.I8: 1, DType.I32: 4, DType.I64: 8}


def output_shape(op: Op, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
    """Shape (H, W, C_out) that ``op`` produces: convolution, then pooling, both rounded down.

    Raises
    ------
    ModelFormatError
        If the shapes of data and weights do not belong together, or nothing would be left.
    """
    data, weights = tensors[op.data].dims, tensors[op.weights].dims
    if len(data) != 3 or len(weights) != 4 or data[2] != weights[3]:
        raise ModelFormatError(
            "weights: expected (C_out, KH, KW, C_in) with the C_in of data (H, W, C_in), "
            f"got weights {weights} and data {data}"
        )
    spatial = []
    for axis in (0, 1):
        kernel, stride = weights[1 + axis], op.stride[axis]
        padding, pool = op.padding[axis], op.pool[axis]
        if stride < 1 or pool < 1 or not 0 <= padding < kernel:
            raise ModelFormatError(
                "params: expected stride >= 1, pool >= 1 and 0 <= padding < kernel, "
                f"got stride {stride}, pool {pool}, padding {padding} with kernel {kernel}"
            )
        padded = data[axis] + 2 * padding
        fits = kernel <= padded <= INT32_MAX  # every coordinate is an int32 in the runtime
        size = ((padded - kernel) // stride + 1) // pool if fits else 0
        if size < 1:
            raise ModelFormatError(
                f"data: expected room for one output, got {data} with kernel {kernel}, "
                f"padding {padding}, stride {stride} and pool {pool}"
            )
        spatial.append(size)
    return spatial[0], spatial[1], weights[0]


def scratch_bytes(op: Op, tensors: Sequence[Tensor]) -> int:
    """Bytes in which the runtime gathers the patches of one pooling window.

    Bits stay packed; for int8 weights the data is widened to int16.
    """
    _, kernel_h, kernel_w, c_in = tensors[op.weights].dims
    bits = op.code is OpCode.CONV_B1
    tap = 4 * n_words(c_in, CHANNEL_WORD) if bits else 2 * c_in
    return prod(op.pool) * kernel_h * kernel_w * tap


def logical_digest(model: Model) -> str:
    """SHA-256 (hex) of the operations and the canonical weights, whatever target a file is for."""
    digest = hashlib.sha256(struct.pack("<2I", len(model.ops), len(model.tensors)))
    for op in model.ops:
        references = [-1 if i is None else i for i in (op.threshold, op.bias)]
        digest.update(struct.pack("<6q", op.code, op.data, op.weights, op.out, *references))
        digest.update(struct.pack("<6q", *op.stride, *op.padding, *op.pool))
    for tensor in model.tensors:
        rank, is_constant = len(tensor.dims), tensor.data is not None
        digest.update(struct.pack(f"<3I{rank}Q", tensor.dtype, rank, is_constant, *tensor.dims))
        digest.update(tensor.data or b"")
    return digest.hexdigest()
