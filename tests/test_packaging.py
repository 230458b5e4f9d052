"""The five rooms come from one place and keep to themselves."""

import re
import subprocess
import sys
import tarfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files of the source distribution, from its folder on."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is missing: pip install hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    script = f"from hatchling.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    (archive,) = folder.glob("bitspin-*.tar.gz")
    with tarfile.open(archive) as files:
        return {name.partition("/")[2] for name in files.getnames()}


def test_a_source_archive_has_the_guides_that_its_tests_read(source_archive: set[str]) -> None:
    guides = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert guides >= {"docs/bnn.md", "docs/features.md", "docs/performance.md"}
    assert source_archive >= guides
    assert source_archive >= {"tests/test_features.py", "pyproject.toml", "hatch_build.py"}
    assert not [name for name in source_archive if ".venv" in name or "__pycache__" in name]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{n}.md" for n in ("bnn", "performance"))])
def test_a_source_archive_has_what_its_pages_show(source_archive: set[str], page: str) -> None:
    text = (ROOT / page).read_text()
    folder = Path(page).parent
    targets = {str(folder / link) for link in re.findall(r"\]\(([\w/-]+\.\w+)\)", text)}
    assert targets
    assert sorted(targets - source_archive) == []
