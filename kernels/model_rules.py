"""The rules that every model keeps, checked by the writer and by the reader.

They make a run safe and exact without a further check: shapes fit, every activation is written
before it is read, padding bits are zero, and no accumulator can leave int32.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ModelFormatError
from kernels.layout import CHANNEL_WORD, n_words, tail_mask
from kernels.model import (
    CONVOLUTIONS,
    GROUPED,
    INT32_MAX,
    MAX_BYTES,
    MAX_OPS,
    MAX_TENSORS,
    SCALES,
    SHIFTED,
    DType,
    Model,
    Op,
    OpCode,
    Tensor,
    output_shape,
)
from kernels.model_bounds import (
    INT32,
    MAX_OFFSET,
    MAX_TABLE,
    OF_DTYPE,
    Interval,
    output_interval,
    values,
)

_NUMBERS = (DType.U8, DType.I8, DType.I32)
_DATA_DTYPES = {
    OpCode.CONV_U8: (DType.U8,),
    OpCode.CONV_B1: (DType.BITS,),
    OpCode.CONV_B1_I8: (DType.BITS,),
    OpCode.CONV_I8: (DType.I8,),
    OpCode.CONV_I32: (DType.I32,),
    OpCode.THRESHOLD: _NUMBERS,
    OpCode.SCALE: (*_NUMBERS, DType.BITS),
    OpCode.ADD: (DType.I32,),
    OpCode.MAX_POOL: (DType.I32, DType.BITS),
    OpCode.AVERAGE_POOL: (*_NUMBERS, DType.BITS),
    OpCode.LOOKUP: (DType.I32,),
    OpCode.CONCAT: (DType.I32,),
    OpCode.SLICE: (DType.I32, DType.BITS),
    OpCode.MULTIPLY: (DType.I32,),
}
_WEIGHT_DTYPE = {
    OpCode.CONV_U8: DType.I8,
    OpCode.CONV_B1: DType.BITS,
    OpCode.CONV_B1_I8: DType.I8,
    OpCode.CONV_I8: DType.I8,
    OpCode.CONV_I32: DType.I8,
    OpCode.LOOKUP: DType.U16,
}
# Operands beside data that an operation needs, and those that it may have.
_OPERANDS: dict[OpCode, tuple[set[str], set[str]]] = {
    **{code: ({"weights"}, {"threshold", "bias"}) for code in CONVOLUTIONS},
    OpCode.CONV_I32: ({"weights"}, {"bias"}),
    OpCode.THRESHOLD: ({"threshold"}, set()),
    OpCode.SCALE: ({"multiplier", "bias"}, set()),
    OpCode.ADD: ({"residual"}, set()),
    OpCode.MAX_POOL: (set(), set()),
    OpCode.AVERAGE_POOL: ({"multiplier", "bias"}, set()),
    OpCode.LOOKUP: ({"weights"}, set()),
    OpCode.CONCAT: ({"residual"}, set()),
    OpCode.SLICE: (set(), set()),
    OpCode.MULTIPLY: ({"residual"}, set()),
}
# Largest |x * w| of one product; K times this bounds the accumulator without reading the weights.
_MAX_PRODUCT = {
    OpCode.CONV_U8: 255 * 128,
    OpCode.CONV_B1: 1,
    OpCode.CONV_B1_I8: 128,
    OpCode.CONV_I8: 128 * 128,
}


def check_model(model: Model) -> dict[int, Interval]:
    """Check every rule of the format that does not concern offsets.

    Returns
    -------
    dict
        Number of an activation -> interval of its values (:mod:`kernels.model_bounds`).

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
    known = {0: OF_DTYPE.get(model.tensors[0].dtype, INT32)}
    for number, op in enumerate(model.ops):
        with _named(f"ops[{number}]"):
            _check_params(op)
            _check_operands(op, model.tensors)
            known[op.out] = _check_values(op, model.tensors, known)
    return known


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of the part in front of the message of a ModelFormatError."""
    try:
        yield
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from None


def _check_tensor(tensor: Tensor) -> None:
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
        for i in (*op.activations, op.out, *op.constants):
            if not 0 <= i < len(model.tensors):
                raise ModelFormatError(f"ops[{number}]: expected a tensor number, got {i}")
        if any(model.tensors[i].data is None for i in op.constants):
            raise ModelFormatError(f"ops[{number}]: expected constants, got an activation")
        for i in op.activations:
            if i not in written:
                raise ModelFormatError(f"ops[{number}].data: tensor {i} is not yet written")
        if op.out in written or model.tensors[op.out].data is not None:
            raise ModelFormatError(f"ops[{number}].out: tensor {op.out} may not be written")
        written.add(op.out)
        used.update((*op.activations, *op.constants))
    used.add(model.ops[-1].out)
    if model.tensors[0].data is not None or not any(0 in op.activations for op in model.ops):
        raise ModelFormatError("tensors[0]: expected the input of the network, read by an op")
    unused = sorted(set(range(len(model.tensors))) - used)
    if unused:
        raise ModelFormatError(f"tensors[{unused[0]}]: expected to be read by an op, got no reader")
    if model.tensors[model.ops[-1].out].dtype is not DType.I32:
        raise ModelFormatError("ops[-1].out: expected i32, the output of the network")


def _check_operands(op: Op, tensors: Sequence[Tensor]) -> None:
    """Every operand is there, of the right type and shape."""
    names = ("weights", "threshold", "multiplier", "bias", "residual")
    given = {name for name in names if getattr(op, name) is not None}
    needed, optional = _OPERANDS[op.code]
    if not needed <= given <= needed | optional:
        raise ModelFormatError(
            f"operands: {op.code.name} takes data{_listed(needed)}, may have{_listed(optional)}, "
            f"got{_listed(given)}"
        )
    data, out = tensors[op.data], tensors[op.out]
    weights = None if op.weights is None else tensors[op.weights].dtype
    expected = _WEIGHT_DTYPE.get(op.code)
    if data.dtype not in _DATA_DTYPES[op.code] or weights is not expected:
        names_of_data = " or ".join(dtype.name for dtype in _DATA_DTYPES[op.code])
        raise ModelFormatError(
            f"dtype: {op.code.name} takes {names_of_data} data and "
            f"{_name(expected)} weights, got {data.dtype.name} and {_name(weights)}"
        )
    if op.residual is not None and tensors[op.residual].dtype is not DType.I32:
        raise ModelFormatError(f"residual: expected I32, got {tensors[op.residual].dtype.name}")
    shape = output_shape(op, tensors)
    out_dtype = DType.I32 if op.threshold is None else DType.BITS
    if op.code in (OpCode.MAX_POOL, OpCode.SLICE):
        out_dtype = data.dtype
    if (out.dims, out.dtype) != (shape, out_dtype):
        raise ModelFormatError(
            f"out: expected {out_dtype.name} {shape}, got {out.dtype.name} {out.dims}"
        )
    _check_constants(op, tensors, shape[2])


def _check_constants(op: Op, tensors: Sequence[Tensor], n_out: int) -> None:
    n_rows = 1
    if op.multiplier is not None:
        dims = tensors[op.multiplier].dims
        n_rows = 2 if dims == (3, n_out) else 1
        _expect("multiplier", tensors[op.multiplier], DType.I32, (2 * n_rows - 1, n_out))
    if op.bias is not None and op.code in SCALES:
        _expect("bias", tensors[op.bias], DType.I64, (n_rows, n_out))
    elif op.bias is not None:
        _expect("bias", tensors[op.bias], DType.I32, (n_out,))
    if op.threshold is not None:
        _expect("threshold", tensors[op.threshold], DType.I32, (2, n_out))
    if op.weights is not None and op.code is OpCode.LOOKUP:
        n = tensors[op.weights].dims[0]
        _expect("weights", tensors[op.weights], DType.U16, (n,))
        if n % 2 or n > MAX_TABLE:
            raise ModelFormatError(f"weights: expected an even table up to {MAX_TABLE}, got {n}")


def _check_params(op: Op) -> None:
    numbers = (*op.stride, *op.padding, *op.pool, op.groups)
    if max(numbers) > INT32_MAX:
        raise ModelFormatError(f"params: expected int32, got {numbers}")
    if op.groups < 1 or (op.groups > 1 and op.code not in GROUPED):
        raise ModelFormatError(f"groups: expected 1, more in a convolution only, got {op.groups}")
    if not (1 <= op.shift <= 31 if op.code in SHIFTED else op.shift == 0):
        raise ModelFormatError(f"shift: expected 1 to 31, 0 if nothing is scaled, got {op.shift}")
    if op.code is not OpCode.SLICE and any((*op.start, *op.size)):
        raise ModelFormatError(
            f"start, size: expected zeros, more in SLICE only, got {op.code.name}"
        )
    if op.zero_border and op.code not in (OpCode.CONV_B1, OpCode.CONV_B1_I8):
        raise ModelFormatError(f"zero_border: expected a convolution of bits, got {op.code.name}")


def _check_values(op: Op, tensors: Sequence[Tensor], known: Mapping[int, Interval]) -> Interval:
    """No int32 can overflow, and thresholds are within reach; the interval of the output."""
    if op.multiplier is not None and op.bias is not None:
        offset = values(tensors[op.bias])
        if max(int(offset.max()), -int(offset.min())) > MAX_OFFSET:
            raise ModelFormatError(f"bias: expected at most 2**61, got {offset.max()}")
    n_out = tensors[op.out].dims[2]
    low, high = (np.full(n_out, end, np.int64) for end in known[op.data])
    if op.code in _MAX_PRODUCT:
        high = _accumulator_bound(op, tensors)
        low = -high
    if op.threshold is not None:
        _check_threshold(values(tensors[op.threshold]), low, high)
    return output_interval(op, tensors, known)


def _accumulator_bound(op: Op, tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Bound of |acc| per output channel, from shapes and bias alone."""
    assert op.weights is not None  # the operands are checked before
    n_out, *kernel = tensors[op.weights].dims
    bound = np.full(n_out, prod(kernel) * _MAX_PRODUCT[op.code], np.int64)
    if op.bias is not None:
        bound += np.abs(values(tensors[op.bias]))
    if bound.max() > INT32_MAX:
        raise ModelFormatError(f"acc: expected a bound below 2**31, got {bound.max()}")
    return bound


def _check_threshold(
    rows: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> None:
    levels, flips = rows
    wrong = (levels < low - 1) | (levels > high + 1)
    if wrong.any():
        channel = int(np.argmax(wrong))
        raise ModelFormatError(
            f"threshold: expected {low[channel] - 1} <= t <= {high[channel] + 1} in channel "
            f"{channel}, got {levels[channel]}; beyond that the bit is constant"
        )
    if np.any((flips != 0) & (flips != 1)):
        raise ModelFormatError("threshold: expected flips 0 or 1")


def _expect(name: str, tensor: Tensor, dtype: DType, dims: tuple[int, ...]) -> None:
    if (tensor.dtype, tensor.dims) != (dtype, dims):
        raise ModelFormatError(
            f"{name}: expected {dtype.name} {dims}, got {tensor.dtype.name} {tensor.dims}"
        )


def _listed(names: set[str]) -> str:
    return "".join(f" {name}" for name in sorted(names)) or " nothing"


def _name(dtype: DType | None) -> str:
    return "no" if dtype is None else dtype.name
