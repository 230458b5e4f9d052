import errno
import fcntl
from pathlib import Path

import pytest

from flows import plan as plan_module
from flows.config_file import load_config
from flows.plan import check_run_directory, make_plan, owned, stored_config
from flows.runs import RunError, find_run, list_runs, read_result
from workers.storage import write_json


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path))
    make_plan.cache_clear()


def digits_plan(*settings: str) -> plan_module.Plan:
    return make_plan(load_config(None, ["data.name=digits", *settings]))


def test_the_key_depends_on_what_decides_the_result_alone() -> None:
    key = digits_plan().run_key
    assert digits_plan("cluster.n_workers=2").run_key == key
    assert digits_plan("rbm.n_hidden=8").run_key != key
    assert digits_plan("bnn.seed=1").run_key != key
    assert digits_plan("data.seed=1").run_key != key


def test_the_plan_names_data_and_models() -> None:
    plan = digits_plan("bnn.widths=[8, 16]", "rbm.n_hidden=32")
    assert plan.title == "digits: binary convnet 8-16, RBM 64x32"
    assert (len(plan.data.train_labels), len(plan.data.test_labels)) == (1347, 450)
    assert not plan.is_started
    assert not plan.is_finished


def test_an_owned_run_can_be_found_resumed_and_set_aside() -> None:
    plan = digits_plan()
    with owned(plan, fresh=False):
        assert plan.is_started
        (plan.run_dir / "work").write_text("old")
    assert [run.state for run in list_runs()] == ["unfinished"]
    assert find_run("latest").run_key == find_run(plan.run_key[:5]).run_key == plan.run_key
    assert stored_config(find_run("latest"), {}) == plan.config
    with owned(plan, fresh=True):
        assert not (plan.run_dir / "work").exists()
    previous = plan.run_dir.with_name(f"{plan.run_key}.previous")
    assert (previous / "work").read_text() == "old"
    assert find_run("latest").run_key == plan.run_key


def test_a_finished_run_has_a_result() -> None:
    plan = digits_plan()
    with owned(plan, fresh=False), pytest.raises(RunError, match="bitspin resume"):
        read_result(find_run("latest"))
    write_json(plan.run_dir / "result.json", {"run_key": plan.run_key})
    assert plan.is_finished
    assert find_run("latest").state == "finished"
    assert read_result(find_run("latest")) == {"run_key": plan.run_key}


def test_a_run_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(RunError, match="found none; try bitspin run"):
        find_run("latest")
    with (
        owned(digits_plan(), fresh=False),
        pytest.raises(RunError, match="does not exist; the new"),
    ):
        find_run("zzz")


def test_two_processes_do_not_work_on_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_WAIT_SECONDS", 0.0)
    plan = digits_plan()
    with owned(plan, fresh=False):
        lock = (plan.run_dir.parent / f".{plan.run_key}.lock").open("w")
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (
            pytest.raises(RunError, match="another process is working on it"),
            owned(plan, fresh=False),
        ):
            pass
        lock.close()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RunError, match=r"expected to write to .*Not a directory; set BITSPIN_HOME"):
        check_run_directory(tmp_path / "file" / "runs")


def test_a_read_only_or_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_bytes", read_only)
        with pytest.raises(RunError, match="got: Read-only file system"):
            check_run_directory(tmp_path)
    monkeypatch.setattr(plan_module, "_FREE_BYTES", 1 << 60)
    with pytest.raises(RunError, match="MB free"):
        check_run_directory(tmp_path)
