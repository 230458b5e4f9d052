import subprocess
import sys

import rbm


def test_public_names_exist_and_are_sorted_without_repeats() -> None:
    assert len(set(rbm.__all__)) == len(rbm.__all__)
    assert all(hasattr(rbm, name) for name in rbm.__all__)


def test_import_needs_no_cluster_and_no_learn() -> None:
    code = (
        "import sys, rbm; "
        "print([m for m in ('ray', 'prefect', 'pydantic', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
