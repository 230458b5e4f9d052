"""Reader of folders of images: one sub-folder per class, optionally inside train and test."""

import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.image_data import MAX_BYTES, DataError, Samples, check_image_size

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LEFT_BY_DESKTOPS = ("thumbs.db", "desktop.ini")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def read_folder(path: Path) -> tuple[Samples, Samples | None]:
    """Read all images of a folder in the order of their names.

    The first image decides for all: its size, and whether they are grey or colour. Grey images
    among colour ones are converted; colour images among grey ones are refused, for that would
    lose what they hold. Transparency is dropped.

    Parameters
    ----------
    path
        Folder with a sub-folder per class, or with ``train`` and ``test`` that have these.

    Returns
    -------
    tuple
        Training part and test part; the second is None if there is no such level.

    Raises
    ------
    DataError
        If a file is no image or does not go with the first one; the message names it.
    """
    names = {folder.name for folder in _folders(path)}
    if names & {"train", "test"}:
        if names != {"train", "test"}:
            raise DataError(
                f"{path}: expected the two folders train and test, or one folder per class, got "
                f"{', '.join(sorted(names))}; move or rename the others"
            )
        train_files, test_files = _files(path / "train"), _files(path / "test")
        values = _read_all(path, [file for file, _ in train_files + test_files])
        n = len(train_files)
        return (
            Samples(values[:n], tuple(label for _, label in train_files)),
            Samples(values[n:], tuple(label for _, label in test_files)),
        )
    files = _files(path)
    values = _read_all(path, [file for file, _ in files])
    return Samples(values, tuple(label for _, label in files)), None


def _listing(path: Path) -> list[Path]:
    try:
        items = sorted(path.iterdir(), key=lambda item: item.name)
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable folder, got {error.strerror}; correct its permissions"
        ) from error
    return [
        item
        for item in items
        if not item.name.startswith(".") and item.name.lower() not in _LEFT_BY_DESKTOPS
    ]


def _folders(path: Path) -> list[Path]:
    """Sub-folders; other files at this level (a README, a licence) do no harm, images would."""
    items = _listing(path)
    for item in items:
        if item.suffix.lower() in IMAGE_SUFFIXES and not item.is_dir():
            raise DataError(
                f"{item}: expected images in one sub-folder per class, got one outside; "
                "move it into the folder of its class"
            )
    return [item for item in items if item.is_dir()]


def _files(path: Path) -> list[tuple[Path, str]]:
    """All image files below the class folders of ``path`` with the names of their classes."""
    files: list[tuple[Path, str]] = []
    for folder in _folders(path):
        for item in _listing(folder):
            if item.is_dir() or item.suffix.lower() not in IMAGE_SUFFIXES:
                raise DataError(
                    f"{item}: expected an image file ({', '.join(IMAGE_SUFFIXES)}), got "
                    f"{'a folder' if item.is_dir() else 'another file'}; move it elsewhere"
                )
            files.append((item, folder.name))
    if not files:
        raise DataError(
            f"{path}: expected one sub-folder of images per class, got no image; "
            "make a folder for each class"
        )
    return files


def _read_all(path: Path, files: list[Path]) -> NDArray[np.uint8]:
    first = read_image(files[0], None)
    total = len(files) * math.prod(first.shape)
    if total > MAX_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_BYTES} bytes of pixels, got {total}; "
            "take a part of the images"
        )
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    images[0] = first
    for index, file in enumerate(files[1:], start=1):
        images[index] = read_image(file, (files[0], first.shape))
    return images


def read_image(file: Path, first: tuple[Path, tuple[int, ...]] | None) -> NDArray[np.uint8]:
    """Pixels of shape (H, W, C) of one file.

    Parameters
    ----------
    file
        PNG, JPEG or another format of 8 bits per channel.
    first
        What the file has to go with: where the shape comes from, and the shape (H, W, C). Images
        are never resized; grey becomes colour if C is 3.

    Raises
    ------
    DataError
        If the file is no image or has another shape; the message names it.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of huge images; the size check below refuses them before any decoding.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(file)
        with opened as image:
            check_image_size(str(file), height=image.height, width=image.width)
            mode = _target_mode(file, image.mode, getattr(image, "n_frames", 1), first)
            pixels = np.asarray(image.convert(mode), dtype=np.uint8)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{file}: expected a readable image, got {first_line}; replace or remove it"
        ) from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if first is not None and pixels.shape != first[1]:
        height, width = first[1][:2]
        raise DataError(
            f"{file}: expected {height} x {width} pixels (height x width) as in {first[0]}, got "
            f"{pixels.shape[0]} x {pixels.shape[1]}; resize all images to one size"
        )
    return pixels


def _target_mode(
    file: Path, mode: str, n_frames: int, first: tuple[Path, tuple[int, ...]] | None
) -> str:
    if mode not in _GREY_MODES + _COLOUR_MODES or n_frames != 1:
        raise DataError(
            f"{file}: expected a single image of 8 bits per channel, got mode {mode} with "
            f"{n_frames} frames; convert it"
        )
    is_grey = mode in _GREY_MODES
    if first is None:
        return "L" if is_grey else "RGB"
    if first[1][2] == 3:
        return "RGB"
    if not is_grey:
        raise DataError(
            f"{file}: expected a grey image as {first[0]}, got colour; "
            "convert all images to grey, or all to colour"
        )
    return "L"
