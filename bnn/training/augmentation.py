"""Augmentation of uint8 images: every image of every epoch has draws of its own.

The draws of a transform are Philox words of purpose "augmentation": row = number of the sample in
the training data, step = epoch, index = number of the transform. So they depend neither on the
batch, the shard, the worker nor on a restart. One more transform is a function, its slow twin in
the tests and a line in ``TRANSFORMS``.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bnn.training.config import TrainConfig
from kernels import Purpose, random_words

Images = NDArray[np.uint8]
Transform = Callable[[Images, NDArray[np.uint32], TrainConfig], Images]
"""From images (N, H, W, C) and words (N, 2) to images of the same shape, a new array."""

_N_WORDS = 2
"""Words that each transform gets per image."""


def augment(
    images: Images, samples: NDArray[np.int64], *, epoch: int, config: TrainConfig
) -> Images:
    """Apply all transforms that the configuration asks for, in the order of ``TRANSFORMS``.

    Parameters
    ----------
    images
        Shape (N, H, W, C), uint8.
    samples
        Numbers of the images in the training data, shape (N,).
    epoch
        Number of the pass, from 0.
    config
        Switches the transforms and gives the seed.

    Returns
    -------
    NDArray
        Shape and dtype of ``images``; ``images`` itself if no transform is asked for.
    """
    for index, (field, transform) in enumerate(TRANSFORMS.items()):
        if getattr(config, field):
            words = random_words(
                config.seed,
                Purpose.AUGMENTATION,
                _N_WORDS,
                rows=samples,
                step=epoch,
                index=index,
            )
            images = transform(images, words, config)
    return images


def shift(images: Images, words: NDArray[np.uint32], config: TrainConfig) -> Images:
    """Move every image by -s ... s pixels along both axes, s = ``shift_pixels``.

    What comes in at the border is background: the same as cropping at random from the image with a
    border of s. An axis of one pixel stays: there is nothing to move to.
    """
    s = config.shift_pixels
    _, height, width, _ = images.shape
    pad = [(0, 0), (s, s), (s, s), (0, 0)]
    padded = np.pad(images, pad, constant_values=config.background)
    rows = _first(words[:, 0], s, height)[:, None] + np.arange(height)
    columns = _first(words[:, 1], s, width)[:, None] + np.arange(width)
    numbers = np.arange(len(images))[:, None, None]
    moved: Images = padded[numbers, rows[:, :, None], columns[:, None, :]]
    return moved


def horizontal_flip(images: Images, words: NDArray[np.uint32], config: TrainConfig) -> Images:
    """Mirror the images whose word has its top bit set, left to right."""
    is_flipped = (words[:, 0] >> np.uint32(31)).astype(bool)
    return np.where(is_flipped[:, None, None, None], images[:, :, ::-1], images)


def cutout(images: Images, words: NDArray[np.uint32], config: TrainConfig) -> Images:
    """Overwrite a square with background; its side is ``cutout_pixels`` [1]_.

    The centre is anywhere in the image, so part of the square may lie outside.

    References
    ----------
    .. [1] DeVries, Taylor (2017), Improved regularization of convolutional neural networks with
       cutout, arXiv:1708.04552 (from memory).
    """
    side = config.cutout_pixels
    _, height, width, _ = images.shape
    is_row, is_column = (
        _is_within(below(words[:, axis], extent), side, extent)
        for axis, extent in enumerate((height, width))
    )
    is_cut = is_row[:, :, None] & is_column[:, None, :]
    return np.where(is_cut[..., None], np.uint8(config.background), images)


def below(words: NDArray[np.uint32], n: int) -> NDArray[np.int64]:
    """Integers 0 ... n - 1 from uniform words: floor(word * n / 2^32)."""
    return ((words.astype(np.uint64) * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def _first(words: NDArray[np.uint32], s: int, extent: int) -> NDArray[np.int64]:
    """First row or column of the padded image that each result shows; s is none moved."""
    return below(words, 2 * s + 1) if extent > 1 else np.full(len(words), s)


def _is_within(centre: NDArray[np.int64], side: int, extent: int) -> NDArray[np.bool_]:
    """Which of ``extent`` places belong to runs of ``side`` around ``centre``; (N, extent)."""
    offset = np.arange(extent) - (centre[:, None] - side // 2)
    return (offset >= 0) & (offset < side)


TRANSFORMS: dict[str, Transform] = {
    "shift_pixels": shift,
    "horizontal_flip": horizontal_flip,
    "cutout_pixels": cutout,
}
"""Field of the configuration that switches a transform on, and the transform. Append only: the
place is the number of its stream."""
