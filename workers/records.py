"""Results and states on disk that a reader can trust: a manifest with digests, written last.

A record is a directory holding ``tensors.safetensors`` and ``manifest.json``. The manifest carries
the SHA-256 of the tensors and is renamed into place last, so a record without a manifest, or whose
tensors do not match it, does not exist for a reader.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from workers.storage import Json, read_json, write_bytes, write_json

_TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Record:
    """A JSON object and named tensors."""

    values: dict[str, Json]
    tensors: dict[str, Tensor]


def save_record(directory: Path, values: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> None:
    """Publish a record; equal values and tensors give equal bytes.

    Raises
    ------
    OSError
        If the directory is read-only or full; what was there before stays valid.
    """
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    write_bytes(directory / _TENSORS, data)
    write_json(directory / MANIFEST, {"values": dict(values), "sha256": digest})


def load_record(directory: Path) -> Record | None:
    """Record in ``directory``, or None if there is none or it is damaged."""
    try:
        manifest = read_json(directory / MANIFEST)
        data = (directory / _TENSORS).read_bytes()
    except (FileNotFoundError, ValueError):
        return None
    values = manifest.get("values")
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256") or not isinstance(values, dict):
        return None
    try:
        return Record(values, load(data))
    except SafetensorError:
        return None
