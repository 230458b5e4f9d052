import numpy as np

from workers.datasets import ImageData, load
from workers.splits import stratified_split


def digits() -> ImageData:
    return load("digits")


def rows_of(data: ImageData) -> set[bytes]:
    both = np.concatenate([data.train_images, data.test_images])
    return {image.tobytes() for image in both}


def test_a_quarter_of_every_class_is_the_test_part() -> None:
    data, again = digits(), stratified_split(digits(), 0)
    counts = np.bincount(np.concatenate([data.train_labels, data.test_labels]))
    expected = np.floor(0.25 * counts + 0.5).astype(int)
    assert np.bincount(again.test_labels).tolist() == expected.tolist()
    assert np.bincount(again.train_labels).tolist() == (counts - expected).tolist()
    assert len(again.train_labels) + len(again.test_labels) == 1797
    assert rows_of(again) == rows_of(data)
    test_rows = {image.tobytes() for image in again.test_images}
    overlap = test_rows & {image.tobytes() for image in again.train_images}
    assert not overlap  # no two digits of the set are equal


def test_the_seed_decides_the_split_and_the_digest() -> None:
    first, same, other = (stratified_split(digits(), seed) for seed in (3, 3, 4))
    assert (first.test_images == same.test_images).all()
    assert first.digest == same.digest
    assert first.digest not in (other.digest, digits().digest)
    changed = {i.tobytes() for i in first.test_images} ^ {i.tobytes() for i in other.test_images}
    assert len(changed) > 400
    assert "seed 4" in other.reason


def test_images_keep_their_labels() -> None:
    label_of = {
        image.tobytes(): int(label)
        for images, labels in (
            (digits().train_images, digits().train_labels),
            (digits().test_images, digits().test_labels),
        )
        for image, label in zip(images, labels, strict=True)
    }
    data = stratified_split(digits(), 1)
    for image, label in zip(data.test_images, data.test_labels, strict=True):
        assert label_of[image.tobytes()] == label
