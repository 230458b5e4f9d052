"""Files that appear whole or not at all: written beside their target, synced, then renamed."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def write_bytes(path: Path, data: bytes) -> None:
    """Publish ``data`` as ``path``; a reader sees the old file or the whole new one.

    Raises
    ------
    OSError
        If the directory is read-only or full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Json]) -> None:
    """Publish ``value`` as indented JSON with sorted keys; NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Json]:
    """Read a JSON object.

    Raises
    ------
    ValueError
        If the file does not hold a JSON object; the message names the file.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Publish named arrays as safetensors; equal arrays give equal bytes."""
    write_bytes(path, save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read named arrays from safetensors."""
    return dict(load_file(path))
