"""The command line as a person meets it: one clear line and the right exit code."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bnn
from flows.cli import main
from flows.config_file import load_config
from flows.exits import ExitCode, VerificationError, exit_code_of
from flows.plan import make_plan, owned
from kernels import read_model
from kernels.backends import available_backends


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
    [
        "run",
        "runs",
        "show",
        "predict",
        "doctor",
        "export",
        "resume",
        "data list",
        "data get",
        "train bnn",
    ],
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
    "unknown command": (["trian"], "no such command 'trian'"),
    "nothing to predict with": (["predict"], "missing argument 'MODEL'; see "),
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


def test_a_group_without_a_command_shows_its_help(bitspin) -> None:  # type: ignore[no-untyped-def]
    code, out, err = bitspin("train")
    assert code in (0, 2)  # click has changed its mind
    assert "Train one kind of model alone" in out + err
    assert "bnn" in out + err
    assert "bitspin: " not in out + err


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


def started_run(home: Path) -> Path:
    """A run on disk that has exported a model and not finished."""
    net = bnn.BinaryConvNet((4, 4, 1), 3, widths=(8,))
    with owned(make_plan(load_config(None, ["data.name=digits"])), fresh=False):
        (run_dir,) = (home / "runs").glob("*/")
        bnn.export(net, run_dir / "model.bspn")
    return run_dir


def test_export_writes_a_model_and_refuses_a_corrupt_one(bitspin, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = started_run(tmp_path / "home") / "model.bspn"
    out = tmp_path / "out"
    code, _, err = bitspin("export", "latest", "--target", "x86_64-linux", "--out", str(out))
    assert code == 0, err
    for name in ("libbitspin.so", "libbitspin.a", "bitspin.h", "example.c", "SHA256SUMS"):
        assert (out / name).is_file()
    shipped = read_model((out / "model.bspn").read_bytes())
    assert shipped == read_model(model.read_bytes())
    again = tmp_path / "again"
    code, _, err = bitspin("export", str(model), "--target", "x86_64-linux", "--out", str(again))
    assert code == 0, err
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in out.iterdir()
    }
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    code, _, err = bitspin("export", "latest", "--target", "x86_64-linux", "--out", str(out))
    assert code == 2
    assert err.count("\n") == 1
    assert "crc" in err or "checksum" in err


def test_export_to_an_unknown_target_lists_the_known_ones(bitspin) -> None:  # type: ignore[no-untyped-def]
    code, _, err = bitspin("export", "latest", "--target", "toaster")
    assert code == 2
    assert "expected one of x86_64-linux, aarch64-linux" in err


def test_a_run_of_other_code_is_not_continued_unasked(
    bitspin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    key = started_run(tmp_path / "home").name
    monkeypatch.setattr("workers.identity.code_digest", lambda: "changed since")
    make_plan.cache_clear()
    code, _, err = bitspin("resume", "latest")
    assert code == 2
    assert f"run {key}: expected the code" in err
    assert "--allow-code-change" in err
    done = []
    monkeypatch.setattr("flows.execute.execute", lambda plan, fresh: done.append(plan))
    assert bitspin("resume", "latest", "--allow-code-change")[0] == 0
    assert [(plan.run_key, plan.run_dir.name) for plan in done] == [(key, key)]


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
    assert f", of {', '.join(available_backends())}" in findings["kernels"]["detail"]
    assert findings["cycle model"]["is_present"] or "llvm" in findings["cycle model"]["remedy"]
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
    capsys.readouterr()
    assert exit_code_of(OSError(28, "No space left on device")) is ExitCode.BAD_INPUT == 2
    assert "No space left on device; make room" in capsys.readouterr().err
    assert exit_code_of(ZeroDivisionError("oh")) is ExitCode.FAILED == 1
    line = capsys.readouterr().err
    log = Path(line.rsplit(": ", 1)[1].rstrip(")\n"))
    assert "ZeroDivisionError: oh" in log.read_text()
    log.unlink()
