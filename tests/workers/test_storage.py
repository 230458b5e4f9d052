import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from workers import storage


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_has_sorted_keys_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    storage.write_json(path, {"b": 1, "a": [1.5, None, "é"]})
    assert path.read_text() == '{\n  "a": [\n    1.5,\n    null,\n    "é"\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(path, {"a": float("nan")})
    assert storage.read_json(path)["b"] == 1


@pytest.mark.parametrize(("content", "word"), [("{", "expected JSON"), ("[1]", "JSON object")])
def test_what_is_not_a_json_object_is_refused_by_name(
    tmp_path: Path, content: str, word: str
) -> None:
    path = tmp_path / "value.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"value\.json: .*{word}"):
        storage.read_json(path)


def test_arrays_come_back_and_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.int64).reshape(2, 3).T, "a": np.ones(2, np.float32)}
    storage.write_arrays(tmp_path / "one", arrays)
    storage.write_arrays(tmp_path / "two", dict(reversed(arrays.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = storage.read_arrays(tmp_path / "one")
    assert back["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert json.dumps(sorted(back)) == '["a", "b"]'
