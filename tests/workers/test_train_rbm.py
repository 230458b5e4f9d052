import numpy as np
from numpy.typing import NDArray

from workers.datasets import ImageData, load
from workers.train_rbm import binary_rows, unit_grid


def make(train: NDArray[np.uint8], test: NDArray[np.uint8]) -> ImageData:
    return ImageData(
        name="made",
        train_images=train,
        train_labels=np.arange(len(train)) % 2,
        test_images=test,
        test_labels=np.arange(len(test)) % 2,
        label_names=("a", "b"),
        digest="00",
        source="here",
        reason="a test",
    )


def test_grey_pixels_are_on_from_128() -> None:
    pixels = np.array([[0, 127], [128, 255]], dtype=np.uint8).reshape(1, 2, 2, 1).repeat(2, 0)
    data = make(pixels, pixels[:2])
    assert unit_grid(data) == (2, 2)
    assert binary_rows(data, "train").tolist() == [[0, 0, 1, 1]] * 2


def test_colours_are_averaged() -> None:
    pixels = np.array([[[255, 127, 0], [255, 130, 0]]], dtype=np.uint8)[None].repeat(2, 0)
    data = make(pixels, pixels)
    assert unit_grid(data) == (1, 2)
    assert binary_rows(data, "test").tolist() == [[0, 1]] * 2


def test_columns_of_a_table_are_on_above_their_training_median() -> None:
    table = np.array([[0, 9], [1, 9], [2, 200], [3, 250]], dtype=np.uint8).reshape(4, 1, 1, 2)
    data = make(table, np.array([[[[2, 104]]], [[[1, 105]]]], dtype=np.uint8))
    assert unit_grid(data) == (1, 2)
    assert binary_rows(data, "train").tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert binary_rows(data, "test").tolist() == [[1, 0], [0, 1]]  # medians 1.5 and 104.5


def test_the_digits_have_as_many_bits_as_published() -> None:
    rows = binary_rows(load("digits"), "train")
    assert tuple(rows.shape) == (1347, 64)
    assert 0.2 < float(rows.float().mean()) < 0.4
