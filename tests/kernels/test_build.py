"""Libraries that load anywhere: no libc, no surprises, the same bytes from every folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import BackendUnavailable, build
from kernels.build import TARGETS, build_library

MAX_BYTES = 64 * 1024
API = {
    "bs_arena_bytes",
    "bs_input_bytes",
    "bs_open",
    "bs_output_count",
    "bs_run",
    "bs_strerror",
    "bs_version",
}


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)


def _symbols(library: Path) -> tuple[set[str], set[str]]:
    """Names that the library defines and that it leaves open."""
    elffile = pytest.importorskip(
        "elftools.elf.elffile", reason="pyelftools (extra arm) is missing"
    )
    with library.open("rb") as stream:
        elf = elffile.ELFFile(stream)
        names: tuple[set[str], set[str]] = (set(), set())
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols():
            if symbol.name:
                names[symbol["st_shndx"] == "SHN_UNDEF"].add(symbol.name)
        dynamic = elf.get_section_by_name(".dynamic")
        assert not [tag for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
    return names


@pytest.mark.parametrize(
    "target", ["host", *(pytest.param(t, marks=pytest.mark.arm) for t in TARGETS)]
)
def test_libraries_are_small_and_need_nothing(target: str) -> None:
    library = build_library(target)
    assert library.name == "libbitspin.so"
    assert library.stat().st_size <= MAX_BYTES
    defined, undefined = _symbols(library)
    assert defined == API
    assert undefined == set()


@pytest.mark.parametrize("target", ["host", pytest.param("aarch64-linux", marks=pytest.mark.arm)])
def test_bytes_do_not_depend_on_the_folder(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    for name in ("a", "a-much-longer-name"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name / "cache"))
        monkeypatch.setattr(build, "SOURCES", tmp_path / name / "c")
        shutil.copytree(Path(build.__file__).parent / "c", tmp_path / name / "c")
        library = build_library(target)
        assert library.is_relative_to(tmp_path / name / "cache" / "bitspin" / "native")
        built.append(library.read_bytes())
    assert built[0] == built[1]


def test_the_cache_answers_until_a_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled: list[Path] = []

    def compile_nothing(_compiler: object, library: Path) -> None:
        library.parent.mkdir(parents=True)
        library.write_bytes(b"library")
        compiled.append(library)

    monkeypatch.setattr(build, "_compile", compile_nothing)
    sources = tmp_path / "c"
    shutil.copytree(build.SOURCES, sources)
    monkeypatch.setattr(build, "SOURCES", sources)
    assert build_library() == build_library()
    assert len(compiled) == 1
    (sources / "run.c").write_text("/* changed */")
    assert build_library() != compiled[0]


def test_out_is_a_copy(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "phone.so"
    out.write_bytes(b"older")
    assert build_library("host", out=out) == out
    assert out.read_bytes() == library.read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="target: expected host or one of x86_64-linux, aarch64"):
        build_library("riscv")


@pytest.mark.usefixtures("no_zig")
def test_without_any_compiler_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(
        BackendUnavailable, match=r"no C compiler found; .*pip install 'bitspin\[arm\]'"
    ):
        build_library("host")


@pytest.mark.usefixtures("no_zig")
def test_a_phone_needs_zig() -> None:
    with pytest.raises(BackendUnavailable, match=r"zig is missing; pip install 'bitspin\[arm\]'"):
        build_library("aarch64-android")


@pytest.mark.usefixtures("no_zig")
def test_the_system_compiler_serves_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no system compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    defined, undefined = _symbols(build_library("host"))
    assert defined == API
    assert undefined == set()


def test_a_failing_compiler_gives_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "broken.c").write_text("#error no such thing\n")
    with pytest.raises(BackendUnavailable, match="compiling failed: ") as caught:
        build_library("host")
    assert "\n" not in str(caught.value)


def test_an_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BackendUnavailable, match="set XDG_CACHE_HOME to a writable folder"):
        build_library("host")


def test_command_prints_the_path(library: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "kernels.build"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"{library}\n"
