"""The Python side of the file: bytes as the format says, and every damage is noticed."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from kernels import Model, ModelFormatError, OpCode, logical_digest, read_model, write_model
from kernels.crc32c import crc32c

GOLDEN_1_0 = Path(__file__).with_name("golden_1_0.hex")
GOLDEN_1_1 = Path(__file__).with_name("golden_1_1.hex")
GOLDEN_1_2 = Path(__file__).with_name("golden_1_2.hex")
N_TABLES = 64 + 2 * 64 + 7 * 48  # bytes of header, operations and tensors of tiny_model


@pytest.fixture(scope="module")
def file(tiny_model: Model) -> bytes:
    return write_model(tiny_model)


def _reseal(file: bytes) -> bytes:
    """Make the checksum of header and tables right again after a change."""
    zeroed = file[:52] + bytes(4) + file[56:N_TABLES]
    return file[:52] + struct.pack("<I", crc32c(zeroed)) + file[56:]


@pytest.mark.parametrize("seed", [0, 1])
def test_reading_gives_what_was_written(make_network: Callable[..., Model], seed: int) -> None:
    model = make_network(seed=seed)
    read = read_model(write_model(model))
    assert (read.ops, read.tensors) == (model.ops, model.tensors)
    assert read.metadata == {"name": "small", "logical_digest": logical_digest(model)}


def test_writing_is_deterministic(make_model: Callable[..., Model]) -> None:
    model = make_model(OpCode.CONV_B1, threshold=True)
    assert write_model(model) == write_model(read_model(write_model(model)))
    keys = replace(model, metadata={"b": 1, "a": [None, 1.5]})
    swapped = replace(model, metadata={"a": [None, 1.5], "b": 1})
    assert write_model(keys) == write_model(swapped)


def test_golden_file_of_version_1_0(tiny_model: Model) -> None:
    # Stays as it is as long as major version 1 is read; its metadata holds the digest of then.
    golden = read_model(bytes.fromhex(GOLDEN_1_0.read_text()))
    assert (golden.ops, golden.tensors) == (tiny_model.ops, tiny_model.tensors)
    assert golden.metadata == {"logical_digest": logical_digest(tiny_model)}


def test_golden_file_of_version_1_1(graphs: ModuleType) -> None:
    # Written by `write_model(graphs.every_operation()).hex()`, when 1.1 was the newest.
    golden = bytes.fromhex(GOLDEN_1_1.read_text())
    assert write_model(read_model(golden)) == golden
    assert golden == write_model(graphs.every_operation(minor=1))
    codes = {op.code for op in read_model(golden).ops}
    assert codes == {code for code in OpCode if code <= OpCode.LOOKUP} - {OpCode.CONV_I8}


def test_golden_file_of_version_1_2(graphs: ModuleType) -> None:
    # Written by `write_model(graphs.every_operation()).hex()`.
    golden = bytes.fromhex(GOLDEN_1_2.read_text())
    assert struct.unpack_from("<HH", golden, 8) == (1, 2)
    assert write_model(read_model(golden)) == golden
    assert golden == write_model(graphs.every_operation())
    codes = {op.code for op in read_model(golden).ops}
    assert codes == set(OpCode) - {OpCode.CONV_I8}


def test_header_fields_are_where_the_format_says(file: bytes) -> None:
    assert file[:8] == b"BSPN\r\n\x1a\n"
    assert struct.unpack_from("<HHI", file, 8) == (1, 1, 64)
    assert struct.unpack_from("<QII", file, 16) == (len(file), 2, 7)
    meta_off, meta_len = struct.unpack_from("<QI", file, 40)
    assert meta_off % 64 == 0
    assert meta_off + meta_len == len(file)
    assert json.loads(file[meta_off:]).keys() == {"logical_digest"}
    assert struct.unpack_from("<2H5I", file, 64) == (1, 0, 0, 1, 2, 3, 0xFFFFFFFF)
    assert struct.unpack_from("<I9i", file, 64 + 24) == (4, 1, 1, 0, 0, 1, 1, 1, 0, 0)
    assert struct.unpack_from("<2BH4I", file, 192 + 48) == (1, 0, 4, 2, 2, 2, 1)


def test_truncation_at_every_length_is_refused(file: bytes) -> None:
    for length in range(len(file)):
        with pytest.raises(ModelFormatError):
            read_model(file[:length])
    with pytest.raises(ModelFormatError, match="file_size"):
        read_model(file + b"\0")


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_damaged_byte_is_noticed(file: bytes, flip: int) -> None:
    for i in range(len(file)):
        damaged = bytearray(file)
        damaged[i] ^= flip
        with pytest.raises(ModelFormatError):
            read_model(bytes(damaged))


@pytest.mark.parametrize(
    ("at", "code", "value", "match"),
    [
        (8, "<H", 2, "version: expected 1.2, got 2.1; update bitspin"),
        (10, "<H", 3, "version: expected 1.2, got 1.3; update bitspin"),
        (10, "<H", 0, r"ops\[0\].params\[6:\]"),
        (12, "<I", 63, "header_size"),
        (16, "<Q", 2**63, "file_size"),
        (24, "<I", 0, "n_ops"),
        (24, "<I", 2**32 - 1, "n_ops"),
        (28, "<I", 2**32 - 1, "n_tensors"),
        (32, "<Q", 2**63, "arena_bytes"),
        (40, "<Q", 2**64 - 1, "meta_off"),
        (48, "<I", 2**32 - 1, "file_size"),
        (56, "<Q", 1, "last 8 bytes"),
        (64, "<H", 0, r"ops\[0\].opcode"),
        (64, "<H", 12, r"ops\[0\].opcode"),
        (66, "<H", 1, r"ops\[0\]: zero_border"),
        (66, "<H", 2, r"ops\[0\].flags"),
        (64 + 20, "<I", 0, r"ops\[0\]: operands: CONV_U8"),
        (64 + 52, "<i", 0, r"ops\[0\]: groups"),
        (64 + 52, "<i", -1, r"ops\[0\]: groups"),
        (64 + 52, "<i", 2, r"ops\[0\]: weights"),
        (64 + 56, "<i", 1, r"ops\[0\].params\[7:\]"),
        (128 + 60, "<i", 2, r"ops\[1\].params\[7:\]"),
        (192, "<B", 7, r"tensors\[0\].dtype"),
        (193, "<B", 3, r"tensors\[0\].layout"),
        (193, "<B", 1, r"tensors\[0\].layout: expected panels of packed weights"),
        (194, "<H", 5, r"tensors\[0\].dims"),
        (196, "<I", 2**32 - 1, r"tensors\[0\].bytes"),
        (208, "<I", 1, r"tensors\[0\].dims"),
        (212, "<I", 64, r"tensors\[0\].arena_off"),
        (192 + 48 + 24, "<Q", 2**64 - 64, r"tensors\[1\]: expected its data inside the file"),
        (192 + 48 + 32, "<Q", 2**63, r"tensors\[1\].bytes"),
        (192 + 40, "<I", 1, r"tensors\[0\].crc32c"),
        (192 + 44, "<I", 1, r"tensors\[0\]: last 4 bytes"),
    ],
)
def test_impossible_fields_are_named_also_when_the_checksum_fits(
    file: bytes, at: int, code: str, value: int, match: str
) -> None:
    changed = bytearray(file)
    struct.pack_into(code, changed, at, value)
    with pytest.raises(ModelFormatError, match=match):
        read_model(_reseal(bytes(changed)))


def test_a_gap_that_is_not_zero_is_refused(file: bytes) -> None:
    changed = bytearray(file)
    changed[N_TABLES] = 1  # the first constant begins at 576
    with pytest.raises(ModelFormatError, match=r"gap before tensors\[1\]"):
        read_model(bytes(changed))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"[]", "expected an object"),
        (b"{", "UTF-8 JSON"),
        (b"\xff", "UTF-8 JSON"),
        (b"[" * 100_000, "UTF-8 JSON"),
        (b"{}", "logical_digest"),
    ],
)
def test_bad_metadata_is_refused(file: bytes, text: bytes, match: str) -> None:
    meta_off = struct.unpack_from("<Q", file, 40)[0]
    changed = bytearray(file[:meta_off] + text)
    struct.pack_into("<Q", changed, 16, len(changed))
    struct.pack_into("<I", changed, 48, len(text))
    with pytest.raises(ModelFormatError, match=match):
        read_model(_reseal(bytes(changed)))


def test_metadata_has_to_be_json(tiny_model: Model) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_model(replace(tiny_model, metadata={"accuracy": float("nan")}))
