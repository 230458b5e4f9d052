"""Weights in panels: the same model, other bytes."""

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kernels import (
    DType,
    Model,
    ModelFormatError,
    Op,
    OpCode,
    Tensor,
    logical_digest,
    read_model,
    write_model,
)
from kernels.crc32c import crc32c
from kernels.model_format import read_layout
from kernels.native import Library
from kernels.panels import Layout
from kernels.stored import Stored, allows_panels, read_tensor, store

MakeModel = Callable[..., Model]
LAYOUTS = list(Layout)


def _dense(widths: tuple[int, ...]) -> Model:
    """Binary dense layers with thresholds, the last one without."""
    rng = np.random.default_rng(0)
    tensors = [Tensor(DType.BITS, (1, 1, widths[0]))]
    ops = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        is_last = i == len(widths) - 2
        weights = len(tensors)
        data = rng.integers(0, 2**32, n_out * n_in // 32, dtype=np.uint32).tobytes()
        tensors.append(Tensor(DType.BITS, (n_out, 1, 1, n_in), data))
        if not is_last:
            tensors.append(Tensor(DType.I32, (2, n_out), bytes(8 * n_out)))
        threshold = None if is_last else weights + 1
        ops.append(Op(OpCode.CONV_B1, weights - 1, weights, len(tensors), threshold))
        tensors.append(Tensor(DType.I32 if is_last else DType.BITS, (1, 1, n_out)))
    return Model(tuple(ops), tuple(tensors))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_dense_layers_of_2048_take_1_1_megabytes(layout: Layout) -> None:
    model = _dense((2048, 2048, 2048))
    file = write_model(model, layout)
    assert len(file) <= 1.1e6
    assert read_layout(file) is layout
    read = read_model(file)
    assert read.tensors == model.tensors
    assert read.metadata["logical_digest"] == logical_digest(model)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dims", [(1, 1, 1, 1), (7, 3, 3, 33), (16, 2, 1, 64), (17, 1, 1, 1000)])
def test_storing_is_inverted_by_reading(layout: Layout, dims: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    n_words = -(-dims[3] // 32)
    words = rng.integers(0, 2**32, (*dims[:3], n_words), dtype=np.uint32)
    words[..., -1] &= np.uint32(2 ** (dims[3] - 32 * (n_words - 1)) - 1)
    tensor = Tensor(DType.BITS, dims, words.tobytes())
    stored = store(tensor, layout)
    assert len(stored.data or b"") == stored.n_bytes
    assert read_tensor(stored, "t") == tensor
    if layout is Layout.LANES:  # word w of column c lies at [c / 16][w][c % 16]
        panels = np.frombuffer(stored.data or b"", np.uint32).reshape(-1, words[0].size, 16)
        assert panels[0, -1, 0] == words[0].ravel()[-1]
        assert panels[(dims[0] - 1) // 16, 0, (dims[0] - 1) % 16] == words[-1].ravel()[0]


@pytest.mark.parametrize("groups", [1, 2, 3, 48])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_groups_that_do_not_fill_panels_stay_rows(
    make_model: MakeModel, layout: Layout, groups: int
) -> None:
    model = make_model(OpCode.CONV_B1, (4, 4, 48), 48, groups=groups)
    fills = {1: True, 2: layout is Layout.VECTORS, 3: True, 48: False}[groups]
    assert allows_panels(model, 1, layout) is fills
    file = write_model(model, layout)
    assert read_layout(file) is (layout if fills else Layout.ROWS)
    assert read_model(file).tensors == model.tensors
    assert not allows_panels(model, 0, layout)


def _table(model: Model, number: int) -> int:
    return 64 + 64 * len(model.ops) + 48 * number


def _reseal(file: bytearray, model: Model) -> bytes:
    end = _table(model, len(model.tensors))
    for number in range(len(model.tensors)):
        row = _table(model, number)
        start, n_bytes = struct.unpack_from("<2Q", file, row + 24)
        if start:
            struct.pack_into("<I", file, row + 40, crc32c(bytes(file[start : start + n_bytes])))
    struct.pack_into("<I", file, 52, crc32c(bytes(file[:52] + bytes(4) + file[56:end])))
    return bytes(file)


def test_every_bit_of_the_fill_has_to_be_zero(
    make_model: MakeModel, library: Path, own_panels: Layout
) -> None:
    """Of panels of 3 columns with 2 taps of 33 bits, each other bit set makes the file invalid."""
    model = make_model(OpCode.CONV_B1, (3, 3, 33), 3, kernel=(1, 2))
    for layout in LAYOUTS[1:]:
        file = write_model(model, layout)
        start, n_bytes = struct.unpack_from("<2Q", file, _table(model, 1) + 24)
        n_accepted = 0
        for at in range(start, start + n_bytes):
            changed = bytearray(file)
            changed[at] ^= 0x40
            forged = _reseal(changed, model)
            message = ""
            try:
                read_model(forged)
            except ModelFormatError as error:
                message = str(error)
            is_fill = "digest" not in message
            n_accepted += not is_fill
            if layout is own_panels and is_fill:
                with pytest.raises(ModelFormatError, match="a padding bit is not zero"):
                    Library(library).open(forged)
            elif layout is own_panels:
                Library(library).open(forged)
        assert n_accepted == 3 * 2 * 4  # bit 6 of the four full bytes of a tap


def test_panels_of_another_processor_are_refused_by_name(
    make_model: MakeModel, library: Path, own_panels: Layout
) -> None:
    model = make_model(OpCode.CONV_B1)
    for layout in LAYOUTS:
        file = write_model(model, layout)
        if layout in (Layout.ROWS, own_panels):
            Library(library).open(file)
            continue
        with pytest.raises(ModelFormatError, match="packed for another kind of processor"):
            Library(library).open(file)


def test_only_weights_of_binary_convolutions_lie_in_panels(
    graphs: ModuleType, library: Path, own_panels: Layout
) -> None:
    model = graphs.every_operation()
    file = write_model(model, own_panels)
    used = {op.weights for op in model.ops if op.code is OpCode.CONV_B1 and op.groups == 1}
    for number in range(len(model.tensors)):
        at = _table(model, number) + 1
        assert file[at] == (own_panels if number in used else Layout.ROWS)
        if number in used:
            continue
        changed = bytearray(file)
        changed[at] = own_panels
        forged = _reseal(changed, model)
        with pytest.raises(ModelFormatError, match=rf"tensors\[{number}\]"):
            read_model(forged)
        with pytest.raises(ModelFormatError, match="refused by the C runtime"):
            Library(library).open(forged)


def test_a_panel_of_two_groups_is_refused(
    make_model: MakeModel, library: Path, own_panels: Layout
) -> None:
    """16 channels in 2 groups of 8 fill an x86 panel together, 8 in 2 groups of 4 one of ARM."""
    n_out = 2 * {Layout.LANES: 8, Layout.VECTORS: 4}[own_panels]
    model = make_model(OpCode.CONV_B1, (3, 3, 256), n_out, kernel=(1, 1), groups=2)
    rows = write_model(model)
    assert store(model.tensors[1], own_panels).n_bytes == model.tensors[1].n_bytes
    changed = bytearray(rows)
    changed[_table(model, 1) + 1] = own_panels
    forged = _reseal(changed, model)
    with pytest.raises(ModelFormatError, match=r"tensors\[1\].layout: expected rows, got "):
        read_model(forged)
    with pytest.raises(ModelFormatError, match="type, layout, dimensions or size"):
        Library(library).open(forged)


def test_stored_bytes_of_what_cannot_be_in_panels_are_those_of_rows() -> None:
    assert Stored(DType.I32, (2, 3), None, Layout.LANES).n_bytes == 24
