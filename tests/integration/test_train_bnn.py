"""``bitspin train bnn`` end to end on a small recipe: trained, taught, exported, verified, found."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.prefect, pytest.mark.arm, pytest.mark.slow]

TRAIN = (
    *("train", "bnn", "--recipe", "digits-mlp", "--tensorboard", "--json"),
    *("--set", "bnn.epochs=15", "--set", "bnn.widths=[64, 64]"),
    *("--set", "bnn.distillation_weight=0.5", "--set", "verify.n_arm_images=16"),
)
TIMEOUT_SECONDS = 300


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**environment, "BITSPIN_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def bitspin(home: Path, *arguments: str) -> str:
    done = run(home, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recipe_is_trained_verified_and_found_again(tmp_path: Path) -> None:
    record = json.loads(bitspin(tmp_path, *TRAIN))
    (found,) = record["runs"]
    # 98 % with the whole recipe; a few points of room for another order of float sums.
    assert found["test_accuracy"] >= 0.8
    assert found["integer_accuracy"] == pytest.approx(found["test_accuracy"], abs=0.01)
    assert found["class_agreement"] >= 0.99
    assert found["n_binary_weights"] == 64 * 64
    assert (found["host_mismatches"], found["arm_mismatches"]) == (0, 0)
    assert found["arm_images"] == 16
    assert found["host_images"] > 440
    assert found["changes"] == [
        "bnn.epochs = 15",
        "bnn.distillation_weight = 0.5",
        "bnn.widths = 64, 64",
    ]
    assert found["is_reproduced"] is None
    directory = tmp_path / "runs" / found["run_key"]
    result = json.loads((directory / "result.json").read_text())
    assert "rbm" not in result
    assert (directory / "tensorboard" / "train_bnn").is_dir()
    assert "Boltzmann" not in (directory / "report.html").read_text()
    started = [
        json.loads((directory / "steps" / step / "manifest.json").read_text())
        for step in ("train_twin", "train_bnn")
    ]
    assert all(step["values"]["n_steps"] > 0 for step in started)
    # Found again, not done again, and shown like any run.
    written = (directory / "result.json").stat().st_mtime_ns
    assert json.loads(bitspin(tmp_path, *TRAIN)) == record
    assert (directory / "result.json").stat().st_mtime_ns == written
    assert "recipe digits-mlp" in bitspin(tmp_path, "show", "latest")


def test_a_training_that_is_not_finite_is_one_line_and_not_tried_again(tmp_path: Path) -> None:
    """The twin's weights are infinite after a step; two workers meet it at once."""
    settings = ("bnn.learning_rate=9e5", "bnn.steps=3", "cluster.n_workers=2")
    options = [word for setting in settings for word in ("--set", setting)]
    done = run(tmp_path, "train", "bnn", "--recipe", "digits-mlp", *options)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("bitspin: ")]
    assert re.search(r"NotFiniteError: .*not finite at step \d+; lower learning_rate", line)
    assert done.stderr.count("not finite") == 1
