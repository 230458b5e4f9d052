"""Inputs to classify: what a user hands to a trained model, prepared as its training data was.

Images are never resized, as they are not for training: another size is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels import JSON
from workers.csv_table import read_table
from workers.image_archive import read_unlabelled
from workers.image_data import DataError
from workers.image_folder import IMAGE_SUFFIXES, read_image
from workers.user_data import grey_levels

ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Images of one file as the model takes them."""

    images: NDArray[np.uint8]
    """Shape (N, H, W, C)."""
    labels: tuple[str, ...] | None
    """What the file says that they are, if it does."""


def read_inputs(
    path: Path, model: Path, shape: tuple[int, ...], metadata: Mapping[str, JSON]
) -> Inputs:
    """Read one image file, an .npy or .npz of images, or a .csv table.

    Parameters
    ----------
    path
        The file. A table may have a label in the last column or do without; its columns are
        scaled with the ranges that the model's training data had.
    model
        Where the model came from, for messages.
    shape
        (H, W, C) of the model's input.
    metadata
        Of the model.

    Raises
    ------
    DataError
        If the file cannot be read or does not fit the model; the message names it.
    """
    suffix = path.suffix.lower()
    known = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, ".csv")
    if not path.is_file() or suffix not in known:
        got = "nothing" if not path.exists() else "a folder" if path.is_dir() else suffix or "none"
        raise DataError(f"{path}: expected a file of {', '.join(known)}, got {got}")
    if suffix in IMAGE_SUFFIXES:
        return Inputs(read_image(path, (model, shape))[None], None)
    if suffix == ".csv":
        return _table(path, model, shape, metadata)
    images, labels = read_unlabelled(path)
    if images.shape[1:] != shape:
        raise DataError(
            f"{path}: expected images of (H, W, C) = {shape} as in {model}, got "
            f"{images.shape[1:]}; resize them as the training images were"
        )
    return Inputs(images, labels)


def _table(path: Path, model: Path, shape: tuple[int, ...], metadata: Mapping[str, JSON]) -> Inputs:
    ranges = metadata.get("column_ranges")
    if not isinstance(ranges, list) or shape[:2] != (1, 1) or len(ranges) != shape[2]:
        raise DataError(
            f"{path}: expected a model that was trained on a table, got one of images (H, W, C) = "
            f"{shape} in {model}"
        )
    samples = read_table(path)
    values, labels = samples.values.astype(np.float64), samples.labels
    if values.shape[3] == len(ranges) - 1:  # no label: the last column is a number like the others
        last = _numbers(path, labels).reshape(-1, 1, 1, 1)
        return Inputs(grey_levels(np.concatenate([values, last], axis=3), _pairs(ranges)), None)
    if values.shape[3] != len(ranges):
        raise DataError(
            f"{path}: expected {len(ranges)} columns of numbers as in {model}, with a label behind "
            f"them or without, got {values.shape[3]}; give the columns of the training table"
        )
    return Inputs(grey_levels(values, _pairs(ranges)), labels)


def _numbers(path: Path, fields: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        numbers = np.array(fields, dtype=np.float64)
    except ValueError:
        numbers = np.full(1, np.nan)
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{path}: expected finite numbers in the last column, for there is no column for a "
            "label, got others; give the columns of the training table"
        )
    return numbers


def _pairs(ranges: list[JSON]) -> tuple[tuple[float, float], ...]:
    """Ranges of the columns from metadata, which anybody may have written."""
    pairs = [
        tuple(float(end) for end in pair if isinstance(end, int | float))
        for pair in ranges
        if isinstance(pair, list)
    ]
    if len(pairs) != len(ranges) or any(len(pair) != 2 for pair in pairs):
        raise DataError("column_ranges: expected a list of two numbers per column in the model")
    return tuple((pair[0], pair[1]) for pair in pairs)
