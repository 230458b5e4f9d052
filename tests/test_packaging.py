"""The five rooms come from one place and keep to themselves."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOMS = ("flows", "workers", "bnn", "rbm", "kernels")
FORBIDDEN = ("ray", "prefect", "pydantic", "sklearn", "cupy", "matplotlib", "scipy")


def test_all_rooms_come_from_one_place() -> None:
    parents = {Path(str(import_module(room).__file__)).parents[1] for room in ROOMS}
    assert len(parents) == 1
    assert (parents.pop() / "kernels" / "layout.py").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_typed(room: str) -> None:
    assert (Path(str(import_module(room).__file__)).parent / "py.typed").is_file()


def test_the_mathematics_needs_numpy_and_torch_alone() -> None:
    script = (
        "import sys, kernels, bnn, rbm;"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_mathematics_imports_where_nothing_else_is_installed() -> None:
    """Every other third-party package is made unimportable, as on a bare GPU machine."""
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
import kernels, bnn, rbm, workers.datasets
print("fine")
""".format(forbidden=(*FORBIDDEN, "typer", "rich", "safetensors", "pyarrow", "jinja2"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


def test_importing_kernels_starts_no_gpu() -> None:
    script = "import kernels, torch; print(torch.cuda.is_initialized())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
