"""Rooms on another device, without a GPU: elsewhere.py says how."""

import os
import subprocess
import sys
from pathlib import Path


def test_trainings_and_evaluations_stay_on_their_device() -> None:
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "tests/elsewhere.py"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
