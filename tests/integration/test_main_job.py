"""The main job end to end on small models: result, resume after a kill, workers, exit codes.

Each run starts Prefect's embedded server and a local Ray, as a user's does.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels import read_model
from workers.progress import read_progress

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.arm, pytest.mark.slow]

SMALL = {
    "data.name": "digits",
    "bnn.epochs": 15,
    "rbm.epochs": 350,
    "rbm.n_hidden": 32,
    "rbm.n_temperatures": 200,
    "qbm.n_steps": 40,
    "qbm.n_classical_steps": 40,
    "verify.n_arm_images": 16,
    "cluster.checkpoint_seconds": 0.5,
}
REQUIRED = {
    "bnn": ("test_accuracy", "twin_accuracy", "floor_accuracy"),
    "rbm": ("test_log_likelihood", "log_likelihood_stderr"),
    "tbm": ("kl",),
    "qbm": ("kl",),
    "bm": ("kl",),
    "export": ("bytes",),
    "verify": (
        "host_images",
        "host_mismatches",
        "arm_images",
        "arm_mismatches",
        "arm_instructions_per_image",
    ),
}
TIMEOUT_SECONDS = 300


def start(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "flows.cli", arguments[0]]
    # Where the tests run in the background of a shell, Ctrl-C is ignored and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [*command, *(settings if arguments[0] == "run" else []), *arguments[1:]],
        env={**environment, "BITSPIN_HOME": str(home)},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        stacks = subprocess.run(
            [Path(sys.executable).with_name("py-spy"), "dump", "--pid", str(process.pid)],
            capture_output=True,
            text=True,
        )
        kill_session(process)
        raise AssertionError(f"not over after {TIMEOUT_SECONDS} s: {stacks.stdout}") from None
    return process.returncode, out, err


def kill_session(process: subprocess.Popen[str]) -> None:
    """SIGKILL every process of the run: the driver, the server, Ray, its workers."""
    process.kill()
    process.communicate(timeout=60)  # returns only if the server ends with its driver
    for pid in members(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number, *_ = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def the_run(home: Path) -> Path:
    (path,) = (p.parent for p in (home / "runs").glob("*/run.json") if p.parent.suffix == "")
    return path


def weights_digests(home: Path) -> dict[str, str]:
    """Of everything that was trained: what ships, and the weights behind it."""
    paths = {"model": the_run(home) / "model.bspn"}
    for step in ("train_bnn", "train_twin", "train_rbm", "train_qbm"):
        paths[step] = the_run(home) / "steps" / step / "tensors.safetensors"
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(home, "run"))
    assert code == 0, err
    assert "Traceback" not in out + err
    assert "Warning" not in out + err
    yield home
    shutil.rmtree(home)


def test_the_result_holds_every_promised_figure(undisturbed: Path) -> None:
    code, out, _ = finish(start(undisturbed, "show", "latest", "--json"))
    result = json.loads(out)
    assert code == 0
    for section, names in REQUIRED.items():
        for name in names:
            assert isinstance(result[section][name], int | float), (section, name)
    assert result["run_key"] == the_run(undisturbed).name
    assert result["verify"]["host_images"] == 450
    assert result["verify"]["host_mismatches"] == 0
    assert result["verify"]["arm_images"] == 16
    assert result["verify"]["arm_mismatches"] == 0
    assert result["bnn"]["test_accuracy"] >= 0.93
    assert result["bnn"]["test_accuracy"] == result["bnn"]["integer_accuracy"]
    assert result["rbm"]["test_log_likelihood"] > result["rbm"]["floor_log_likelihood"] + 3
    assert set(result["seconds"]) >= {"prepare data", "train binary network", "report", "total"}
    for picture in result["pictures"]:
        assert (the_run(undisturbed) / picture["file"]).stat().st_size > 1000
    assert (the_run(undisturbed) / "report.html").is_file()


def test_a_finished_run_is_shown_and_not_done_again(undisturbed: Path) -> None:
    before = (the_run(undisturbed) / "result.json").stat().st_mtime_ns
    code, out, _ = finish(start(undisturbed, "run"))
    assert code == 0
    assert "is finished; do it again with --fresh" in out
    assert (the_run(undisturbed) / "result.json").stat().st_mtime_ns == before


def test_export_writes_what_a_phone_needs(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "phone"
    code, _, err = finish(
        start(undisturbed, "export", "latest", "--target", "aarch64-android", "--out", str(out))
    )
    assert code == 0, err
    sums = dict(reversed(line.split()) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert sorted(sums) == [
        "Bitspin.java",
        "CMakeLists.txt",
        "README.txt",
        "benchmark.c",
        "bitspin.h",
        "bitspin_jni.c",
        "example.c",
        "libbitspin.a",
        "libbitspin.so",
        "model.bspn",
    ]
    for name, digest in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    # Packed for the phone's processor, the same model all the same.
    shipped = read_model((out / "model.bspn").read_bytes())
    assert shipped == read_model((the_run(undisturbed) / "model.bspn").read_bytes())


def test_a_mismatch_fails_the_run_with_exit_code_3(undisturbed: Path) -> None:
    """As if the emulated binary had answered two images differently."""
    manifest = the_run(undisturbed) / "steps" / "verify_arm" / "manifest.json"
    original = manifest.read_text()
    record = json.loads(original)
    record["values"]["arm_mismatches"] = 2
    result = the_run(undisturbed) / "result.json"
    try:
        manifest.write_text(json.dumps(record))
        result.unlink()
        for _ in ("the run that finds it", "the finished run, asked again"):
            code, out, err = finish(start(undisturbed, "run"))
            assert code == 3
            assert "got 2 different outputs on 16 images" in err
            assert "report.html" in out
    finally:
        manifest.write_text(original)
        result.unlink()


def test_afresh_on_two_workers_it_ships_the_same_bytes(undisturbed: Path) -> None:
    run, digests = the_run(undisturbed), weights_digests(undisturbed)
    code, _, err = finish(start(undisturbed, "run", "--fresh", "--set", "cluster.n_workers=2"))
    assert code == 0, err
    assert the_run(undisturbed) == run
    assert run.with_name(f"{run.name}.previous").is_dir()
    assert json.loads((run / "result.json").read_text())["bnn"]["n_workers"] == 2
    assert weights_digests(undisturbed) == digests


def test_killed_in_training_it_resumes_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "run")
    wait_for_training(process, tmp_path)
    kill_session(process)
    assert not list((tmp_path / "runs").glob("*/result.json"))
    code, _, err = finish(start(tmp_path, "run"))
    assert code == 0, err
    assert re.search("resuming: .*train RBM: from step [1-9]", err)
    assert weights_digests(tmp_path) == weights_digests(undisturbed)


def test_a_killed_worker_is_replaced_and_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "run")
    wait_for_training(process, tmp_path)
    for pid in members(process.pid):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::train RBM"):
            os.kill(pid, signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    manifest = json.loads((the_run(tmp_path) / "steps/train_rbm/manifest.json").read_text())
    assert manifest["values"]["resumed_from_step"] > 0
    assert weights_digests(tmp_path) == weights_digests(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=330m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk of 330 MB is missing: mounting one needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    try:
        with path.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(1 << 20))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def test_a_disk_that_fills_up_is_one_line_and_costs_nothing(
    undisturbed: Path, small_disk: Path
) -> None:
    process = start(small_disk, "run")
    wait_for_training(process, small_disk)
    filler = small_disk / "filler"
    fill(filler)
    code, _, err = finish(process)
    assert code == 2
    assert "No space left on device; make room" in err
    assert "Traceback" not in err
    filler.unlink()
    code, _, err = finish(start(small_disk, "resume", "latest"))
    assert code == 0, err
    assert weights_digests(small_disk) == weights_digests(undisturbed)


def test_on_a_running_cluster_it_ships_the_same_bytes(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    options = ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    head = subprocess.Popen(
        [Path(sys.executable).with_name(command[0]), *command[1:], *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        wait_for_port(head, port)
        code, _, err = finish(start(tmp_path, "run", "--ray-address", f"127.0.0.1:{port}"))
    finally:
        kill_session(head)
    assert code == 0, err
    assert the_run(tmp_path).name == the_run(undisturbed).name
    assert weights_digests(tmp_path) == weights_digests(undisturbed)


def test_ctrl_c_stops_everything_and_says_how_to_resume(undisturbed: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "run")
    wait_for_training(process, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert f"bitspin resume {the_run(tmp_path).name}" in err
    assert "Traceback" not in err
    assert not members(process.pid)
    code, _, err = finish(start(tmp_path, "resume", the_run(tmp_path).name[:6]))
    assert code == 0, err
    assert "resuming: " in err
    assert weights_digests(tmp_path) == weights_digests(undisturbed)


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    """Return once somebody listens on the port."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the cluster ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the cluster did not start")


def wait_for_training(process: subprocess.Popen[str], home: Path) -> None:
    """Return once the RBM's training has been saved and is not over."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        saved = list((home / "runs").glob("*/checkpoints/train_rbm/*/manifest.json"))
        if saved:
            events = read_progress(the_run(home) / "progress" / "train_rbm.jsonl")
            assert events[-1]["step"] < events[-1]["n_steps"], "too short to be killed in"
            return
        time.sleep(0.1)
    raise AssertionError("training did not begin")
