"""Files of a data set on disk: finding them, verifying the payload hash, remembering the result."""

import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from workers.image_data import DataError
from workers.manifest import FileEntry

_GZIP_MAGIC = b"\x1f\x8b"


def find_file(directory: Path, file: FileEntry) -> Path | None:
    """Return the file in ``directory``, compressed (``.gz``) or plain, or None.

    Raises
    ------
    DataError
        If the directory cannot be looked into.
    """
    for name in (f"{file.name}.gz", file.name):
        try:
            if (directory / name).is_file():
                return directory / name
        except OSError as error:
            raise DataError(
                f"{directory}: expected a readable directory, got {error.strerror}; "
                "correct its permissions"
            ) from error
    return None


def verified_payload(path: Path, file: FileEntry, *, origin: str | None = None) -> bytes:
    """Read a file, decompress it if it is gzip, and check its hash.

    Parameters
    ----------
    path
        Compressed or plain file.
    file
        What the manifest says about it.
    origin
        Name in error messages; ``path`` if not given.

    Raises
    ------
    DataError
        If the file cannot be read or decompressed, or its payload is not the expected one.
    """
    name = origin or str(path)
    try:
        payload = _read_capped(path, file.payload_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{name}: expected a complete gzip file, got {error}; replace or delete the file"
        ) from error
    except OSError as error:
        raise DataError(
            f"{name}: expected a readable file, got {error.strerror}; correct its permissions"
        ) from error
    found = hashlib.sha256(payload).hexdigest()
    if found != file.payload_sha256:
        size = "more" if len(payload) > file.payload_bytes else str(len(payload))
        raise DataError(
            f"{name}: expected payload sha256 {file.payload_sha256} ({file.payload_bytes} bytes), "
            f"got {found} ({size} bytes); the file is corrupt or altered, replace or delete it"
        )
    return payload


def write_stamp(path: Path, file: FileEntry) -> None:
    """Record beside ``path`` that its payload was verified, so that it need not be hashed again."""
    stamp = _stamp_path(path)
    draft = stamp.with_name(f"{stamp.name}.part")
    draft.write_text(json.dumps(_stamp_record(path, file)))
    os.replace(draft, stamp)


def has_valid_stamp(path: Path, file: FileEntry) -> bool:
    """Whether ``path`` was verified and has kept its size and time since."""
    try:
        recorded = json.loads(_stamp_path(path).read_text())
        return bool(recorded == _stamp_record(path, file))
    except (OSError, ValueError):  # no stamp or an unreadable one: the file is hashed again
        return False


def _read_capped(path: Path, n_bytes: int) -> bytes:
    """At most one byte more than ``n_bytes``, so that a decompression bomb stays small."""
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == _GZIP_MAGIC
        stream.seek(0)
        if not is_gzip:
            return stream.read(n_bytes + 1)
        with gzip.open(stream) as unpacked:
            return cast(BinaryIO, unpacked).read(n_bytes + 1)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.stamp")


def _stamp_record(path: Path, file: FileEntry) -> dict[str, int | str]:
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "payload_sha256": file.payload_sha256,
    }
