r"""The model file ``.bspn``: written deterministically, read with a check of every field.

Little-endian. Header (64 bytes), operations (64 each), tensors (48 each), then the constants in
the order of their tensors and the metadata (UTF-8 JSON), each aligned to 64 bytes with zeros in
between. Nothing else may be in the file, so every offset has exactly one legal value.

Version 1.1 adds to 1.0: the operations from CONV_I8 on, uint16 tensors, groups, the zero border,
weights of CONV_B1 in panels, and the interval of every int32 output (params 7 and 8), which a
reader checks op by op. ``arena_bytes`` counts activations only; in 1.0 it counted working memory of
the runtime as well. Version 1.2 adds the operations from CONCAT on, and CONV_I32 with a stride,
padding, groups (always in params 6, where 1.1 has 0) and kernels that do not cover the data. A
writer declares 1.1 where that is enough. What is unknown is refused.

================ ======================== ==============================================
op record        in[1], in[2], in[3]      params 0-5 (stride, padding, pool), 6
================ ======================== ==============================================
convolutions     weights, threshold, bias all; groups; flag 1 is the zero border
CONV_I32         weights, -, bias         stride, padding, 1; groups. In 1.1: 1, 0, 1; 0
THRESHOLD        -, threshold, -          1, 0, 1; 0
SCALE            -, multiplier, bias      1, 0, 1; shift
ADD              - (in[4] = residual)     1, 0, 1; 0
MAX_POOL         -                        all; 0
AVERAGE_POOL     -, multiplier, bias      all; shift
LOOKUP           table, -, -              1, 0, 1; 0
CONCAT           - (in[4] = residual)     1, 0, 1; 0
SLICE            -                        0-2: start, 3-5: size, (row, column, channel); 0
MULTIPLY         - (in[4] = residual)     1, 0, 1; shift
================ ======================== ==============================================
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from kernels.arena import arena_bytes, check_arena, lifetimes, plan_arena
from kernels.crc32c import crc32c
from kernels.errors import ModelFormatError
from kernels.layout import align
from kernels.model import (
    CONVOLUTIONS,
    JSON,
    MAX_OPS,
    MAX_TENSORS,
    SCALES,
    SHIFTED,
    DType,
    Model,
    Op,
    OpCode,
    Tensor,
    is_dense,
    logical_digest,
    output_shape,
)
from kernels.model_bounds import Interval
from kernels.model_rules import check_model
from kernels.panels import Layout
from kernels.stored import Stored, allows_panels, read_tensor, store

__all__ = [
    "DType",
    "Model",
    "ModelFormatError",
    "Op",
    "OpCode",
    "Tensor",
    "logical_digest",
    "output_shape",
    "read_layout",
    "read_model",
    "write_model",
]

MAGIC: Final = b"BSPN\r\n\x1a\n"
VERSION: Final = (1, 2)
"""The newest that is read; a writer declares the lowest from 1.1 on that has what a model uses."""
_NO_TENSOR: Final = 0xFFFFFFFF
_HEADER = struct.Struct("<8s2HIQ2I2Q2I8s")
_OP = struct.Struct("<2H6I9i")
_TENSOR = struct.Struct("<2BH4II2Q2I")
_CRC_AT = 52
_ZERO_BORDER: Final = 1  # the only flag
_LAST_OPCODE: Final = (OpCode.CONV_B1_I8, OpCode.LOOKUP, OpCode.MULTIPLY)
"""Minor version -> the last operation that it knows."""
_NO_WINDOW: Final = ((1, 1), (0, 0), (1, 1))
"""Stride, padding and pool of what has none."""


def write_model(model: Model, layout: Layout = Layout.ROWS) -> bytes:
    """Serialise ``model``; equal models give equal bytes.

    Plans the arena and adds ``logical_digest`` to the metadata.

    Parameters
    ----------
    model
        A model that keeps the rules of :func:`kernels.model_rules.check_model`.
    layout
        How packed weights lie in the file: rows, which every runtime reads, or the panels of the
        processor that the file is for. Weights of few channels per group stay rows.

    Returns
    -------
    bytes
        A complete ``.bspn`` file.

    Raises
    ------
    ModelFormatError
        If the model breaks a rule of the format; the message names the part.
    """
    known = check_model(model)
    minor = max(_least_minor(op, model.tensors) for op in model.ops)
    offsets = plan_arena(model)
    metadata = json.dumps(
        {**model.metadata, "logical_digest": logical_digest(model)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()
    stored = [
        store(tensor, layout if allows_panels(model, i, layout) else Layout.ROWS)
        for i, tensor in enumerate(model.tensors)
    ]
    starts, meta_start = _places(len(model.ops), stored)
    tensors = b"".join(
        _pack_tensor(tensor, starts.get(i, 0), offsets.get(i, 0)) for i, tensor in enumerate(stored)
    )
    ops = [_pack_op(op, _declared(op, model.tensors, known), minor) for op in model.ops]
    tables = b"".join(ops) + tensors
    header = bytearray(
        _HEADER.pack(
            *(MAGIC, VERSION[0], minor, _HEADER.size, meta_start + len(metadata)),
            *(len(model.ops), len(model.tensors), arena_bytes(model, offsets)),
            *(meta_start, len(metadata), 0, bytes(8)),
        )
    )
    struct.pack_into("<I", header, _CRC_AT, crc32c(bytes(header) + tables))
    file = bytearray(header + tables)
    for i, start in starts.items():
        file += bytes(start - len(file)) + (stored[i].data or b"")
    return bytes(file + bytes(meta_start - len(file)) + metadata)


def read_model(data: bytes) -> Model:
    """Read a ``.bspn`` file, checking every field before it is used.

    Parameters
    ----------
    data
        The whole file.

    Returns
    -------
    Model
        Its metadata includes ``logical_digest``.

    Raises
    ------
    ModelFormatError
        If anything is not as the format says; the message names the field.
    """
    minor, n_ops, n_tensors, n_arena, meta_start, meta_length = _read_header(data)
    at = _HEADER.size
    records = [_OP.unpack_from(data, at + i * _OP.size) for i in range(n_ops)]
    ops = tuple(_read_op(record, i, minor) for i, record in enumerate(records))
    at += n_ops * _OP.size
    rows = [_TENSOR.unpack_from(data, at + i * _TENSOR.size) for i in range(n_tensors)]
    stored = [_read_tensor(data, row, i, minor) for i, row in enumerate(rows)]
    starts, expected_meta = _places(n_ops, stored)
    _expect("meta_off", meta_start, expected_meta)
    _expect("file_size", len(data), meta_start + meta_length)
    for i, row in enumerate(rows):
        _expect(f"tensors[{i}].data_off", row[8], starts.get(i, 0))
    _check_gaps(data, at + n_tensors * _TENSOR.size, starts, stored, meta_start)
    tensors = tuple(read_tensor(tensor, f"tensors[{i}]") for i, tensor in enumerate(stored))
    model = Model(ops, tensors, _read_metadata(data[meta_start:]))
    known = check_model(model)
    for i, op in enumerate(ops):
        if minor == 1 and _least_minor(op, tensors) > 1:
            raise ModelFormatError(
                f"ops[{i}]: expected a dense layer, got a CONV_I32 of version 1.2"
            )
        declared = _declared(op, tensors, known) if minor else (0, 0)
        _expect(f"ops[{i}].params[7:]", records[i][-2:], declared)
    for i, tensor in enumerate(stored):
        if tensor.layout is not Layout.ROWS and not allows_panels(model, i, tensor.layout):
            raise ModelFormatError(f"tensors[{i}].layout: expected rows, got {tensor.layout.name}")
    in_arena = lifetimes(model)
    for i, row in enumerate(rows):
        if i not in in_arena:
            _expect(f"tensors[{i}].arena_off", row[7], 0)
    check_arena(model, {i: rows[i][7] for i in in_arena}, n_arena, at_least=minor == 0)
    _expect("logical_digest", model.metadata.get("logical_digest"), logical_digest(model))
    return model


def read_layout(data: bytes) -> Layout:
    """Tell for which processors a file that :func:`read_model` accepts is packed."""
    n_ops, n_tensors = _HEADER.unpack_from(data)[5:7]
    at = _HEADER.size + n_ops * _OP.size
    return Layout(max(data[at + i * _TENSOR.size + 1] for i in range(n_tensors)))


def _places(n_ops: int, tensors: Sequence[Stored]) -> tuple[dict[int, int], int]:
    """Byte offset of every constant, and of the metadata behind them."""
    at = _HEADER.size + n_ops * _OP.size + len(tensors) * _TENSOR.size
    starts: dict[int, int] = {}
    for i, tensor in enumerate(tensors):
        if tensor.data is not None:
            starts[i] = align(at)
            at = starts[i] + tensor.n_bytes
    return starts, align(at)


def _declared(op: Op, tensors: Sequence[Tensor], known: Mapping[int, Interval]) -> Interval:
    return known[op.out] if tensors[op.out].dtype is DType.I32 else (0, 0)


def _least_minor(op: Op, tensors: Sequence[Tensor]) -> int:
    """1 or 2: what an operation needs, of the versions that are written."""
    is_old = op.code <= OpCode.LOOKUP
    return 1 if is_old and (op.code is not OpCode.CONV_I32 or is_dense(op, tensors)) else 2


def _has_groups(code: int, minor: int) -> bool:
    return code in CONVOLUTIONS or (code == OpCode.CONV_I32 and minor > 1)


def _pack_op(op: Op, interval: Interval, minor: int) -> bytes:
    second = op.multiplier if op.code in SCALES else op.threshold
    references = (op.data, op.weights, second, op.bias, op.residual)
    numbers = [_NO_TENSOR if i is None else i for i in references]
    extra = op.groups if _has_groups(op.code, minor) else op.shift
    window = (*op.stride, *op.padding, *op.pool)
    place = (*op.start, *op.size) if op.code is OpCode.SLICE else window
    flags = _ZERO_BORDER if op.zero_border else 0
    return _OP.pack(op.code, flags, *numbers, op.out, *place, extra, *interval)


def _pack_tensor(tensor: Stored, start: int, arena_off: int) -> bytes:
    dims = (*tensor.dims, 0, 0, 0)[:4]
    crc = 0 if tensor.data is None else crc32c(tensor.data)
    head = (tensor.dtype, tensor.layout, len(tensor.dims), *dims)
    return _TENSOR.pack(*head, arena_off, start, tensor.n_bytes, crc, 0)


def _read_header(data: bytes) -> tuple[int, int, int, int, int, int]:
    if len(data) < _HEADER.size:
        raise ModelFormatError(f"file: expected at least {_HEADER.size} bytes, got {len(data)}")
    magic, major, minor, size, file_size, n_ops, n_tensors, *rest = _HEADER.unpack_from(data)
    n_arena, meta_start, meta_length, crc, zero = rest
    if magic != MAGIC:
        raise ModelFormatError(f"magic: expected {MAGIC!r}, got {magic!r}; not a .bspn file")
    if major != VERSION[0] or minor > VERSION[1]:
        raise ModelFormatError(
            f"version: expected {VERSION[0]}.{VERSION[1]}, got {major}.{minor}; update bitspin"
        )
    _expect("header_size", size, _HEADER.size)
    _expect("file_size", file_size, len(data))
    _expect("header: last 8 bytes", zero, bytes(8))
    if not 1 <= n_ops <= MAX_OPS or not 1 <= n_tensors <= MAX_TENSORS:
        raise ModelFormatError(
            f"n_ops, n_tensors: expected 1 to {MAX_OPS} and 1 to {MAX_TENSORS}, "
            f"got {n_ops} and {n_tensors}"
        )
    end = _HEADER.size + n_ops * _OP.size + n_tensors * _TENSOR.size
    if end > len(data):
        raise ModelFormatError(f"file: expected {end} bytes of tables, got {len(data)}; truncated")
    covered = data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 : end]
    _expect("crc32c of the header and tables", crc, crc32c(covered))
    return minor, n_ops, n_tensors, n_arena, meta_start, meta_length


def _read_op(record: tuple[int, ...], number: int, minor: int) -> Op:
    name = f"ops[{number}]"
    code, flags, *numbers = record
    legal = [known for known in OpCode if known <= _LAST_OPCODE[minor]]
    if code not in legal:
        raise ModelFormatError(f"{name}.opcode: expected {legal}, got {code}")
    inputs, out, params = numbers[:5], numbers[5], numbers[6:]
    if flags & ~(_ZERO_BORDER if minor else 0):
        raise ModelFormatError(f"{name}.flags: expected no unknown flag, got {flags:#06x}")
    if minor == 0:
        _expect(f"{name}.in[4]", inputs[4], _NO_TENSOR)
        _expect(f"{name}.params[6:]", params[6:], [0, 0, 0])
    second, extra = inputs[2], params[6]
    is_scale, has_groups, is_slice = code in SCALES, _has_groups(code, minor), code == OpCode.SLICE
    if code not in SHIFTED and not has_groups:
        _expect(f"{name}.params[6]", extra, 0)
    window = ((params[0], params[1]), (params[2], params[3]), (params[4], params[5]))
    stride, padding, pool = _NO_WINDOW if is_slice else window
    return Op(
        OpCode(code),
        inputs[0],
        _reference(inputs[1]),
        out,
        threshold=None if is_scale else _reference(second),
        bias=_reference(inputs[3]),
        stride=stride,
        padding=padding,
        pool=pool,
        multiplier=_reference(second) if is_scale else None,
        residual=_reference(inputs[4]),
        groups=extra if has_groups and minor else 1,
        shift=extra if code in SHIFTED else 0,
        zero_border=bool(flags),
        start=(params[0], params[1], params[2]) if is_slice else (0, 0, 0),
        size=(params[3], params[4], params[5]) if is_slice else (0, 0, 0),
    )


def _reference(number: int) -> int | None:
    return None if number == _NO_TENSOR else number


def _read_tensor(data: bytes, row: tuple[int, ...], number: int, minor: int) -> Stored:
    name = f"tensors[{number}]"
    dtype, layout, rank, *dims, _, start, n_bytes, crc, zero = row
    if dtype not in list(DType):
        raise ModelFormatError(f"{name}.dtype: expected {list(DType)}, got {dtype}")
    if layout not in (list(Layout) if minor else [Layout.ROWS]):
        raise ModelFormatError(f"{name}.layout: expected {list(Layout)}, got {layout}")
    if not 1 <= rank <= 4 or min(dims[:rank]) < 1 or any(dims[rank:]):
        raise ModelFormatError(f"{name}.dims: expected {rank} sizes, then zeros, got {dims}")
    _expect(f"{name}: last 4 bytes", zero, 0)
    tensor = Stored(DType(dtype), tuple(dims[:rank]), None, Layout(layout))
    _expect(f"{name}.bytes", n_bytes, tensor.n_bytes)
    if start == 0:
        _expect(f"{name}.crc32c", crc, 0)
        return tensor
    if start > len(data) or n_bytes > len(data) - start:
        raise ModelFormatError(f"{name}: expected its data inside the file, got offset {start}")
    blob = data[start : start + n_bytes]
    _expect(f"{name}.crc32c", crc, crc32c(blob))
    return replace(tensor, data=blob)


def _check_gaps(
    data: bytes, at: int, starts: dict[int, int], tensors: Sequence[Stored], end: int
) -> None:
    """Between tables, constants and metadata lie zeros only."""
    for i, start in starts.items():
        _expect(f"gap before tensors[{i}]", data[at:start], bytes(start - at))
        at = start + tensors[i].n_bytes
    _expect("gap before the metadata", data[at:end], bytes(end - at))


def _read_metadata(text: bytes) -> dict[str, JSON]:
    try:
        metadata = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"metadata: expected UTF-8 JSON, got {error}") from None
    if not isinstance(metadata, dict):
        raise ModelFormatError(f"metadata: expected an object, got {type(metadata).__name__}")
    return cast(dict[str, JSON], metadata)


def _expect(name: str, got: object, expected: object) -> None:
    if got != expected:
        raise ModelFormatError(f"{name}: expected {expected!r}, got {got!r}; the file is damaged")
