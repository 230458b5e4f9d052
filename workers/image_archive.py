"""Reader of .npz archives with images and labels; nothing in them is executed."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.image_data import MAX_BYTES, DataError, Samples, check_image_size

_WHOLE = ("images", "labels")
_SPLIT = ("train_images", "train_labels", "test_images", "test_labels")
_UNLABELLED = ("images",)

# A header may promise more than there is memory; encrypted members raise RuntimeError.
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, MemoryError, RuntimeError)


def read_archive(path: Path) -> tuple[Samples, Samples | None]:
    """Read ``images`` and ``labels``, or the same with ``train_`` and ``test_`` before them.

    Images are whole numbers 0 ... 255 of shape (N, H, W) or (N, H, W, C) with C = 1 or 3; labels
    are whole numbers or texts of shape (N,).

    Parameters
    ----------
    path
        The archive.

    Returns
    -------
    tuple
        Training part and test part; the second is None if the archive is not split.

    Raises
    ------
    DataError
        If the archive is damaged, too large, or does not hold such arrays.
    """
    arrays = _arrays(path, _SPLIT, _WHOLE)
    if set(_SPLIT) <= set(arrays):
        train, test = _samples(path, arrays, "train_"), _samples(path, arrays, "test_")
        if train.values.shape[1:] != test.values.shape[1:]:
            raise DataError(
                f"{path}: expected test_images of (H, W, C) = {train.values.shape[1:]} as in "
                f"train_images, got {test.values.shape[1:]}; make them equal"
            )
        return train, test
    return _samples(path, arrays, ""), None


def read_unlabelled(path: Path) -> tuple[NDArray[np.uint8], tuple[str, ...] | None]:
    """Read images to classify from an .npz archive or an .npy array.

    Of an archive with a test part it is that part; labels are optional. Images are as in
    :func:`read_archive`.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tuple
        Images of shape (N, H, W, C), and their labels or None.

    Raises
    ------
    DataError
        If the file is damaged, too large, or does not hold such arrays.
    """
    if path.suffix.lower() == ".npy":
        return _images(path, "the array", _plain_array(path)), None
    arrays = _arrays(path, _SPLIT, _WHOLE, _UNLABELLED)
    if set(arrays) == set(_UNLABELLED):
        return _images(path, "images", arrays["images"]), None
    samples = _samples(path, arrays, "test_" if "test_images" in arrays else "")
    return samples.values.astype(np.uint8), samples.labels


def _plain_array(path: Path) -> NDArray[np.generic]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable file, got {error.strerror}; correct its permissions"
        ) from error
    except _DAMAGE as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: expected an .npy array, got {first_line}; save it again with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.nbytes > MAX_BYTES:
        raise DataError(f"{path}: expected one array of at most {MAX_BYTES} bytes, got another")
    return array


def _arrays(path: Path, *choices: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    """Arrays of the first of the ``choices`` that the archive has whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
        names = {name.removesuffix(".npy") for name in sizes if name.endswith(".npy")}
        wanted = next((choice for choice in choices if set(choice) <= names), None)
        if wanted is None:
            raise DataError(
                f"{path}: expected arrays {' or '.join(map(', '.join, reversed(choices)))}, "
                f"got {', '.join(sorted(names)) or 'none'}; rename them"
            )
        total = sum(sizes[f"{name}.npy"] for name in wanted)
        if total > MAX_BYTES:
            raise DataError(
                f"{path}: expected at most {MAX_BYTES} bytes of arrays, got {total}; "
                "take a part of the images"
            )
        with np.load(path, allow_pickle=False) as archive_arrays:
            arrays = {name: archive_arrays[f"{name}.npy"] for name in wanted}
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable file, got {error.strerror}; correct its permissions"
        ) from error
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: expected an .npz archive of plain arrays, got {first_line}; "
            "save it again with numpy.savez"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands members without its magic on as bytes
            raise DataError(f"{path}: expected an array in {name}, got other bytes; save it again")
    return arrays


def _samples(path: Path, arrays: dict[str, NDArray[np.generic]], prefix: str) -> Samples:
    images = _images(path, f"{prefix}images", arrays[f"{prefix}images"])
    name, labels = f"{prefix}labels", arrays[f"{prefix}labels"]
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "biuU":
        raise DataError(
            f"{path}: expected {name} of whole numbers or texts in shape ({len(images)},), "
            f"got {labels.dtype} {labels.shape}; convert them"
        )
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    return Samples(images, tuple(str(label) for label in labels.tolist()))


def _images(path: Path, name: str, images: NDArray[np.generic]) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype.kind not in "biu":
        raise DataError(
            f"{path}: expected {name} of whole numbers 0 ... 255 in shape (N, H, W), (N, H, W, 1) "
            f"or (N, H, W, 3), got {images.dtype} {images.shape}; convert them to uint8"
        )
    if not len(images):
        raise DataError(f"{path}: expected images in {name}, got none; add some")
    check_image_size(f"{path} {name}", height=images.shape[1], width=images.shape[2])
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise DataError(
            f"{path}: expected {name} from 0 to 255, got {low} to {high}; convert them to uint8"
        )
    return images.astype(np.uint8)
