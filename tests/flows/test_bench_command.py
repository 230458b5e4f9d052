"""``bitspin bench``: what it prints and how it fails."""

import sys
from pathlib import Path

import pytest

from flows import bench
from flows.cli import main
from kernels.errors import BackendUnavailable


@pytest.fixture
def bitspin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitspin", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.mark.parametrize("what", ["kernels", "bnn", "arm", "gpu"])
def test_each_explains_itself_with_an_example(bitspin, what: str) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin("bench", what, "--help")
    assert code == 0
    assert f"Example: bitspin bench {what}" in out


def test_peers_that_are_not_there_are_named(
    bitspin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(bench, "PEERS", tmp_path / "peers")
    with pytest.raises(BackendUnavailable, match="in a checkout"):
        bench.find_peers()
    code, out, err = bitspin("bench", "kernels", "--peers")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(tmp_path) in err


def test_peers_get_this_checkout_and_are_part_of_the_record(
    bitspin,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    script = "import json, kernels\nprint(json.dumps({'room': kernels.__name__}))\n"
    (tmp_path / "peer.py").write_text(script)
    calls = []
    monkeypatch.setattr("kernels.bench.print_kernels", lambda **options: calls.append(options))
    monkeypatch.setattr(bench, "find_peers", lambda: [tmp_path / "peer.py"])
    code, _, _ = bitspin("bench", "kernels", "--peers", "--quick", "--out", str(tmp_path))
    assert code == 0
    expected = {"quick": True, "as_json": False, "out": tmp_path, "peers": [{"room": "kernels"}]}
    assert calls == [expected]


def test_a_peer_that_fails_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text("import a_library_that_nobody_has")
    with pytest.raises(BackendUnavailable, match=r"nobody_has'; pip install -r .*requirements"):
        bench.run_peer(tmp_path / "peer.py")


@pytest.mark.parametrize("code", [0, 1])
def test_a_row_that_fails_on_a_gpu_is_a_failure_of_the_command(
    bitspin,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    calls = []

    def print_gpu(**options: object) -> int:
        calls.append(options)
        return code

    monkeypatch.setattr("kernels.bench_gpu.print_gpu", print_gpu)
    assert bitspin("bench", "gpu", "--json")[0] == code
    assert calls == [{"quick": False, "as_json": True, "out": None}]


class Report:
    """Stands in for the report of a bench that takes seconds."""

    packed_ms = 50.0

    def lines(self) -> list[str]:
        return ["a training step"]


def test_a_training_library_that_is_missing_is_said_and_the_others_are_timed(
    bitspin,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bnn"
    folder.mkdir()
    (folder / "a.py").write_text("import a_library_that_nobody_has")
    (folder / "b.py").write_text('print(\'{"library": "b", "step_ms": 75.0}\')')
    monkeypatch.setattr(bench, "PEERS", tmp_path)
    calls = []

    def run_training(**options: object) -> Report:
        calls.append(options)
        return Report()

    monkeypatch.setattr("bnn.bench.run_training", run_training)
    code, out, err = bitspin("bench", "bnn", "--peers", "--quick")
    assert code == 0
    assert calls == [{"quick": True}]
    assert out.splitlines() == ["a training step", "  b                 75.0 ms  (1.50 of bnn's)"]
    assert err.count("\n") == 1
    assert "left out: a.py: ModuleNotFoundError: No module named 'a_library_that_nobody_has'" in err
    assert bitspin("bench", "bnn")[1].splitlines() == ["a training step"]
