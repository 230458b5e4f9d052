"""Damaged files with every operation in them: a named error, or the identical result."""

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Model, ModelFormatError, read_model, run_model, write_model
from kernels.crc32c import crc32c
from kernels.native import Library, encode_images
from kernels.panels import Layout

MakeImages = Callable[..., NDArray[Any]]


@pytest.fixture(scope="module", params=[DType.U8, DType.I8, DType.BITS], ids=lambda d: d.name)
def model(graphs: ModuleType, request: pytest.FixtureRequest) -> Model:
    found: Model = graphs.every_operation(request.param)
    return found


def test_truncation_at_every_length_is_refused(model: Model, library: Path) -> None:
    file, reader = write_model(model), Library(library)
    for length in range(len(file)):
        with pytest.raises(ModelFormatError):
            read_model(file[:length])
        with pytest.raises(ModelFormatError, match="refused by the C runtime: "):
            reader.open(file[:length])


def test_c_reader_notices_every_damaged_byte(
    model: Model, make_images: MakeImages, library: Path, own_panels: Layout
) -> None:
    """Only the metadata, which the runtime never reads, may change without an error."""
    file, reader = write_model(model, own_panels), Library(library)
    meta_off = struct.unpack_from("<Q", file, 40)[0]
    inputs = encode_images(model.tensors[0], make_images(model))
    expected = reader.open(file).run(inputs)
    for i in range(len(file)):
        damaged = bytearray(file)
        damaged[i] ^= (0x01, 0x80, 0xFF, 0x10)[i % 4]
        if i >= meta_off:
            assert np.array_equal(reader.open(bytes(damaged)).run(inputs), expected)
            continue
        with pytest.raises(ModelFormatError, match="refused by the C runtime: "):
            reader.open(bytes(damaged))


def test_python_reader_notices_every_damaged_byte(model: Model) -> None:
    """What changed in the metadata alone is another name; everything else is refused."""
    file = write_model(model)
    meta_off = struct.unpack_from("<Q", file, 40)[0]
    for i in range(len(file)):
        damaged = bytearray(file)
        damaged[i] ^= (0x01, 0x80, 0xFF, 0x02)[i % 4]
        try:
            read = read_model(bytes(damaged))
        except ModelFormatError:
            continue
        assert i >= meta_off
        assert (read.ops, read.tensors) == (model.ops, model.tensors)


def _forgeries(file: bytes, n_tables: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Bytes and fields of the tables changed, with a checksum that fits."""
    values = (0, 1, 2, 3, 7, 31, 32, 33, 64, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
    for at in rng.permutation(n_tables - 64)[:800] + 64:
        changed = bytearray(file)
        if rng.random() < 0.5:
            changed[at] ^= 1 << int(rng.integers(8))
        else:
            struct.pack_into("<I", changed, at // 4 * 4, int(rng.choice(values)))
        zeroed = bytes(changed[:52] + bytes(4) + changed[56:n_tables])
        struct.pack_into("<I", changed, 52, crc32c(zeroed))
        yield bytes(changed)


def _verdict(read: Callable[[bytes], object], file: bytes) -> str:
    try:
        read(file)
    except ModelFormatError as error:
        return str(error)
    return "accepted"


def test_both_readers_agree_on_forged_tables(
    model: Model, make_images: MakeImages, library: Path
) -> None:
    """What both accept runs as the reference says."""
    reader = Library(library)
    n_tables = 64 + 64 * len(model.ops) + 48 * len(model.tensors)
    n_accepted = 0
    for forged in _forgeries(write_model(model), n_tables, np.random.default_rng(0)):
        file, verdict = forged, _verdict(read_model, forged)
        if verdict.startswith("logical_digest"):
            expected, got = re.findall("'([0-9a-f]{64})'", verdict)
            file = file.replace(got.encode(), expected.encode())
            verdict = _verdict(read_model, file)
        c_verdict = _verdict(reader.open, file)
        assert (c_verdict == "accepted") == (verdict == "accepted"), (verdict, c_verdict)
        if verdict == "accepted":
            n_accepted += 1
            changed = read_model(file)
            images = make_images(changed)
            inputs = encode_images(changed.tensors[0], images)
            assert np.array_equal(reader.open(file).run(inputs), run_model(changed, images))
    assert n_accepted > 3
