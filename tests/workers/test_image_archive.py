import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from workers import image_archive
from workers.image_archive import read_archive
from workers.image_data import DataError

IMAGES = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
LABELS = np.array([3, -1])


def saved(path: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(path / "a.npz", **arrays)  # type: ignore[arg-type]
    return path / "a.npz"


def test_images_and_labels(tmp_path: Path) -> None:
    train, test = read_archive(saved(tmp_path, images=IMAGES, labels=LABELS))
    assert test is None
    assert train.values.dtype == np.uint8
    assert np.array_equal(train.values, IMAGES[..., None])
    assert train.labels == ("3", "-1")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int16])
def test_whole_numbers_in_range_are_taken(tmp_path: Path, dtype: type[np.generic]) -> None:
    images = np.stack([IMAGES] * 3, axis=-1).astype(dtype)
    train, _ = read_archive(saved(tmp_path, images=images, labels=np.array(["b", "a"])))
    assert train.values.dtype == np.uint8
    assert np.array_equal(train.values, images)
    assert train.labels == ("b", "a")


def test_a_split_archive(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:1], test_labels=LABELS[1:],
    )  # fmt: skip
    train, test = read_archive(path)
    assert test is not None
    assert train.labels == ("3", "-1")
    assert test.labels == ("-1",)
    assert np.array_equal(test.values, IMAGES[:1, ..., None])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, r"expected arrays images, labels or train_images, .*got x; rename"),
        ({"images": IMAGES}, r"expected arrays images, labels .*got images"),
        ({"images": IMAGES / 255, "labels": LABELS}, r"whole numbers .*float64 \(2, 4, 5, 1\)"),
        ({"images": IMAGES[0], "labels": LABELS}, r"got uint8 \(4, 5\)"),
        ({"images": np.zeros((2, 4, 5, 2), np.uint8), "labels": LABELS}, r"\(2, 4, 5, 2\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"expected images in images, got none"),
        ({"images": IMAGES.astype(int) - 1, "labels": LABELS}, r"from 0 to 255, got -1 to 38"),
        ({"images": IMAGES.astype(int) + 217, "labels": LABELS}, r"from 0 to 255, got 217 to 256"),
        ({"images": np.zeros((2, 65, 5), np.uint8), "labels": LABELS}, r"got 65 x 5; resize"),
        ({"images": np.zeros((2, 5, 65), np.uint8), "labels": LABELS}, r"got 5 x 65; resize"),
        ({"images": np.zeros((2, 5, 0), np.uint8), "labels": LABELS}, r"got 5 x 0; resize"),
        ({"images": IMAGES, "labels": LABELS[:1]}, r"labels .*shape \(2,\), got int64 \(1,\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, r"labels of whole numbers .*got float64"),
        ({"images": IMAGES, "labels": np.array(["a", 1], object)}, r"allow_pickle=False"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_archive(saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_parts_must_have_one_size(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:, :3], test_labels=LABELS,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"\(H, W, C\) = \(4, 5, 1\) .*got \(3, 5, 1\)"):
        read_archive(path)


def test_a_damaged_archive_is_one_error(tmp_path: Path) -> None:
    path = saved(tmp_path, images=IMAGES, labels=LABELS)
    good = path.read_bytes()
    middle = good.index(b"NUMPY")
    for bad in (b"", b"text", good[:100], good[:middle] + b"XUMPY" + good[middle + 5 :]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"a\.npz: expected an \.npz archive"):
            read_archive(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = (1 << 50, 28, 28)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    labels = io.BytesIO()
    np.save(labels, LABELS)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(DataError, match=r"a\.npz: expected an \.npz archive"):
        read_archive(path)


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"hello")
        archive.writestr("labels.npy", b"hello")
    with pytest.raises(DataError, match="expected an array in images, got other bytes"):
        read_archive(path)


def test_the_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, images=IMAGES, labels=LABELS)
    monkeypatch.setattr(image_archive, "MAX_BYTES", 300)
    with pytest.raises(DataError, match="at most 300 bytes of arrays, got 312"):
        read_archive(path)
