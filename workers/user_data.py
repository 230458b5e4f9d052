"""The user's own data: a folder of images, an .npz archive or a .csv table, as ImageData.

The networks here are small and are meant for small images, so images above ``MAX_SIDE`` pixels are
refused rather than shrunk behind the user's back.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.philox import Purpose, random_words
from workers.csv_table import read_table
from workers.image_archive import read_archive
from workers.image_data import DataError, ImageData, Samples, combined_digest
from workers.image_folder import read_folder

MIN_ROWS_PER_CLASS = 10
"""Rows that each class needs where train and test part are not given: 8 to train, 2 to test."""
MIN_TRAIN_ROWS_PER_CLASS = 8
"""Training rows that each class needs where both parts are given."""
_TEST_FRACTION = 0.2
_SPLIT_STREAM = 1  # index in the stream "data order"; 0 is the order of training


def load_user_data(path: Path, *, seed: int) -> ImageData:
    """Load a folder of images, an .npz archive or a .csv table.

    - Folder: one sub-folder of image files per class, optionally inside ``train`` and ``test``.
    - ``.npz``: arrays ``images`` and ``labels``, or ``train_images``, ``train_labels``,
      ``test_images``, ``test_labels``; images hold 0 ... 255 in shape (N, H, W) or (N, H, W, C).
    - ``.csv``: numbers, and the label in the last column; the first line may be a header. Each
      column is scaled to 0 ... 255 by its smallest and largest value in the training part and
      rounded; test values beyond these are clipped, a constant column becomes 0.

    Classes are ordered by name; if all names are numbers, by number.

    Parameters
    ----------
    path
        Folder or file.
    seed
        Chooses the test part where none is given: a fifth of every class. Equal data and seed
        give the equal split on every machine.

    Returns
    -------
    ImageData
        Tables have images of shape (1, 1, F).

    Raises
    ------
    DataError
        If the data cannot be read or used; the message names the file or line.
    ValueError
        If ``seed`` does not fit in 64 bits.
    """
    path = Path(path).absolute()
    train, test = _read(path)
    if test is None:
        label_names = _label_names(path, train, MIN_ROWS_PER_CLASS)
        train, test = _split(train, label_names, seed)
    else:
        label_names = _label_names(path, train, MIN_TRAIN_ROWS_PER_CLASS)
    train_labels = _indices(path, train, label_names)
    test_labels = _indices(path, test, label_names)
    column_ranges = None
    if train.values.dtype == np.uint8:
        train_images, test_images = train.values.astype(np.uint8), test.values.astype(np.uint8)
    else:
        column_ranges = _column_ranges(train.values.astype(np.float64))
        train_images, test_images = (
            grey_levels(part.values.astype(np.float64), column_ranges) for part in (train, test)
        )
    return ImageData(
        name=path.stem if path.is_file() else path.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        label_names=label_names,
        digest=_digest(label_names, train_images, train_labels, test_images, test_labels),
        source=str(path),
        reason=f"{path} was given by the user",
        column_ranges=column_ranges,
    )


def _read(path: Path) -> tuple[Samples, Samples | None]:
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise DataError(f"{path}: expected a folder, .npz or .csv, got nothing; check the path")
    if path.suffix.lower() == ".npz":
        return read_archive(path)
    if path.suffix.lower() == ".csv":
        return read_table(path), None
    raise DataError(
        f"{path}: expected a folder, .npz or .csv, got {path.suffix or 'a file without suffix'}; "
        "convert the data"
    )


def _label_names(path: Path, train: Samples, n_needed: int) -> tuple[str, ...]:
    names, counts = np.unique(np.asarray(train.labels, dtype=np.str_), return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"{path}: expected at least 2 classes, got {len(names)} ({', '.join(names)}); "
            "check the labels"
        )
    rarest = int(counts.argmin())
    if counts[rarest] < n_needed:
        raise DataError(
            f"{path}: expected at least {n_needed} rows or images per class to train on, got "
            f"{counts[rarest]} of class {str(names[rarest])!r} ({len(names)} classes); "
            "add some or drop the class"
        )
    return _sorted_names([str(name) for name in names])


def _sorted_names(names: list[str]) -> tuple[str, ...]:
    """By number if every name is a finite number, else by text."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return tuple(sorted(names))
    if not all(math.isfinite(number) for number in numbers.values()):
        return tuple(sorted(names))
    return tuple(sorted(names, key=lambda name: (numbers[name], name)))


def _split(samples: Samples, label_names: tuple[str, ...], seed: int) -> tuple[Samples, Samples]:
    """Set a random fifth of every class aside; both parts keep the order of the rows."""
    labels = np.asarray(samples.labels, dtype=np.str_)
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for row, name in enumerate(label_names):
        members = np.flatnonzero(labels == name)
        words = random_words(seed, Purpose.DATA_ORDER, len(members), rows=row, index=_SPLIT_STREAM)[
            0
        ]
        n_test = math.floor(_TEST_FRACTION * len(members) + 0.5)
        is_test[members[np.argsort(words, kind="stable")[:n_test]]] = True
    return _part(samples, ~is_test), _part(samples, is_test)


def _part(samples: Samples, chosen: NDArray[np.bool_]) -> Samples:
    labels = tuple(samples.labels[i] for i in np.flatnonzero(chosen))
    return Samples(samples.values[chosen], labels)


def _indices(path: Path, samples: Samples, label_names: tuple[str, ...]) -> NDArray[np.int64]:
    index_of = {name: index for index, name in enumerate(label_names)}
    if not samples.labels:
        raise DataError(f"{path}: expected test images, got none; leave the test part out")
    for name in samples.labels:
        if name not in index_of:
            raise DataError(
                f"{path}: expected test labels among {', '.join(label_names)}, got {name!r}; "
                "add it to the training part"
            )
    return np.array([index_of[name] for name in samples.labels], dtype=np.int64)


def grey_levels(
    values: NDArray[np.float64], ranges: tuple[tuple[float, float], ...]
) -> NDArray[np.uint8]:
    """Numbers of a table as 0 ... 255.

    Parameters
    ----------
    values
        Shape (N, 1, 1, F).
    ranges
        What becomes 0 and what becomes 255, for each of the F columns; numbers beyond are clipped,
        a column whose two are equal becomes 0.
    """
    # Halved first: the difference of two numbers near the end of the range would overflow.
    low, high = np.array(ranges, dtype=np.float64).T / 2
    span = high - low
    safe = np.where(span > 0, span, 1.0)
    share = np.where(span > 0, np.clip(values / 2 - low, 0.0, span) / safe, 0.0)
    return np.floor(255.0 * share + 0.5).astype(np.uint8)


def _column_ranges(values: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    rows = values.reshape(len(values), -1)
    low, high = rows.min(axis=0).tolist(), rows.max(axis=0).tolist()
    return tuple(zip(low, high, strict=True))


def _digest(label_names: tuple[str, ...], *arrays: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    names = hashlib.sha256(json.dumps(label_names).encode()).hexdigest()
    parts = [("label_names", names)]
    for array in arrays:
        little_endian = array.astype(array.dtype.newbyteorder("<"), order="C")
        content = hashlib.sha256(little_endian.tobytes()).hexdigest()
        parts.append((f"{array.dtype} {array.shape}", content))
    return combined_digest(parts)
