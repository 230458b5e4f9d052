from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from workers import image_folder
from workers.image_data import DataError
from workers.image_folder import read_folder

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7


def put(path: Path, pixels: NDArray[np.generic], mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_classes_are_folders_and_files_come_by_name(tmp_path: Path) -> None:
    put(tmp_path / "dog" / "2.png", GREY)
    put(tmp_path / "cat" / "b.png", GREY + 1)
    put(tmp_path / "cat" / "a.bmp", GREY + 2)
    (tmp_path / "README.txt").write_text("at this level it does no harm")
    (tmp_path / "dog" / ".DS_Store").write_text("")
    (tmp_path / "dog" / "Thumbs.db").write_text("")
    (tmp_path / ".cache").mkdir()
    train, test = read_folder(tmp_path)
    assert test is None
    assert train.labels == ("cat", "cat", "dog")
    assert np.array_equal(train.values, np.stack([GREY + 2, GREY + 1, GREY])[..., None])


def test_train_and_test_folders(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a" / "1.png", COLOUR)
    put(tmp_path / "test" / "a" / "1.png", COLOUR + 1)
    put(tmp_path / "test" / "b" / "1.png", COLOUR + 2)
    train, test = read_folder(tmp_path)
    assert test is not None
    assert (train.labels, test.labels) == (("a",), ("a", "b"))
    assert np.array_equal(train.values, COLOUR[None])
    assert np.array_equal(test.values, np.stack([COLOUR + 1, COLOUR + 2]))


@pytest.mark.parametrize("others", [["train"], ["train", "test", "val"], ["test", "a"]])
def test_a_half_split_is_refused(tmp_path: Path, others: list[str]) -> None:
    for name in others:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="expected the two folders train and test, or one folder"):
        read_folder(tmp_path)


def test_the_first_image_decides_between_grey_and_colour(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", COLOUR)
    put(tmp_path / "b" / "1.png", GREY)
    train, _ = read_folder(tmp_path)
    assert train.values.shape == (2, 3, 4, 3)
    assert np.array_equal(train.values[1], np.stack([GREY] * 3, axis=-1))
    put(tmp_path / "A" / "1.png", GREY)
    with pytest.raises(DataError, match=r"a.1\.png: expected a grey image as .*A.1\.png, got colo"):
        read_folder(tmp_path)


def test_transparency_palettes_and_bits(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", GREY, "LA")
    bits = put(tmp_path / "b" / "1.png", (GREY > 100).astype(np.uint8) * 255, "1")
    with Image.open(bits) as image:
        assert image.mode == "1"
    train, _ = read_folder(tmp_path)
    assert np.array_equal(train.values[0, ..., 0], GREY)
    assert np.array_equal(train.values[1, ..., 0], (GREY > 100) * 255)
    (tmp_path / "a" / "1.png").unlink()
    put(tmp_path / "a" / "1.png", COLOUR, "RGBA")
    put(tmp_path / "b" / "2.png", GREY, "P")
    train, _ = read_folder(tmp_path)
    assert np.array_equal(train.values[0], COLOUR)
    assert np.array_equal(train.values[2], np.stack([GREY] * 3, axis=-1))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", GREY)
    bad = put(tmp_path / "a" / "2.png", GREY)
    whole = bad.read_bytes()
    for content in (b"", b"not an image", whole[:40], whole[:-30]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"2\.png: expected a readable image, got .*; replace"):
            read_folder(tmp_path)


def test_mixed_and_large_sizes_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png", GREY)
    put(tmp_path / "b" / "1.png", GREY.T.copy())
    with pytest.raises(DataError, match=r"b.1\.png: expected 3 x 4 .*got 4 x 3; resize all"):
        read_folder(tmp_path)
    put(tmp_path / "b" / "1.png", np.zeros((65, 64), np.uint8))
    with pytest.raises(DataError, match=r"b.1\.png: expected 1 to 64 pixels .*got 65 x 64; resize"):
        read_folder(tmp_path)
    put(tmp_path / "b" / "1.png", GREY.astype(np.uint16) * 256)
    with pytest.raises(DataError, match=r"b.1\.png: expected a single image of 8 bits .*I;16"):
        read_folder(tmp_path)


def test_animations_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a" / "1.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"1\.gif: expected a single image .*with 2 frames"):
        read_folder(tmp_path)


def test_huge_images_are_refused_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a" / "1.png", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    read_folder(tmp_path)  # up to twice its limit Pillow only warns: not the user's business
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DataError, match="expected a readable image, got Image size"):
        read_folder(tmp_path)


def test_misplaced_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one sub-folder of images per class, got no imag"):
        read_folder(tmp_path)
    put(tmp_path / "a" / "1.png", GREY)
    stray = put(tmp_path / "2.png", GREY)
    with pytest.raises(DataError, match=r"2\.png: expected images in one sub-folder per class"):
        read_folder(tmp_path)
    stray.unlink()
    note = tmp_path / "a" / "note.txt"
    note.write_text("")
    with pytest.raises(DataError, match=r"note\.txt: expected an image file .*got another file"):
        read_folder(tmp_path)
    note.unlink()
    (tmp_path / "a" / "deeper").mkdir()
    with pytest.raises(DataError, match=r"deeper: expected an image file .*got a folder"):
        read_folder(tmp_path)


def test_the_amount_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "1.png", GREY)
    put(tmp_path / "b" / "1.png", GREY)
    monkeypatch.setattr(image_folder, "MAX_BYTES", 23)
    with pytest.raises(DataError, match="expected at most 23 bytes of pixels, got 24"):
        read_folder(tmp_path)
