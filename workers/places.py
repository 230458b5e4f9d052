"""Where a named data set lies: the search order, and what to say when it lies nowhere."""

import os
from dataclasses import dataclass
from pathlib import Path

from workers.downloads import cache_directory, fill_cache
from workers.image_data import DataError, DataUnavailable
from workers.manifest import DatasetEntry, FileEntry
from workers.payloads import find_file


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that may hold a data set, and how people call it."""

    label: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.label} {self.directory}"


def obtain_or_explain(entry: DatasetEntry, *, offline: str) -> Place:
    """Do what :func:`obtain` does; the error also lists every way to get the data."""
    try:
        return obtain(entry, offline=offline)
    except DataUnavailable as error:
        raise DataUnavailable(f"{entry.name}: {error}; {_ways_out(entry)}") from error


def obtain(entry: DatasetEntry, *, offline: str) -> Place:
    """Find a data set or download it, unless ``offline`` says why not.

    Raises
    ------
    DataUnavailable
        If it is nowhere and was not downloaded; the message is part of a sentence.
    DataError
        If a place holds only a part of it, or the cache holds a corrupt file.
    """
    place = find_place(entry)
    if place is not None:
        return place
    if entry.shipped_in:
        raise DataError(
            f"{entry.name}: expected {entry.files[0].name} in {_places(entry)[0].directory}, "
            "got nothing; the installation is damaged, install bitspin again"
        )
    searched = ", ".join(str(place) for place in _places(entry))
    missing = f"{entry.title} was not found (searched {searched})"
    if not all(file.urls for file in entry.files):
        raise DataUnavailable(f"{missing} and it cannot be downloaded as a verified file")
    if offline:
        raise DataUnavailable(f"{missing} and no download was tried ({offline})")
    directory = cache_directory(entry)
    try:
        urls = fill_cache(entry, directory)
    except DataUnavailable as error:
        raise type(error)(f"{missing} and {error}") from error
    return Place(f"downloaded from {urls[0]} to" if urls else "cache", directory)


def _ways_out(entry: DatasetEntry) -> str:
    cache = cache_directory(entry)
    first, n_more = entry.files[0], len(entry.files) - 1
    package = f"install the package {entry.package}, or " if entry.package else ""
    if not first.urls:
        return (
            f"{package}put {first.name} into {cache} or $BITSPIN_DATA/{entry.name}; it comes from "
            f"{entry.origin}; licence {entry.licence}"
        )
    return (
        f"{package}put into {cache} or $BITSPIN_DATA/{entry.name} the file {first.urls[0]} "
        f"({first.download_bytes} bytes, payload sha256 {first.payload_sha256}) and the {n_more} "
        f"more of its kind there; licence {entry.licence}"
    )


def offline_reason(offline: bool) -> str:
    """Return why nothing is downloaded, or an empty string: the argument or ``BITSPIN_OFFLINE``.

    Raises
    ------
    DataError
        If the variable is neither 0 nor 1.
    """
    value = os.environ.get("BITSPIN_OFFLINE", "")
    if value not in ("", "0", "1"):
        raise DataError(f"BITSPIN_OFFLINE: expected 0 or 1, got {value!r}; correct or unset it")
    if value == "1":
        return "BITSPIN_OFFLINE=1"
    return "offline was asked for" if offline else ""


def _places(entry: DatasetEntry) -> list[Place]:
    if entry.shipped_in:
        return [Place("shipped in", Path(__file__).parent / entry.shipped_in)]
    places = [Place("system package", Path(path)) for path in entry.system_paths]
    root = os.environ.get("BITSPIN_DATA", "")
    if root:
        if not Path(root).is_dir():
            raise DataError(
                f"BITSPIN_DATA: expected a directory, got {root!r}; correct or unset it"
            )
        places.insert(0, Place("BITSPIN_DATA", Path(root) / entry.name))
    return [*places, Place("cache", cache_directory(entry))]


def find_place(entry: DatasetEntry) -> Place | None:
    """Return the first place that holds the data set, or None; nothing is hashed here.

    A place that holds a part of it is an error, but an incomplete cache is only an interrupted
    download and counts as missing.
    """
    cache = cache_directory(entry)
    for place in _places(entry):
        n_found = sum(find_file(place.directory, file) is not None for file in entry.files)
        if n_found == len(entry.files):
            return place
        if n_found and place.directory != cache:
            raise _incomplete(entry, place)
    return None


def given_place(entry: DatasetEntry, path: Path) -> Place:
    """Return the place that the user named: the folder itself or its sub-folder ``entry.name``."""
    for directory in (path, path / entry.name):
        if any(find_file(directory, file) for file in entry.files):
            place = Place("path", directory)
            for file in entry.files:
                file_in(entry, place, file)
            return place
    raise _incomplete(entry, Place("path", path))


def file_in(entry: DatasetEntry, place: Place, file: FileEntry) -> Path:
    """Return the path of one file, which must be there."""
    path = find_file(place.directory, file)
    if path is None:
        raise _incomplete(entry, place)
    return path


def _incomplete(entry: DatasetEntry, place: Place) -> DataError:
    missing = [file.name for file in entry.files if find_file(place.directory, file) is None]
    return DataError(
        f"{entry.name}: expected {len(entry.files)} files (.gz or plain) in {place.directory}, "
        f"got none called {', '.join(missing)}; add them or point elsewhere"
    )
