"""A short run of the fuzzer; the long one is ``python tests/kernels/fuzz/run.py 1000000``."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "fuzz" / "run.py"


def test_damaged_models_are_refused_or_run_without_a_finding() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt-get install gcc")
    command = [sys.executable, str(RUN), "20000", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(n) for n, name in re.findall(r"(?m)^(\d+) (.+)$", done.stdout)}
    assert counts.pop("executed") == 20_000
    assert sum(counts.values()) == 20_000
    assert counts["no error"] > 1000  # accepted, and run
    assert len(counts) >= 15  # kinds of error
