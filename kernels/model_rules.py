"""The rules that every model keeps, checked by the writer and by the reader.

They make a run safe and exact without a further check: shapes fit, every activation is written
before it is read, padding bits are zero, and no accumulator can leave int32.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ModelFormatError
from kernels.layout import CHANNEL_WORD, n_words, tail_mask
from kernels.model import (
    INT32_MAX,
    MAX_BYTES,
    MAX_OPS,
    MAX_TENSORS,
    DType,
    Model,
    Op,
    OpCode,
    Tensor,
    output_shape,
    scratch_bytes,
)

_DATA_DTYPE = {
    OpCode.CONV_U8: DType.U8,
    OpCode.CONV_B1: DType.BITS,
    OpCode.CONV_B1_I8: DType.BITS,
}
_WEIGHT_DTYPE = {
    OpCode.CONV_U8: DType.I8,
    OpCode.CONV_B1: DType.BITS,
    OpCode.CONV_B1_I8: DType.I8,
}
# Largest |x * w| of one product; K times this bounds the accumulator without reading the weights.
_MAX_PRODUCT = {OpCode.CONV_U8: 255 * 128, OpCode.CONV_B1: 1, OpCode.CONV_B1_I8: 128}


def check_model(model: Model) -> None:
    """Check every rule of the format that does not concern offsets.

    Raises
    ------
    ModelFormatError
        Names the tensor or operation and what it should have been.
    """
    if not 1 <= len(model.ops) <= MAX_OPS or not 1 <= len(model.tensors) <= MAX_TENSORS:
        raise ModelFormatError(
            f"model: expected 1 to {MAX_OPS} ops and 1 to {MAX_TENSORS} tensors, "
            f"got {len(model.ops)} and {len(model.tensors)}"
        )
    for number, tensor in enumerate(model.tensors):
        with _named(f"tensors[{number}]"):
            _check_tensor(tensor)
    _check_dataflow(model)
    for number, op in enumerate(model.ops):
        with _named(f"ops[{number}]"):
            _check_op(op, model.tensors)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of the part in front of the message of a ModelFormatError."""
    try:
        yield
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from None


def _check_tensor(tensor: Tensor) -> None:
    if tensor.layout != 0:
        raise ModelFormatError(f"layout: expected 0 (canonical rows), got {tensor.layout}")
    if not 1 <= len(tensor.dims) <= 4 or not all(1 <= n <= MAX_BYTES for n in tensor.dims):
        raise ModelFormatError(f"dims: expected 1 to 4 positive sizes, got {tensor.dims}")
    if tensor.n_bytes > MAX_BYTES:
        raise ModelFormatError(f"bytes: expected at most {MAX_BYTES}, got {tensor.n_bytes}")
    if tensor.data is None:
        return
    if len(tensor.data) != tensor.n_bytes:
        raise ModelFormatError(
            f"data: expected {tensor.n_bytes} bytes for {tensor.dtype.name} {tensor.dims}, "
            f"got {len(tensor.data)}"
        )
    if tensor.dtype is DType.BITS:
        rows = np.frombuffer(tensor.data, CHANNEL_WORD)
        last = rows.reshape(-1, n_words(tensor.dims[-1], CHANNEL_WORD))[:, -1]
        if np.any(last & ~np.uint32(tail_mask(tensor.dims[-1], CHANNEL_WORD))):
            raise ModelFormatError("data: expected padding bits 0, got a 1; use pack_bits")


def _check_dataflow(model: Model) -> None:
    """Every tensor is used, and no activation is read before it is written or written twice."""
    used = {0}
    written = {0}
    for number, op in enumerate(model.ops):
        constants = [i for i in (op.weights, op.threshold, op.bias) if i is not None]
        for i in (op.data, op.out, *constants):
            if not 0 <= i < len(model.tensors):
                raise ModelFormatError(f"ops[{number}]: expected a tensor number, got {i}")
        if any(model.tensors[i].data is None for i in constants):
            raise ModelFormatError(f"ops[{number}]: expected constants, got an activation")
        if op.data not in written:
            raise ModelFormatError(f"ops[{number}].data: tensor {op.data} is not yet written")
        if op.out in written or model.tensors[op.out].data is not None:
            raise ModelFormatError(f"ops[{number}].out: tensor {op.out} may not be written")
        written.add(op.out)
        used.update((op.data, *constants))
    used.add(model.ops[-1].out)
    if model.tensors[0].data is not None or not any(op.data == 0 for op in model.ops):
        raise ModelFormatError("tensors[0]: expected the input of the network, read by an op")
    unused = sorted(set(range(len(model.tensors))) - used)
    if unused:
        raise ModelFormatError(f"tensors[{unused[0]}]: expected to be read by an op, got no reader")
    if model.tensors[model.ops[-1].out].dtype is not DType.I32:
        raise ModelFormatError("ops[-1].out: expected i32, the output of the network")


def _check_op(op: Op, tensors: Sequence[Tensor]) -> None:
    data, weights, out = tensors[op.data], tensors[op.weights], tensors[op.out]
    if max(*op.stride, *op.padding, *op.pool) > INT32_MAX:
        raise ModelFormatError(f"params: expected int32, got {op.stride} {op.padding} {op.pool}")
    if data.dtype is not _DATA_DTYPE[op.code] or weights.dtype is not _WEIGHT_DTYPE[op.code]:
        raise ModelFormatError(
            f"dtype: {op.code.name} takes {_DATA_DTYPE[op.code].name} data and "
            f"{_WEIGHT_DTYPE[op.code].name} weights, got {data.dtype.name} and {weights.dtype.name}"
        )
    shape = output_shape(op, tensors)
    out_dtype = DType.I32 if op.threshold is None else DType.BITS
    if (out.dims, out.dtype) != (shape, out_dtype):
        raise ModelFormatError(
            f"out: expected {out_dtype.name} {shape}, got {out.dtype.name} {out.dims}"
        )
    if scratch_bytes(op, tensors) > MAX_BYTES:
        raise ModelFormatError(f"pool: expected patches of at most {MAX_BYTES} bytes")
    bound = _check_accumulator(op, tensors)
    if op.threshold is not None:
        _check_threshold(tensors[op.threshold], bound)


def _check_accumulator(op: Op, tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Bound of |acc| per output channel, from shapes and bias alone."""
    n_out, *kernel = tensors[op.weights].dims
    bound = np.full(n_out, prod(kernel) * _MAX_PRODUCT[op.code], np.int64)
    if op.bias is not None:
        bias = tensors[op.bias]
        if bias.dtype is not DType.I32 or bias.dims != (n_out,):
            raise ModelFormatError(
                f"bias: expected I32 {(n_out,)}, got {bias.dtype.name} {bias.dims}"
            )
        bound += np.abs(np.frombuffer(bias.data or b"", "<i4").astype(np.int64))
    if bound.max() > INT32_MAX:
        raise ModelFormatError(f"acc: expected a bound below 2**31, got {bound.max()}")
    return bound


def _check_threshold(threshold: Tensor, bound: NDArray[np.int64]) -> None:
    if threshold.dtype is not DType.I32 or threshold.dims != (2, bound.size):
        raise ModelFormatError(
            f"threshold: expected I32 {(2, bound.size)}, "
            f"got {threshold.dtype.name} {threshold.dims}"
        )
    levels, flips = np.frombuffer(threshold.data or b"", "<i4").astype(np.int64).reshape(2, -1)
    if np.any(np.abs(levels) > bound + 1):
        channel = int(np.argmax(np.abs(levels) - bound))
        raise ModelFormatError(
            f"threshold: expected |t| <= {bound[channel] + 1} in channel {channel}, "
            f"got {levels[channel]}; beyond that the bit is constant"
        )
    if np.any((flips != 0) & (flips != 1)):
        raise ModelFormatError("threshold: expected flips 0 or 1")
