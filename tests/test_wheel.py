"""A wheel brings compiled libraries: whoever installs it needs no compiler."""

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from kernels.targets import HOSTS, TARGETS, host_target

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.arm, pytest.mark.slow]

# As where the wheel is installed and nothing else: no zig, no compiler, no source tree.
_USE = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "ziglang" else find_spec(name, *more)
import kernels.build
from kernels.build import build_library
from kernels.host import host_library
print(kernels.build.__file__)
for target, kind in (("host", "shared"), ("aarch64-linux", "shared"), ("aarch64-android", "static")):
    print(build_library(target, kind=kind))
print(host_library().call("bsk_backends") & 1)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module, package in (("hatchling", "hatchling"), ("ziglang", "bitspin[arm]")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install '{package}'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    flags = ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(folder)]
    done = subprocess.run([*command, *flags, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_is_for_every_machine_and_brings_every_library(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name, target in TARGETS.items():
        assert f"kernels/lib/{name}/runtime/{target.library}" in names
        if target.archive:
            assert f"kernels/lib/{name}/runtime/{target.archive}" in names
        has_kernels = f"kernels/lib/{name}/kernels/{target.library}" in names
        assert has_kernels == (name in HOSTS.values())
    for path in ("kernels/c/run.c", "kernels/c/bitspin.h", "kernels/templates/example.c"):
        assert path in names
    assert not [name for name in names if name.startswith("tests/")]


def test_its_libraries_are_used_without_any_compiler(wheel: Path, tmp_path: Path) -> None:
    if host_target() is None:
        pytest.skip("not a machine that kernels are built for")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PATH": "", "PYTHONPATH": str(tmp_path / "site")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CC": ""}
    done = subprocess.run(
        [sys.executable, "-c", _USE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, *libraries, runs = done.stdout.split()
    lib = tmp_path / "site" / "kernels" / "lib"
    assert module == str(lib.parent / "build.py")
    assert libraries == [
        str(lib / str(host_target()) / "runtime" / TARGETS[str(host_target())].library),
        str(lib / "aarch64-linux" / "runtime" / "libbitspin.so"),
        str(lib / "aarch64-android" / "runtime" / "libbitspin.a"),
    ]
    assert runs == "1"
    assert not (tmp_path / "cache").exists()


def test_only_a_wheel_asks_for_zig() -> None:
    """Called as pip calls it, in a process of its own."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is missing: pip install 'bitspin[test]'")
    script = (
        "import hatch_build as b, os;"
        "print(b.get_requires_for_build_wheel(), b.get_requires_for_build_editable());"
        "os.environ['BITSPIN_PURE_WHEEL'] = '1'; print(b.get_requires_for_build_wheel())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, pure = done.stdout.splitlines()
    arm = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (zig,) = (line for line in arm["arm"] if line.startswith("ziglang"))
    assert zig in first.partition("]")[0]
    assert zig not in first.partition("]")[2]
    assert pure == "[]"
