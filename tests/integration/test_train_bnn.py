"""``bitspin train bnn`` end to end on a small recipe: trained, taught, exported, verified, found."""

import json
import os
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


def bitspin(home: Path, *arguments: str) -> str:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**environment, "BITSPIN_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_a_recipe_is_trained_verified_and_found_again(tmp_path: Path) -> None:
    record = json.loads(bitspin(tmp_path, *TRAIN))
    (run,) = record["runs"]
    # 97 % with the whole recipe; a logistic regression has about 95 % of such splits.
    assert run["test_accuracy"] >= 0.85
    assert run["integer_accuracy"] == pytest.approx(run["test_accuracy"], abs=0.01)
    assert run["class_agreement"] >= 0.99
    assert run["n_binary_weights"] == 64 * 64
    assert (run["host_mismatches"], run["arm_mismatches"]) == (0, 0)
    assert run["arm_images"] == 16
    assert run["host_images"] > 440
    assert run["changes"] == [
        "bnn.epochs = 15",
        "bnn.distillation_weight = 0.5",
        "bnn.widths = 64, 64",
    ]
    assert run["is_reproduced"] is None
    directory = tmp_path / "runs" / run["run_key"]
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
