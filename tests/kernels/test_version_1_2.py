"""What version 1.2 of the format adds: which files declare it, and what both readers refuse."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kernels import DType, Model, ModelFormatError, OpCode, logical_digest, read_model, write_model
from kernels.crc32c import crc32c
from kernels.model import is_dense
from kernels.native import Library

MINOR = 10  # offsets in the file
OPCODE, PARAMS = 0, 28  # offsets in an operation


def _scaled(graphs: ModuleType, image: tuple[int, int, int] = (3, 4, 70)):  # type: ignore[no-untyped-def]
    graph = graphs.Graph(DType.I8, image, 0)
    ones, zeros = np.ones((1, image[2])), np.zeros((1, image[2]))
    more = {"multiplier": graph.constant(ones, DType.I32), "bias": graph.constant(zeros, DType.I64)}
    graph.append(OpCode.SCALE, shift=1, **more)
    return graph


def _convolution(graphs: ModuleType, kernel: tuple[int, int] = (2, 3), **more: object) -> Model:
    graph = _scaled(graphs)
    groups = int(more.get("groups", 1))  # type: ignore[call-overload]
    weights = graph.constant(graph.rng.integers(-9, 10, (2, *kernel, 70 // groups)), DType.I8)
    graph.append(OpCode.CONV_I32, weights, **more)
    model: Model = graph.model()
    return model


def _concat(graphs: ModuleType) -> Model:
    graph = _scaled(graphs)
    graph.append(OpCode.CONCAT, residual=graph.last)
    model: Model = graph.model()
    return model


def _slice(graphs: ModuleType) -> Model:
    """A box twice, so that the stream has another reader."""
    graph = _scaled(graphs)
    stream = graph.last
    graph.append(OpCode.SLICE, start=(1, 0, 30), size=(2, 3, 40))
    first, graph.last = graph.last, stream
    graph.append(OpCode.SLICE, start=(1, 0, 30), size=(2, 3, 40))
    graph.append(OpCode.ADD, residual=first)
    model: Model = graph.model()
    return model


def _slice_bits(graphs: ModuleType, n: int = 38) -> Model:
    graph = graphs.Graph(DType.BITS, (3, 4, 70), 0)
    graph.append(OpCode.SLICE, start=(1, 0, 32), size=(2, 3, n))
    weights = graph.constant(graph.rng.random((1, 1, 1, n)) < 0.5, DType.BITS)
    graph.append(OpCode.CONV_B1, weights)
    model: Model = graph.model()
    return model


def _multiply(graphs: ModuleType) -> Model:
    graph = _scaled(graphs)
    graph.append(OpCode.MULTIPLY, residual=graph.last, shift=3)
    model: Model = graph.model()
    return model


MODELS: dict[str, Callable[[ModuleType], Model]] = {
    "concat": _concat,
    "convolution": _convolution,
    "multiply": _multiply,
    "slice": _slice,
    "slice of bits": _slice_bits,
    "slice of a word": partial(_slice_bits, n=32),
}


def _number(model: Model) -> int:
    """The operation that is looked at."""
    new = (OpCode.CONV_I32, OpCode.CONCAT, OpCode.SLICE, OpCode.MULTIPLY)
    return next(i for i, op in enumerate(model.ops) if op.code in new)


def _forged(model: Model, at: int, code: str, value: int) -> bytes:
    """The file with another value and a checksum that fits."""
    file = bytearray(write_model(model))
    n_tables = 64 + 64 * len(model.ops) + 48 * len(model.tensors)
    struct.pack_into(code, file, at, value)
    struct.pack_into("<I", file, 52, crc32c(bytes(file[:52] + bytes(4) + file[56:n_tables])))
    return bytes(file)


@pytest.mark.parametrize("name", MODELS)
def test_new_operations_declare_1_2_and_are_read_back(
    graphs: ModuleType, library: Path, name: str
) -> None:
    model = MODELS[name](graphs)
    file = write_model(model)
    assert struct.unpack_from("<HH", file, 8) == (1, 2)
    read = read_model(file)
    assert (read.ops, read.tensors) == (model.ops, model.tensors)
    Library(library).open(file)
    older = _forged(model, MINOR, "<H", 1)
    with pytest.raises(ModelFormatError, match=rf"ops\[{_number(model)}\]"):
        read_model(older)
    with pytest.raises(ModelFormatError, match="refused by the C runtime: "):
        Library(library).open(older)


@pytest.mark.parametrize(
    ("kernel", "more", "minor"),
    [
        ((3, 4), {}, 1),
        ((3, 4), {"stride": (1, 2)}, 2),
        ((3, 4), {"padding": (0, 3)}, 2),
        ((3, 4), {"groups": 2}, 2),
        ((3, 3), {}, 2),
        ((1, 1), {}, 2),
    ],
)
def test_only_what_version_1_1_knows_declares_it(
    graphs: ModuleType, kernel: tuple[int, int], more: dict[str, object], minor: int
) -> None:
    model = _convolution(graphs, kernel, **more)
    assert is_dense(model.ops[-1], model.tensors) is (minor == 1)
    file = write_model(model)
    at = 64 + 64 * _number(model)
    assert struct.unpack_from("<H", file, MINOR) == (minor,)
    assert struct.unpack_from("<i", file, at + PARAMS + 24) == (
        0 if minor == 1 else model.ops[-1].groups,
    )
    assert read_model(file).ops == model.ops


def test_a_version_1_1_file_has_no_convolution_that_does_not_cover(
    graphs: ModuleType, library: Path
) -> None:
    """Although its groups are left out as 1.1 wants it."""
    model = _convolution(graphs, (3, 3))
    at = 64 + 64 * _number(model) + PARAMS + 24
    file = bytearray(_forged(model, at, "<i", 0))
    n_tables = 64 + 64 * len(model.ops) + 48 * len(model.tensors)
    struct.pack_into("<H", file, MINOR, 1)
    struct.pack_into("<I", file, 52, crc32c(bytes(file[:52] + bytes(4) + file[56:n_tables])))
    with pytest.raises(
        ModelFormatError, match=r"ops\[1\]: expected a dense layer, got a CONV_I32 of"
    ):
        read_model(bytes(file))
    with pytest.raises(ModelFormatError, match="the shapes of an operation do not belong together"):
        Library(library).open(bytes(file))


def test_a_higher_minor_version_than_needed_is_read(graphs: ModuleType, library: Path) -> None:
    """Other writers may declare what they like; a dense layer then has its groups."""
    model = _convolution(graphs, (3, 4))
    with pytest.raises(ModelFormatError, match=r"ops\[1\]: groups: expected 1"):
        read_model(_forged(model, MINOR, "<H", 2))
    with pytest.raises(ModelFormatError, match="unknown operation, flag or parameter"):
        Library(library).open(_forged(model, MINOR, "<H", 2))
    old = graphs.Graph(DType.U8, (3, 3, 2), 0).grow(["scale", "threshold", "scale"]).model()
    file = _forged(old, MINOR, "<H", 2)
    assert read_model(file).ops == old.ops
    Library(library).open(file)


def test_the_digest_sees_the_box(graphs: ModuleType) -> None:
    model = _slice(graphs)
    op = model.ops[1]
    boxes = [{}, {"start": (0, 0, 30)}, {"start": (1, 0, 29)}, {"size": (2, 3, 39)}]
    variants = [replace(model, ops=(model.ops[0], replace(op, **box))) for box in boxes]
    assert len({logical_digest(variant) for variant in variants}) == len(variants)
    product = _multiply(graphs)
    other = replace(product, ops=(product.ops[0], replace(product.ops[1], shift=4)))
    assert logical_digest(other) != logical_digest(product)


SHAPE = "the shapes of an operation do not belong together"
OPERAND = "an operand is missing, superfluous or of the wrong type"
PARAMETER = "unknown operation, flag or parameter"
INTERVAL = "the declared interval of an int32 output is wrong"
OVERFLOW = "an accumulator could leave int32"
FIELDS = [
    ("convolution", PARAMS + 0, 0, "stride >= 1", SHAPE),
    ("convolution", PARAMS + 4, 2, "out: expected I32", SHAPE),
    ("convolution", PARAMS + 8, 2, "padding < kernel", SHAPE),
    ("convolution", PARAMS + 12, -1, "0 <= padding", SHAPE),
    ("convolution", PARAMS + 16, 2, "CONV_I32 takes no pool", SHAPE),
    ("convolution", PARAMS + 20, 2, "CONV_I32 takes no pool", SHAPE),
    ("convolution", PARAMS + 24, 0, "groups: expected 1", PARAMETER),
    ("convolution", PARAMS + 24, -1, "groups: expected 1", PARAMETER),
    ("convolution", PARAMS + 24, 2, "weights: expected .* and 2 groups", SHAPE),
    ("convolution", PARAMS + 28, 0, r"params\[7:\]", INTERVAL),
    ("convolution", 2, 1, "zero_border: expected a convolution of bits", PARAMETER),
    ("convolution", 12, 1, "operands: CONV_I32 takes data weights", OPERAND),
    ("convolution", 16, 1, "bias: expected I32", OPERAND),
    ("convolution", 20, 0, "operands: CONV_I32 takes data weights", OPERAND),
    ("convolution", OPCODE, 15, "opcode", PARAMETER),
    ("concat", PARAMS + 4, 2, "takes no stride, padding or pool", SHAPE),
    ("concat", PARAMS + 20, 2, "takes no stride, padding or pool", SHAPE),
    ("concat", PARAMS + 24, 1, r"params\[6\]", PARAMETER),
    ("concat", PARAMS + 32, 99, r"params\[7:\]", INTERVAL),
    ("concat", 20, 2**32 - 1, "operands: CONCAT takes data residual", OPERAND),
    ("concat", 20, 0, "residual: expected I32, got I8", OPERAND),
    ("concat", 16, 1, "operands: CONCAT takes data residual", OPERAND),
    ("concat", 4, 0, "dtype: CONCAT takes I32 data", OPERAND),
    ("slice", PARAMS + 0, 2, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 4, 2, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 8, 31, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 8, -1, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 8, 2**31 - 1, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 12, 1, r"out: expected I32 \(1, 3, 40\)", SHAPE),
    ("slice", PARAMS + 16, 0, "slice: expected a box inside", SHAPE),
    ("slice", PARAMS + 20, 39, r"out: expected I32 \(2, 3, 39\)", SHAPE),
    ("slice", PARAMS + 24, 1, r"params\[6\]", PARAMETER),
    ("slice", PARAMS + 28, 0, r"params\[7:\]", INTERVAL),
    ("slice", 8, 1, "operands: SLICE takes data nothing", OPERAND),
    ("slice", 20, 3, "operands: SLICE takes data nothing", OPERAND),
    ("slice", 4, 0, "dtype: SLICE takes I32 or BITS data", OPERAND),
    ("slice of bits", PARAMS + 8, 0, "whole words of 32 of the 70 bits", SHAPE),
    ("slice of bits", PARAMS + 8, 31, "whole words of 32 of the 70 bits", SHAPE),
    ("slice of bits", PARAMS + 8, 64, "slice: expected a box inside", SHAPE),
    ("slice of a word", PARAMS + 8, 33, "whole words of 32 of the 70 bits", SHAPE),
    ("slice of bits", PARAMS + 28, -1, r"params\[7:\]", INTERVAL),
    ("multiply", PARAMS + 0, 2, "takes no stride, padding or pool", SHAPE),
    ("multiply", PARAMS + 24, 0, "shift: expected 1 to 31", PARAMETER),
    ("multiply", PARAMS + 24, 32, "shift: expected 1 to 31", PARAMETER),
    ("multiply", PARAMS + 24, 4, r"params\[7:\]", INTERVAL),
    ("multiply", 20, 2**32 - 1, "operands: MULTIPLY takes data residual", OPERAND),
    ("multiply", 20, 0, "residual: expected I32, got I8", OPERAND),
    ("multiply", 4, 0, "dtype: MULTIPLY takes I32 data", OPERAND),
]


@pytest.mark.parametrize(("name", "at", "value", "match", "c_match"), FIELDS)
def test_both_readers_refuse_every_field_that_is_wrong(
    graphs: ModuleType, library: Path, name: str, at: int, value: int, match: str, c_match: str
) -> None:
    model = MODELS[name](graphs)
    code = "<H" if at < 4 else "<I" if at < PARAMS else "<i"
    file = _forged(model, 64 + 64 * _number(model) + at, code, value)
    with pytest.raises(ModelFormatError, match=match):
        read_model(file)
    with pytest.raises(ModelFormatError, match=f"refused by the C runtime: {re.escape(c_match)}"):
        Library(library).open(file)


@pytest.mark.parametrize("name", ["concat", "convolution", "multiply", "slice", "slice of bits"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_both_readers_compare_the_output_with_the_operation(
    graphs: ModuleType, library: Path, name: str, axis: int
) -> None:
    """One row, column or channel more, of as many bytes as that has."""
    model = MODELS[name](graphs)
    number = _number(model)
    out = model.ops[number].out
    dims = list(model.tensors[out].dims)
    dims[axis] += 1
    at = 64 + 64 * len(model.ops) + 48 * out
    n_bytes = replace(model.tensors[out], dims=tuple(dims)).n_bytes
    file = bytearray(_forged(model, at + 4 + 4 * axis, "<I", dims[axis]))
    struct.pack_into("<Q", file, at + 32, n_bytes)
    n_tables = 64 + 64 * len(model.ops) + 48 * len(model.tensors)
    struct.pack_into("<I", file, 52, crc32c(bytes(file[:52] + bytes(4) + file[56:n_tables])))
    with pytest.raises(ModelFormatError, match=rf"ops\[{number}\]: out: expected"):
        read_model(bytes(file))
    with pytest.raises(ModelFormatError, match=SHAPE):
        Library(library).open(bytes(file))


def test_c_reader_refuses_pools_whose_output_would_fit(
    graphs: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _convolution(graphs)
    ops = (model.ops[0], replace(model.ops[1], pool=(2, 2)))
    tensors = (*model.tensors[:-1], replace(model.tensors[-1], dims=(1, 1, 2)))
    intervals = dict.fromkeys(range(len(tensors)), (0, 0))
    intervals[model.ops[0].out] = (-64, 64)
    monkeypatch.setattr("kernels.model_format.check_model", lambda model: intervals)
    with pytest.raises(ModelFormatError, match=SHAPE):
        Library(library).open(write_model(replace(model, ops=ops, tensors=tensors)))


def test_c_reader_refuses_what_could_leave_int32(
    graphs: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a writer that does not compute intervals."""
    monkeypatch.setattr("kernels.model_bounds._int32", lambda name, interval: interval)
    monkeypatch.setattr("kernels.model_format._declared", lambda *arguments: (0, 0))
    graph = graphs.Graph(DType.I32, (1, 1, 2), 0)
    graph.append(OpCode.MULTIPLY, residual=0, shift=31)
    with pytest.raises(ModelFormatError, match=OVERFLOW):
        Library(library).open(write_model(graph.model()))
    graph = graphs.Graph(DType.I32, (1, 2, 2), 0)
    weights = graph.constant(np.full((1, 1, 1, 2), 1), DType.I8)
    graph.append(OpCode.CONV_I32, weights)
    with pytest.raises(ModelFormatError, match=OVERFLOW):
        Library(library).open(write_model(graph.model()))
