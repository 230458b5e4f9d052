"""The command line as a person meets it: one clear line and the right exit code."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import main
from flows.exits import ExitCode, VerificationError, exit_code_of
from flows.plan import make_plan


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BITSPIN_OFFLINE", "1")
    make_plan.cache_clear()


@pytest.fixture
def bitspin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitspin", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def test_version(bitspin) -> None:  # type: ignore[no-untyped-def]
    from kernels.version import __version__

    assert bitspin("--version") == (0, f"bitspin {__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    ["run", "runs", "show", "doctor", "export", "resume", "data list", "data get"],
)
def test_every_command_explains_itself_with_an_example(bitspin, command: str) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin(*command.split(), "--help")
    assert code == 0
    assert f"Example: bitspin {command}" in out


def test_help_does_not_load_what_is_heavy() -> None:
    script = (
        "import sys; sys.argv = ['bitspin', '--help']\n"
        "from flows.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'prefect', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


BAD_INPUT = {
    "unknown key": (["run", "--set", "bnn.epoch=3"], "did you mean bnn.epochs?"),
    "wrong type": (["run", "--set", "bnn.epochs=many"], "bnn.epochs: "),
    "missing configuration": (["run", "nothing.toml"], "nothing.toml: expected a TOML file"),
    "missing data": (["run", "--data", "nothing.npz"], "nothing.npz"),
    "unknown data set": (["run", "--set", "data.name=mnits"], "mnist"),
    "unreachable cluster": (
        ["run", "--set", "data.name=digits", "--ray-address", "127.0.0.1:1"],
        "expected a cluster at 127.0.0.1:1",
    ),
    "bad address": (["run", "--ray-address", "auto"], "expected local, host:port"),
    "no run": (["show", "latest"], "found none; try bitspin run"),
    "no run to resume": (["resume", "latest"], "found none"),
    "no run to export": (["export", "latest"], "found none"),
    "unknown set": (["data", "get", "nothing"], "nothing"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(bitspin, case: str) -> None:  # type: ignore[no-untyped-def]
    arguments, words = BAD_INPUT[case]
    started = time.monotonic()
    code, out, err = bitspin(*arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("bitspin: ")
    assert words in lines[0]
    assert time.monotonic() - started < 30


def test_a_corrupt_data_file_is_named_with_its_hash(
    bitspin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"not digits"))
    monkeypatch.setenv("BITSPIN_DATA", str(tmp_path / "data"))
    code, _, err = bitspin("run", "--set", "data.name=mnist")
    assert code == 2
    assert err.count("\n") == 1
    assert "sha256" in err
    assert str(folder) in err


def test_a_run_directory_that_is_a_file_is_exit_code_2(
    bitspin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("BITSPIN_HOME", str(tmp_path / "occupied"))
    code, _, err = bitspin("run", "--set", "data.name=digits")
    assert code == 2
    assert "set BITSPIN_HOME" in err


def test_a_dry_run_starts_nothing(bitspin, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin("run", "--dry-run", "--set", "data.name=digits")
    assert code == 0
    assert "data: digits" in out
    assert "train binary network" in out
    assert "(new)" in out
    assert not list((tmp_path / "home" / "runs").glob("*/run.json"))


def test_doctor_and_data_list_speak_json(bitspin) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = bitspin("doctor", "--json")
    assert code == 0
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert findings["Python"]["is_present"]
    assert all(f["is_present"] or f["remedy"] or f["what"] == "GPU" for f in findings.values())
    code, out, _ = bitspin("data", "list", "--json")
    assert code == 0
    assert {"digits", "mnist", "fashion-mnist"} <= {record["name"] for record in json.loads(out)}


def test_no_runs_yet_is_not_an_error(bitspin) -> None:  # type: ignore[no-untyped-def]
    assert bitspin("runs", "--json") == (0, "[]\n", "")
    code, out, _ = bitspin("runs")
    assert code == 0
    assert "bitspin run" in out


def test_exit_codes_of_what_can_go_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(VerificationError("3 differ")) is ExitCode.MISMATCH == 3
    assert exit_code_of(KeyboardInterrupt()) is ExitCode.INTERRUPTED == 130
    assert exit_code_of(OSError(28, "No space left on device")) is ExitCode.BAD_INPUT == 2
    capsys.readouterr()
    assert exit_code_of(ZeroDivisionError("oh")) is ExitCode.FAILED == 1
    line = capsys.readouterr().err
    log = Path(line.rsplit(": ", 1)[1].rstrip(")\n"))
    assert "ZeroDivisionError: oh" in log.read_text()
    log.unlink()
