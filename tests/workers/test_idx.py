import gzip
from pathlib import Path

import numpy as np
import pytest

from workers.idx import read_idx
from workers.image_data import DataError

DATA = Path(__file__).parent.parent / "data"


def payload(name: str) -> bytes:
    return gzip.decompress((DATA / f"mnist2k-{name}-ubyte.gz").read_bytes())


def test_images_are_decoded_in_row_order() -> None:
    content = payload("test-images-idx3")
    images = read_idx(content, n_dims=3, origin="images")
    assert images.shape == (500, 28, 28)
    assert images.dtype == np.uint8
    position = 16 + (3 * 28 + 14) * 28 + 13
    assert images[3, 14, 13] == content[position]
    assert images.sum(dtype=np.int64) == sum(content[16:])


def test_labels_are_decoded() -> None:
    labels = read_idx(payload("train-labels-idx1"), n_dims=1, origin="labels")
    assert labels.shape == (1500,)
    assert labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert np.bincount(labels).tolist() == [150] * 10


def test_every_corruption_is_named() -> None:
    content = payload("test-labels-idx1")
    cases = [
        (b"", r"header of 8 bytes, got 0"),
        (content[:7], r"header of 8 bytes, got 7"),
        (b"\1" + content[1:], r"magic 00000801 .*got 01000801"),
        (b"\0\0\x09\1" + content[4:], r"got 00000901"),
        (b"\0\0\x08\3" + content[4:], r"got 00000803"),
        (content[:-1], r"expected 508 bytes .*got 507"),
        (content + b"\0", r"expected 508 bytes .*got 509"),
        (content[:4] + bytes(4) + content[8:], r"dimensions above 0"),
        (content[:4] + b"\xff\xff\xff\xff" + content[8:], r"expected 4294967303 bytes"),
    ]
    for corrupt, message in cases:
        with pytest.raises(DataError, match=rf"^my file: {'.*' + message}"):
            read_idx(corrupt, n_dims=1, origin="my file")


def test_huge_dimensions_do_not_wrap_around() -> None:
    # 2**31 * 2**31 * 4 = 2**64, which is 0 in 64 bits: the length must not seem to fit.
    header = b"\0\0\x08\3" + b"\x80\0\0\0" * 2 + b"\0\0\0\4"
    with pytest.raises(DataError, match="expected 18446744073709551632 bytes"):
        read_idx(header, n_dims=3, origin="bomb")
