"""Data by name or from the user's own files: the one place where arrays come from.

Search order of a named data set: the path given, ``BITSPIN_DATA``, the folder of a system package,
the cache, and a download unless ``BITSPIN_OFFLINE=1``. Every payload is hashed each time it is
read; a wrong hash is an error and never a reason to look further.
"""

import difflib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.idx import read_idx
from workers.image_data import (
    DataError,
    DataUnavailable,
    HostsUnreachable,
    ImageData,
    combined_digest,
)
from workers.manifest import DatasetEntry, FileEntry, read_manifest
from workers.payloads import has_valid_stamp, verified_payload
from workers.places import (
    Place,
    file_in,
    find_place,
    given_place,
    obtain,
    obtain_or_explain,
    offline_reason,
)
from workers.spoken_digits import read_recordings, spoken_digit_arrays
from workers.user_data import load_user_data

__all__ = [
    "DataError",
    "DataUnavailable",
    "DatasetRecord",
    "ImageData",
    "catalogue",
    "fetch",
    "load",
    "load_default",
    "load_user_data",
]

_DIGITS_MAX = 16  # the grey levels of the digits are 0 ... 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    """One line of the catalogue."""

    name: str
    """Name to load it by."""
    title: str
    """Name for people."""
    licence: str
    """Licence of the data."""
    redistributable: bool
    """Whether the licence lets others hand the data on."""
    citation: str
    """The work to cite."""
    split: str
    """How train and test parts are made."""
    n_train: int
    """Images in the training part."""
    n_test: int
    """Images in the test part."""
    image_shape: tuple[int, int, int]
    """(H, W, C)."""
    n_classes: int
    """Number of labels."""
    download_bytes: int
    """Size of a download; 0 for data shipped with the package."""
    package: str
    """System package that carries the data, or an empty string."""
    present_at: str | None
    """Where all its files lie (not hashed for this list), or None if it is missing."""


def load(name: str, *, path: Path | None = None, offline: bool = False) -> ImageData:
    """Load a data set by name.

    Parameters
    ----------
    name
        One of the names in :func:`catalogue`.
    path
        Folder that holds the files, or a folder ``name`` with them; nothing else is searched.
    offline
        Do not download. ``BITSPIN_OFFLINE=1`` in the environment means the same.

    Returns
    -------
    ImageData
        Verified arrays.

    Raises
    ------
    DataUnavailable
        If the data is nowhere and was not downloaded; the message says how to get it.
    DataError
        If the name is unknown, or a file is missing, corrupt or not what the manifest says.
    """
    entry = _entry(name)
    if path is not None:
        place = given_place(entry, Path(path))
    else:
        place = obtain_or_explain(entry, offline=offline_reason(offline))
    return _read(entry, place, f"{entry.title} was asked for by name")


def load_default(offline: bool = False) -> ImageData:
    """Load the best real data at hand: Fashion-MNIST, else MNIST, else the shipped digits.

    Parameters
    ----------
    offline
        Do not download. ``BITSPIN_OFFLINE=1`` in the environment means the same.

    Returns
    -------
    ImageData
        ``reason`` says which was chosen and why the better ones were not available.

    Raises
    ------
    DataError
        If a file was found but is corrupt, or a folder is incomplete: that is reported, not
        worked around.
    """
    missing: list[str] = []
    entries = list(read_manifest().values())
    why_offline = offline_reason(offline)
    for entry in entries:
        try:
            place = obtain(entry, offline=why_offline)
        except DataUnavailable as error:
            missing.append(str(error))
            # Two data sets on four hosts need not each wait for a network that is not there.
            if isinstance(error, HostsUnreachable):
                why_offline = "no network"
            continue
        if not missing:
            return _read(entry, place, f"{entry.title} is the first choice and was at hand")
        why = "; ".join(missing)
        return _read(entry, place, f"{entry.title} stands in for better data: {why}")
    raise DataUnavailable(f"data: expected one of {[e.name for e in entries]}, got none: {missing}")


def fetch(name: str) -> Path:
    """Make a data set available on this machine and verify it.

    Data that is found without the network (``BITSPIN_DATA``, system package, shipped) is verified
    where it lies; otherwise it is downloaded into the cache.

    Returns
    -------
    Path
        Folder with the verified files.

    Raises
    ------
    DataUnavailable
        If it could not be downloaded, or downloading is off.
    DataError
        If the name is unknown or a file is corrupt.
    """
    entry = _entry(name)
    place = obtain_or_explain(entry, offline=offline_reason(False))
    for file in entry.files:
        path = file_in(entry, place, file)
        _verify(entry, path, file)
    return place.directory


def catalogue() -> tuple[DatasetRecord, ...]:
    """List the named data sets and where they are on this machine."""
    return tuple(_record(entry) for entry in read_manifest().values())


def _verify(entry: DatasetEntry, path: Path, file: FileEntry) -> None:
    if entry.format == "wav-archive":
        read_recordings(path, file)
    elif not has_valid_stamp(path, file):
        verified_payload(path, file)


def _record(entry: DatasetEntry) -> DatasetRecord:
    place = find_place(entry)
    return DatasetRecord(
        name=entry.name,
        title=entry.title,
        licence=entry.licence,
        redistributable=entry.redistributable,
        citation=entry.citation,
        split=entry.split,
        n_train=entry.n_train,
        n_test=entry.n_test,
        image_shape=entry.image_shape,
        n_classes=len(entry.label_names),
        download_bytes=sum(file.download_bytes for file in entry.files),
        package=entry.package,
        present_at=None if place is None else str(place),
    )


def _entry(name: str) -> DatasetEntry:
    manifest = read_manifest()
    if name not in manifest:
        near = difflib.get_close_matches(name, manifest, n=1)
        hint = f"; did you mean {near[0]}" if near else ""
        raise DataError(f"data: expected one of {', '.join(manifest)}, got {name!r}{hint}")
    return manifest[name]


def _read(entry: DatasetEntry, place: Place, reason: str) -> ImageData:
    arrays: dict[str, NDArray[np.uint8]] = {}
    for file in entry.files:
        path = file_in(entry, place, file)
        if entry.format == "wav-archive":
            arrays |= spoken_digit_arrays(read_recordings(path, file))
            continue
        payload = verified_payload(path, file)
        if entry.format == "digits-csv":
            arrays |= _read_digits(entry, payload)
        else:
            n_dims = 3 if file.role.endswith("images") else 1
            arrays[file.role] = read_idx(payload, n_dims=n_dims, origin=str(path))
    _check_rows(entry, place, arrays)
    return ImageData(
        name=entry.name,
        train_images=_as_images(entry, arrays["train_images"]),
        train_labels=arrays["train_labels"].astype(np.int64),
        test_images=_as_images(entry, arrays["test_images"]),
        test_labels=arrays["test_labels"].astype(np.int64),
        label_names=entry.label_names,
        digest=combined_digest((file.role, file.payload_sha256) for file in entry.files),
        source=str(place),
        reason=reason,
    )


def _read_digits(entry: DatasetEntry, payload: bytes) -> dict[str, NDArray[np.uint8]]:
    rows = np.loadtxt(io.StringIO(payload.decode("ascii")), delimiter=",", dtype=np.int64)
    pixels = (rows[:, :-1] * 255 + _DIGITS_MAX // 2) // _DIGITS_MAX  # 0..16 to 0..255, rounded
    images = pixels.astype(np.uint8).reshape(-1, *entry.image_shape[:2])
    labels = rows[:, -1].astype(np.uint8)
    n = entry.n_train
    return {
        "train_images": images[:n],
        "train_labels": labels[:n],
        "test_images": images[n:],
        "test_labels": labels[n:],
    }


def _check_rows(entry: DatasetEntry, place: Place, arrays: dict[str, NDArray[np.uint8]]) -> None:
    for part, n_rows in (("train", entry.n_train), ("test", entry.n_test)):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        expected = (n_rows, *entry.image_shape[:2])
        if images.shape[:3] != expected or labels.shape != (n_rows,):
            raise DataError(
                f"{entry.name}: expected {part} images {expected} and {n_rows} labels in "
                f"{place.directory}, got {images.shape} and {labels.shape}; get the files again"
            )
        if labels.max() >= len(entry.label_names):
            raise DataError(
                f"{entry.name}: expected {part} labels below {len(entry.label_names)} in "
                f"{place.directory}, got {labels.max()}; get the files again"
            )


def _as_images(entry: DatasetEntry, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(pixels).reshape(-1, *entry.image_shape)  # a copy: owned and writable
