r"""The model file ``.bspn``: written deterministically, read with a check of every field.

Little-endian. Header (64 bytes), operations (64 each), tensors (48 each), then the constants in
the order of their tensors and the metadata (UTF-8 JSON), each aligned to 64 bytes with zeros in
between. Nothing else may be in the file, so every offset has exactly one legal value.
"""

import json
import struct
from typing import Final, cast

from kernels.arena import arena_bytes, check_arena, lifetimes, plan_arena
from kernels.crc32c import crc32c
from kernels.errors import ModelFormatError
from kernels.layout import align
from kernels.model import (
    JSON,
    MAX_OPS,
    MAX_TENSORS,
    DType,
    Model,
    Op,
    OpCode,
    Tensor,
    logical_digest,
    output_shape,
)
from kernels.model_rules import check_model

__all__ = [
    "DType",
    "Model",
    "ModelFormatError",
    "Op",
    "OpCode",
    "Tensor",
    "logical_digest",
    "output_shape",
    "read_model",
    "write_model",
]

MAGIC: Final = b"BSPN\r\n\x1a\n"
VERSION: Final = (1, 0)
_NO_TENSOR: Final = 0xFFFFFFFF
_HEADER = struct.Struct("<8s2HIQ2I2Q2I8s")
_OP = struct.Struct("<2H6I9i")
_TENSOR = struct.Struct("<2BH4II2Q2I")
_CRC_AT = 52


def write_model(model: Model) -> bytes:
    """Serialise ``model``; equal models give equal bytes.

    Plans the arena and adds ``logical_digest`` to the metadata.

    Returns
    -------
    bytes
        A complete ``.bspn`` file.

    Raises
    ------
    ModelFormatError
        If the model breaks a rule of the format; the message names the part.
    """
    check_model(model)
    offsets = plan_arena(model)
    metadata = json.dumps(
        {**model.metadata, "logical_digest": logical_digest(model)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()
    starts, meta_start = _places(len(model.ops), model.tensors)
    tensors = b"".join(
        _pack_tensor(tensor, starts.get(i, 0), offsets.get(i, 0))
        for i, tensor in enumerate(model.tensors)
    )
    tables = b"".join(map(_pack_op, model.ops)) + tensors
    header = bytearray(
        _HEADER.pack(
            *(MAGIC, *VERSION, _HEADER.size, meta_start + len(metadata)),
            *(len(model.ops), len(model.tensors), arena_bytes(model, offsets)),
            *(meta_start, len(metadata), 0, bytes(8)),
        )
    )
    struct.pack_into("<I", header, _CRC_AT, crc32c(bytes(header) + tables))
    file = bytearray(header + tables)
    for i, start in starts.items():
        file += bytes(start - len(file)) + (model.tensors[i].data or b"")
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
    n_ops, n_tensors, n_arena, meta_start, meta_length = _read_header(data)
    at = _HEADER.size
    ops = tuple(_read_op(data, at + i * _OP.size, i) for i in range(n_ops))
    at += n_ops * _OP.size
    rows = [_TENSOR.unpack_from(data, at + i * _TENSOR.size) for i in range(n_tensors)]
    tensors = tuple(_read_tensor(data, row, i) for i, row in enumerate(rows))
    starts, expected_meta = _places(n_ops, tensors)
    _expect("meta_off", meta_start, expected_meta)
    _expect("file_size", len(data), meta_start + meta_length)
    for i, row in enumerate(rows):
        _expect(f"tensors[{i}].data_off", row[8], starts.get(i, 0))
    _check_gaps(data, at + n_tensors * _TENSOR.size, starts, tensors, meta_start)
    model = Model(ops, tensors, _read_metadata(data[meta_start:]))
    check_model(model)
    in_arena = lifetimes(model)
    for i, row in enumerate(rows):
        if i not in in_arena:
            _expect(f"tensors[{i}].arena_off", row[7], 0)
    check_arena(model, {i: rows[i][7] for i in in_arena}, n_arena)
    _expect("logical_digest", model.metadata.get("logical_digest"), logical_digest(model))
    return model


def _places(n_ops: int, tensors: tuple[Tensor, ...]) -> tuple[dict[int, int], int]:
    """Byte offset of every constant, and of the metadata behind them."""
    at = _HEADER.size + n_ops * _OP.size + len(tensors) * _TENSOR.size
    starts: dict[int, int] = {}
    for i, tensor in enumerate(tensors):
        if tensor.data is not None:
            starts[i] = align(at)
            at = starts[i] + tensor.n_bytes
    return starts, align(at)


def _pack_op(op: Op) -> bytes:
    references = (op.data, op.weights, op.threshold, op.bias, None)
    numbers = [_NO_TENSOR if i is None else i for i in references]
    params = (*op.stride, *op.padding, *op.pool, 0, 0, 0)
    return _OP.pack(op.code, 0, *numbers, op.out, *params)


def _pack_tensor(tensor: Tensor, start: int, arena_off: int) -> bytes:
    dims = (*tensor.dims, 0, 0, 0)[:4]
    crc = 0 if tensor.data is None else crc32c(tensor.data)
    head = (tensor.dtype, tensor.layout, len(tensor.dims), *dims)
    return _TENSOR.pack(*head, arena_off, start, tensor.n_bytes, crc, 0)


def _read_header(data: bytes) -> tuple[int, int, int, int, int]:
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
    return n_ops, n_tensors, n_arena, meta_start, meta_length


def _read_op(data: bytes, at: int, number: int) -> Op:
    code, flags, *numbers = _OP.unpack_from(data, at)
    if code not in list(OpCode):
        raise ModelFormatError(f"ops[{number}].opcode: expected {list(OpCode)}, got {code}")
    _expect(f"ops[{number}].flags", flags, 0)
    inputs, out, params = numbers[:5], numbers[5], numbers[6:]
    _expect(f"ops[{number}].in[4]", inputs[4], _NO_TENSOR)
    _expect(f"ops[{number}].params[6:]", params[6:], [0, 0, 0])
    threshold, bias = (None if i == _NO_TENSOR else i for i in inputs[2:4])
    stride, padding, pool = (tuple(params[i : i + 2]) for i in (0, 2, 4))
    return Op(OpCode(code), inputs[0], inputs[1], out, threshold, bias, stride, padding, pool)


def _read_tensor(data: bytes, row: tuple[int, ...], number: int) -> Tensor:
    name = f"tensors[{number}]"
    dtype, layout, rank, *dims, _, start, n_bytes, crc, zero = row
    if dtype not in list(DType):
        raise ModelFormatError(f"{name}.dtype: expected {list(DType)}, got {dtype}")
    if not 1 <= rank <= 4 or min(dims[:rank]) < 1 or any(dims[rank:]):
        raise ModelFormatError(f"{name}.dims: expected {rank} sizes, then zeros, got {dims}")
    _expect(f"{name}: last 4 bytes", zero, 0)
    tensor = Tensor(DType(dtype), tuple(dims[:rank]), None, layout)
    _expect(f"{name}.bytes", n_bytes, tensor.n_bytes)
    if start == 0:
        _expect(f"{name}.crc32c", crc, 0)
        return tensor
    if start > len(data) or n_bytes > len(data) - start:
        raise ModelFormatError(f"{name}: expected its data inside the file, got offset {start}")
    blob = data[start : start + n_bytes]
    _expect(f"{name}.crc32c", crc, crc32c(blob))
    return Tensor(tensor.dtype, tensor.dims, blob, layout)


def _check_gaps(
    data: bytes, at: int, starts: dict[int, int], tensors: tuple[Tensor, ...], end: int
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
