import gzip
import hashlib
import os
from pathlib import Path

import pytest

from workers.image_data import DataError
from workers.manifest import FileEntry
from workers.payloads import find_file, has_valid_stamp, verified_payload, write_stamp

PAYLOAD = bytes(range(200))
FILE = FileEntry(
    role="rows",
    name="rows.bin",
    payload_bytes=len(PAYLOAD),
    payload_sha256=hashlib.sha256(PAYLOAD).hexdigest(),
)


def test_plain_and_compressed_files_give_the_same_payload(tmp_path: Path) -> None:
    plain, packed = tmp_path / "rows.bin", tmp_path / "rows.bin.gz"
    plain.write_bytes(PAYLOAD)
    assert find_file(tmp_path, FILE) == plain
    packed.write_bytes(gzip.compress(PAYLOAD))
    assert find_file(tmp_path, FILE) == packed
    assert verified_payload(plain, FILE) == verified_payload(packed, FILE) == PAYLOAD


def test_a_decompressed_file_that_kept_its_suffix_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin.gz"
    path.write_bytes(PAYLOAD)
    assert verified_payload(path, FILE) == PAYLOAD


def test_wrong_hash_names_expected_found_and_path(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    wrong = PAYLOAD[:-1] + b"x"
    path.write_bytes(wrong)
    with pytest.raises(DataError) as caught:
        verified_payload(path, FILE)
    message = str(caught.value)
    assert "\n" not in message
    assert FILE.payload_sha256 in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert message.startswith(str(path))


@pytest.mark.parametrize("n_bytes", [12, 25])
def test_cut_off_gzip_is_named(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "rows.bin.gz"
    path.write_bytes(gzip.compress(PAYLOAD)[:n_bytes])
    with pytest.raises(DataError, match=r"rows\.bin\.gz: expected a complete gzip"):
        verified_payload(path, FILE)


def test_damaged_gzip_body_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin.gz"
    packed = bytearray(gzip.compress(PAYLOAD))
    packed[10] = 0xFF  # the first deflate block type becomes the reserved one
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"rows\.bin\.gz: expected a complete gzip"):
        verified_payload(path, FILE)


def test_a_decompression_bomb_is_read_no_further_than_needed(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin.gz"
    path.write_bytes(gzip.compress(PAYLOAD + bytes(1 << 24)))
    with pytest.raises(DataError, match=r"\(more bytes\)"):
        verified_payload(path, FILE)


@pytest.mark.parametrize("content", [PAYLOAD + b"x", gzip.compress(PAYLOAD + b"x")])
def test_one_byte_too_many_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(content)  # the first bytes alone would have the right hash
    with pytest.raises(DataError, match=r"\(more bytes\)"):
        verified_payload(path, FILE)


def test_missing_file_is_none_and_unreadable_is_an_error(tmp_path: Path) -> None:
    assert find_file(tmp_path / "nowhere", FILE) is None
    with pytest.raises(DataError, match="expected a readable file"):
        verified_payload(tmp_path / "rows.bin", FILE)


def test_a_stamp_holds_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(PAYLOAD)
    assert not has_valid_stamp(path, FILE)
    write_stamp(path, FILE)
    assert has_valid_stamp(path, FILE)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not has_valid_stamp(path, FILE)
    write_stamp(path, FILE)
    path.write_bytes(PAYLOAD + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not has_valid_stamp(path, FILE)  # same time, other size


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\x00"])
def test_a_damaged_stamp_does_not_count(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(PAYLOAD)
    (tmp_path / "rows.bin.stamp").write_text(content)
    assert not has_valid_stamp(path, FILE)
