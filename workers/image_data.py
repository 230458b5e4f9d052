"""Labelled images as every trainer takes them, and the errors of loading them.

Images are uint8 (N, H, W, C); a table of F columns is an image of shape (1, 1, F).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 64
"""Largest height and width of the user's own images, in pixels."""
MAX_BYTES = 1 << 31
"""Most pixels that the user's own data may have in all: 2 GiB of memory."""


class DataError(ValueError):
    """Data is missing, corrupt or unusable; the message is one line and says what to do."""


class DataUnavailable(DataError):
    """A data set is not on this machine and was not downloaded."""


class HostsUnreachable(DataUnavailable):
    """None of the hosts that serve a data set could be reached."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageData:
    """A labelled data set with its training and test parts.

    Raises
    ------
    DataError
        If shapes, dtypes or labels do not fit together.
    """

    name: str
    """Short name, such as ``fashion-mnist``."""
    train_images: NDArray[np.uint8]
    """Shape (N, H, W, C)."""
    train_labels: NDArray[np.int64]
    """Shape (N,), indices into ``label_names``."""
    test_images: NDArray[np.uint8]
    """Shape (M, H, W, C)."""
    test_labels: NDArray[np.int64]
    """Shape (M,), indices into ``label_names``."""
    label_names: tuple[str, ...]
    """One name per class."""
    digest: str
    """SHA-256 (hex) over the digests of the content, wherever the content was found."""
    source: str
    """Where the data was found."""
    reason: str
    """Why this data set was chosen: one sentence for a person."""
    column_ranges: tuple[tuple[float, float], ...] | None = None
    """Of a table: what became 0 and what became 255 in each column."""

    def __post_init__(self) -> None:
        shape = self.train_images.shape[1:]
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != shape:
                raise DataError(
                    f"{part}_images: expected uint8 of shape (N, H, W, C), the same in train and "
                    f"test, got {images.dtype} {images.shape}"
                )
            if labels.shape != images.shape[:1] or labels.dtype != np.int64:
                raise DataError(
                    f"{part}_labels: expected int64 of shape ({len(images)},), "
                    f"got {labels.dtype} {labels.shape}"
                )
            if labels.size and not 0 <= labels.min() <= labels.max() < len(self.label_names):
                raise DataError(
                    f"{part}_labels: expected labels from 0 to {len(self.label_names) - 1}, "
                    f"got {labels.min()} to {labels.max()}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows of the user's own data with the labels as they were written."""

    values: NDArray[np.uint8] | NDArray[np.float64]
    """Shape (N, H, W, C): grey levels, or the float64 numbers of a table as (N, 1, 1, F)."""
    labels: tuple[str, ...]
    """One text per row."""


def combined_digest(parts: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 (hex) of ``name digest`` lines, in the order given."""
    text = "".join(f"{name} {digest}\n" for name, digest in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def check_image_size(name: str, *, height: int, width: int) -> None:
    """Refuse images that are empty or larger than ``MAX_SIDE`` in either direction.

    Raises
    ------
    DataError
        If the size is out of range.
    """
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise DataError(
            f"{name}: expected 1 to {MAX_SIDE} pixels in height and width, got {height} x {width}; "
            f"resize the images, for instance to 28 x 28"
        )
