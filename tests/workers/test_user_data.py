from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.datasets import DataError, ImageData, load_user_data

SEED = 11


def write_rows(path: Path, rows: list[tuple[float, str]]) -> Path:
    path.write_text("".join(f"{value},{label}\n" for value, label in rows))
    return path


def rows_of(data: ImageData) -> list[tuple[int, str]]:
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    pairs = zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)
    return sorted((value, data.label_names[label]) for value, label in pairs)


def save(path: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def balanced(n_per_class: int) -> dict[str, NDArray[np.generic]]:
    n = 2 * n_per_class
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1) * np.ones((1, 2, 3), np.uint8)
    return {"images": images, "labels": np.arange(n) % 2}


def test_a_fifth_of_every_class_is_set_aside(tmp_path: Path) -> None:
    labels = np.array([0] * 10 + [1] * 13 + [2] * 50)
    images = np.arange(73, dtype=np.uint8).reshape(73, 1, 1)
    data = load_user_data(save(tmp_path / "a.npz", images=images, labels=labels), seed=SEED)
    assert np.bincount(data.test_labels).tolist() == [2, 3, 10]
    assert np.bincount(data.train_labels).tolist() == [8, 10, 40]
    kept = [(value, str(labels[value])) for value in range(73)]
    assert rows_of(data) == kept  # every row once, with its own label
    assert np.all(np.diff(data.train_images[:, 0, 0, 0].astype(int)) > 0)  # rows keep their order


def test_the_split_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", **balanced(40))
    first, again = load_user_data(path, seed=1), load_user_data(path, seed=1)
    assert np.array_equal(first.test_images, again.test_images)
    assert first.digest == again.digest
    assert load_user_data(path, seed=2).digest != first.digest
    moved = save(tmp_path / "elsewhere.npz", **balanced(40))
    assert load_user_data(moved, seed=1).digest == first.digest


def test_the_split_is_pinned(tmp_path: Path) -> None:
    # Philox is exact: a change of these rows would silently change everybody's test set.
    data = load_user_data(save(tmp_path / "a.npz", **balanced(10)), seed=SEED)
    assert data.test_images[:, 0, 0, 0].tolist() == [0, 14, 15, 19]


def test_the_digest_sees_pixels_labels_and_names(tmp_path: Path) -> None:
    arrays = balanced(10)
    digests = set()
    pixels = arrays["images"].copy()
    pixels[3, 0, 0] ^= 1
    for index, (images, labels) in enumerate(
        [
            (arrays["images"], arrays["labels"]),
            (pixels, arrays["labels"]),
            (arrays["images"], 1 - arrays["labels"]),
            (arrays["images"], arrays["labels"] + 5),
        ]
    ):
        path = save(tmp_path / f"{index}.npz", images=images, labels=labels)
        digests.add(load_user_data(path, seed=SEED).digest)
    assert len(digests) == 4


def test_names_of_classes_sort_by_number_where_they_are_numbers(tmp_path: Path) -> None:
    for labels, expected in (
        (("10", "9", "-2"), ("-2", "9", "10")),
        (("1.5", "1e1", "2"), ("1.5", "2", "1e1")),
        (("b10", "b9", "A"), ("A", "b10", "b9")),
        (("nan", "9", "10"), ("10", "9", "nan")),  # nan has no place among numbers: by text
    ):
        path = write_rows(
            tmp_path / "t.csv", [(index, label) for label in labels for index in range(10)]
        )
        assert load_user_data(path, seed=SEED).label_names == expected


def test_columns_are_scaled_by_the_training_part(tmp_path: Path) -> None:
    rows = [(index * 10.0, "ab"[index % 2]) for index in range(20)]
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{x},{-x},7,{label}\n" for x, label in rows))
    data = load_user_data(path, seed=SEED)
    assert data.train_images.shape == (16, 1, 1, 3)
    assert data.test_images.shape == (4, 1, 1, 3)
    assert data.train_images.dtype == np.uint8
    up, down, constant = (data.train_images[:, 0, 0, column] for column in range(3))
    assert (up.min(), up.max()) == (0, 255)
    assert (down.min(), down.max()) == (0, 255)
    assert np.all(constant == 0)
    assert np.all(np.abs(up.astype(int) + down - 255) <= 1)


def test_scaling_by_hand(tmp_path: Path) -> None:
    # 0 ... 4 in the training part: 255 / 4 = 63.75 per unit; a test value of 9 is clipped.
    values = [0.0, 1.0, 2.0, 3.0, 4.0]
    rows = [(value, label) for label in "ab" for value in values * 2]
    data = load_user_data(write_rows(tmp_path / "t.csv", rows), seed=SEED)
    assert np.unique(data.train_images).tolist() == [0, 64, 128, 191, 255]
    assert data.column_ranges == ((0.0, 4.0),)
    wild = write_rows(tmp_path / "w.csv", [*rows, (1e9, "a")])
    for seed in range(20):
        data = load_user_data(wild, seed=seed)
        if np.count_nonzero(data.train_images == 255) > 1:  # the outlier is in the test part
            assert data.test_images.max() == 255
            assert np.unique(data.train_images).tolist() == [0, 64, 128, 191, 255]
            break
    else:
        pytest.fail("no seed put the outlier into the test part")


def test_numbers_near_the_end_of_the_range_do_not_overflow(tmp_path: Path) -> None:
    rows = [(x, label) for label in "ab" for x in [-1.7e308, 1.7e308] * 5]
    data = load_user_data(write_rows(tmp_path / "t.csv", rows), seed=SEED)
    assert np.unique(data.train_images).tolist() == [0, 255]


def test_origin_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "flowers.npz", **balanced(10))
    data = load_user_data(path, seed=SEED)
    assert data.name == "flowers"
    assert data.source == str(path)
    assert data.reason == f"{path} was given by the user"


def test_unusable_labels_are_refused(tmp_path: Path) -> None:
    for rows, message in (
        ([(i, "a") for i in range(30)], r"at least 2 classes, got 1 \(a\)"),
        ([(i, "ab"[i > 20]) for i in range(30)], r"at least 10 rows .* got 9 of class 'b'"),
        ([(i, str(i * 0.1)) for i in range(30)], r"at least 10 rows .*\(30 classes\)"),
    ):
        with pytest.raises(DataError, match=message):
            load_user_data(write_rows(tmp_path / "t.csv", rows), seed=SEED)


def test_test_labels_must_occur_in_training(tmp_path: Path) -> None:
    images, labels = np.zeros((16, 2, 2), np.uint8), np.arange(16) % 2
    path = save(
        tmp_path / "a.npz",
        train_images=images, train_labels=labels, test_images=images, test_labels=labels + 1,
    )  # fmt: skip
    with pytest.raises(DataError, match="expected test labels among 0, 1, got '2'"):
        load_user_data(path, seed=SEED)


def test_a_given_split_is_kept(tmp_path: Path) -> None:
    arrays = balanced(8)
    path = save(
        tmp_path / "a.npz",
        train_images=arrays["images"], train_labels=arrays["labels"],
        test_images=arrays["images"][:3], test_labels=arrays["labels"][:3],
    )  # fmt: skip
    data = load_user_data(path, seed=SEED)
    assert data.train_images.shape == (16, 2, 3, 1)
    assert data.test_labels.tolist() == [0, 1, 0]
    assert data.digest == load_user_data(path, seed=SEED + 1).digest
    path = save(
        tmp_path / "b.npz",
        train_images=arrays["images"][:14], train_labels=arrays["labels"][:14],
        test_images=arrays["images"], test_labels=arrays["labels"],
    )  # fmt: skip
    with pytest.raises(DataError, match=r"at least 8 .* got 7 of class '0'"):
        load_user_data(path, seed=SEED)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"expected a folder, \.npz or \.csv, got nothing"):
        load_user_data(tmp_path / "nowhere", seed=SEED)
    with pytest.raises(DataError, match=r"expected a folder, \.npz or \.csv, got \.txt"):
        load_user_data(tmp_path / "a.txt", seed=SEED)


def test_the_seed_must_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", **balanced(10))
    with pytest.raises(ValueError, match="seed: expected 0 <= seed"):
        load_user_data(path, seed=-1)
