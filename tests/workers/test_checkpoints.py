import shutil
from pathlib import Path

import pytest
import torch

from workers.checkpoints import CheckpointStore
from workers.records import load_record, save_record


def state(step: int) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    return {"weights": torch.full((2, 3), float(step))}, {"step": step, "sweep": 7}


def filled(directory: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(directory)
    for step in steps:
        store.save(step, *state(step))
    return store


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None
    assert store.latest_step() == 0


def test_the_newest_comes_back_and_the_oldest_go(tmp_path: Path) -> None:
    store = filled(tmp_path, 5, 10, 100)
    latest = store.latest()
    assert latest is not None
    assert latest.step == 100
    assert latest.counters == {"step": 100, "sweep": 7}
    assert torch.equal(latest.tensors["weights"], torch.full((2, 3), 100.0))
    assert sorted(d.name for d in tmp_path.iterdir()) == ["0000000010", "0000000100"]


@pytest.mark.parametrize("damage", ["no manifest", "cut tensors", "flipped bit", "torn manifest"])
def test_a_damaged_checkpoint_does_not_exist(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path, 1, 2)
    manifest = tmp_path / "0000000002" / "manifest.json"
    tensors = tmp_path / "0000000002" / "tensors.safetensors"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "flipped bit":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    else:
        manifest.write_bytes(manifest.read_bytes()[:20])
    assert store.latest_step() == 1


def test_saving_a_step_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path / "a", 3)
    filled(tmp_path / "b", 3, 3)
    for name in ("manifest.json", "tensors.safetensors"):
        path = Path("0000000003") / name
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 1)

    def full(directory: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.records.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, *state(2))
    assert store.latest_step() == 1


def test_n_keep_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_keep: expected at least 1, got 0"):
        CheckpointStore(tmp_path, n_keep=0)


def test_a_record_holds_values_and_tensors(tmp_path: Path) -> None:
    save_record(tmp_path / "r", {"kl": 0.25, "names": ["a"]}, {"t": torch.arange(3)})
    record = load_record(tmp_path / "r")
    assert record is not None
    assert record.values == {"kl": 0.25, "names": ["a"]}
    assert record.tensors["t"].tolist() == [0, 1, 2]
    shutil.rmtree(tmp_path / "r")
    assert load_record(tmp_path / "r") is None
