"""What datasets.toml says about each named data set: files, hashes, addresses, licence.

The hash that counts is that of the *payload* (the bytes after decompression), because the same
payload circulates in differently compressed files.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_MANIFEST_PATH = Path(__file__).with_name("datasets.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a data set."""

    role: str
    """What the file holds, such as ``train_images``."""
    name: str
    """File name without ``.gz``."""
    payload_bytes: int
    """Size after decompression."""
    payload_sha256: str
    """Hash after decompression: the same wherever the file comes from. Of an archive of recordings:
    of what ``sha256sum`` prints of its content."""
    download_bytes: int = 0
    """Size as the addresses below serve it; a download that is longer is cut off."""
    download_sha256: str = ""
    """Hash as the addresses below serve it; empty if it is not known."""
    urls: tuple[str, ...] = ()
    """Addresses, best first; none for a file that is shipped with the package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetEntry:
    """One data set of the manifest."""

    name: str
    """Name in commands, folders and the cache."""
    title: str
    """Name for people."""
    version: str
    """Version of the content; part of the cache path."""
    format: Literal["idx", "digits-csv", "wav-archive"]
    """How the files are read."""
    licence: str
    """Licence of the data."""
    redistributable: bool
    """Whether the licence lets others hand the data on."""
    citation: str
    """The work to cite."""
    package: str
    """System package that carries the data, or an empty string."""
    split: str
    """How train and test parts are made."""
    n_train: int
    """Images in the training part."""
    n_test: int
    """Images in the test part."""
    image_shape: tuple[int, int, int]
    """(H, W, C)."""
    label_names: tuple[str, ...]
    """One name per class."""
    system_paths: tuple[str, ...] = ()
    """Folders where a system package puts the files."""
    shipped_in: str = ""
    """Folder beside this module that holds the files, or an empty string."""
    origin: str = ""
    """Where a person gets files that have no addresses, or an empty string."""
    files: tuple[FileEntry, ...]
    """All files; the digest of the data set runs over them in this order."""


def read_manifest() -> dict[str, DatasetEntry]:
    """Return every data set by name, in the order in which the default choice tries them."""
    with _MANIFEST_PATH.open("rb") as stream:
        tables = tomllib.load(stream)
    return {name: _entry(name, table) for name, table in tables.items()}


def _entry(name: str, table: dict[str, Any]) -> DatasetEntry:
    files = tuple(FileEntry(**_with_tuples(file)) for file in table.pop("files"))
    return DatasetEntry(name=name, files=files, **_with_tuples(table))


def _with_tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
