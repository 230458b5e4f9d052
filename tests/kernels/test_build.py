"""Where a library comes from: the package, the cache, or a compiler; and what is said without one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import BackendUnavailable, build, compilers, targets
from kernels.build import build_library, package_libraries
from kernels.compilers import Compiler, find_compiler
from kernels.targets import TARGETS, host_target


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def no_compiler(no_zig: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was compiled, by a compiler that writes down its name; sources are a copy."""
    done: list[Path] = []

    def compile_nothing(compiler: Compiler, recipe: object, library: Path) -> None:
        library.parent.mkdir(parents=True)
        library.write_text(repr((compiler, recipe)))
        done.append(library)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_compile", compile_nothing)
    monkeypatch.setattr(build, "PACKAGED", tmp_path / "none")
    shutil.copytree(build.SOURCES, tmp_path / "c")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "c")
    return done


def test_the_cache_answers_until_a_source_changes(compiled: list[Path]) -> None:
    assert build_library() == build_library()
    assert len(compiled) == 1
    for name in ("run.c", "tile.h", "host/backends.c", "new.c"):
        with (build.SOURCES / name).open("a") as source:
            source.write("/* changed */\n")
        build_library()
        assert build_library() == compiled[-1]
    assert len(set(compiled)) == len(compiled) == 5


def test_the_cache_knows_every_flag(compiled: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    build_library()
    build_library(part="kernels")
    build_library(kind="static")
    monkeypatch.setattr(build, "_COMPILE_FLAGS", (*build._COMPILE_FLAGS, "-funroll-loops"))
    build_library()
    links = {kind: (*flags, "-Wl,-z,now") for kind, flags in build._LINK_FLAGS.items()}
    monkeypatch.setattr(build, "_LINK_FLAGS", links)
    build_library()
    find = find_compiler
    monkeypatch.setattr(
        build, "find_compiler", lambda t: Compiler(find(t).target, ("cc",), ("ar",), "newer")
    )
    build_library()
    assert len(set(compiled)) == len(compiled) == 6
    assert "-ffp-contract=off" in compiled[0].read_text()


def test_out_is_a_copy(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "phone.so"
    out.write_bytes(b"older")
    assert build_library("host", out=out) == out
    assert out.read_bytes() == library.read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="target: expected host or one of x86_64-linux, aarch64"):
        build_library("riscv")


def test_a_web_page_has_no_use_for_an_archive() -> None:
    with pytest.raises(ValueError, match="kind: expected shared for wasm32"):
        build_library("wasm32", kind="static")


@pytest.mark.usefixtures("no_compiler")
def test_without_any_compiler_the_way_out_is_named() -> None:
    with pytest.raises(
        BackendUnavailable, match=r"no C compiler found; .*pip install 'bitspin\[arm\]'"
    ):
        build_library("host")


@pytest.mark.usefixtures("no_zig")
def test_a_phone_needs_zig() -> None:
    with pytest.raises(BackendUnavailable, match=r"zig is missing; pip install 'bitspin\[arm\]'"):
        build_library("aarch64-android")


@pytest.mark.usefixtures("no_zig")
def test_an_unknown_host_is_told_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.platform, "machine", lambda: "riscv64")
    with pytest.raises(BackendUnavailable, match=r"expected one of linux on x86_64, .* riscv64"):
        build_library("host")


@pytest.mark.usefixtures("no_zig")
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_the_system_compiler_serves_this_machine(
    kind: build.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no system compiler")
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is missing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = build_library("host", kind=kind)
    if kind == "static":
        assert library.read_bytes().startswith(b"!<arch>\n")
        return
    with library.open("rb") as stream:
        symbols = elffile.ELFFile(stream).get_section_by_name(".dynsym").iter_symbols()
        is_open = {s.name: s["st_shndx"] == "SHN_UNDEF" for s in symbols if s.name}
    assert "bs_run" in is_open
    assert not any(is_open.values())


_FAKE_CC = """#!{python}
import pathlib, sys
if "--version" in sys.argv:
    print("Apple clang version 16.0.0 (clang-1600.0.26.6)")
else:
    out = sys.argv[sys.argv.index("-o") + 1]
    pathlib.Path(out).write_text(" ".join(sys.argv[1:]))
"""


@pytest.mark.usefixtures("no_zig")
def test_a_mac_builds_with_the_compiler_of_its_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine's word: only the commands are tested here, not what they do."""
    for name in ("cc", "libtool"):
        (tmp_path / name).write_text(_FAKE_CC.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(targets.platform, "machine", lambda: "arm64")
    assert host_target() == "aarch64-macos"
    library = build_library("host")
    assert library.name == "libbitspin.dylib"
    command = library.read_text().split()
    for flag in ("-dynamiclib", "-lSystem", "-Wl,-install_name,@rpath/libbitspin.dylib", "run.c"):
        assert flag in command
    assert not [flag for flag in command if "soname" in flag or "tree-loop" in flag]
    archive = build_library("host", kind="static")
    assert archive.read_text().split()[:4] == ["-static", "-D", "-o", "libbitspin.a"]


def test_a_failing_compiler_gives_its_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "broken.c").write_text("#error no such thing\n#error nor this\n")
    with pytest.raises(BackendUnavailable, match=r"compiling failed: .*no such thing") as caught:
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


@pytest.fixture
def packaged(compiled: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that brought its libraries; nothing is compiled in making it."""
    if host_target() is None or compilers.importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is missing: pip install 'bitspin[arm]'")
    folder = tmp_path / "lib"
    files = package_libraries(folder)
    assert {str(path.relative_to(folder)) for path in files.values()} == set(files)
    monkeypatch.setattr(build, "PACKAGED", folder)
    compiled.clear()
    return folder


def test_a_package_brings_every_target_and_the_kernels_of_hosts(packaged: Path) -> None:
    record = json.loads((packaged / "digests.json").read_text())
    files = {str(p.relative_to(packaged)) for p in packaged.rglob("*") if p.is_file()}
    assert set(record) == files - {"digests.json"}
    for name, target in TARGETS.items():
        assert f"{name}/runtime/{target.library}" in record
    assert "aarch64-linux/kernels/libbitspin.so" in record
    assert "aarch64-macos/kernels/libbitspin.dylib" in record
    assert "wasm32/kernels/bitspin.wasm" not in record


def test_the_package_comes_first_while_the_sources_are_its_own(
    packaged: Path, compiled: list[Path]
) -> None:
    host = packaged / str(host_target())
    assert build_library().parent == host / "runtime"
    assert build_library(part="kernels").parent == host / "kernels"
    assert build_library("aarch64-linux", kind="static").is_relative_to(packaged)
    assert compiled == []
    (build.SOURCES / "run.c").write_text("/* changed */")
    assert build_library() == compiled[0]


def test_a_damaged_package_is_not_used(packaged: Path) -> None:
    library = build_library()
    library.write_bytes(library.read_bytes()[:-1])
    with pytest.raises(BackendUnavailable, match="install bitspin again"):
        build_library()
