"""Compiles the C runtime for this machine or for a phone; ``python -m kernels.build TARGET``.

A library that came with the installed package is taken as it is while the sources are those that
it was made from; next the cache is asked, ``$XDG_CACHE_HOME/bitspin/native``, keyed by the content
of everything that makes a library; last it is compiled (:mod:`kernels.compilers`). Equal inputs
give equal bytes, wherever they are built.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kernels.compilers import Compiler, find_compiler
from kernels.errors import BackendUnavailable
from kernels.targets import HOSTS, TARGETS, Format, host_target

SOURCES: Final = Path(__file__).parent / "c"
PACKAGED: Final = Path(__file__).parent / "lib"
"""Libraries that a wheel brings along, in ``target/part/file``; absent in a source tree."""
PACKAGED_RECORD: Final = "digests.json"
PARTS: Final = {"runtime": ("",), "kernels": ("", "host")}
"""What is built -> folders under ``c``: the runtime that ships, or that and the library face."""

Kind = Literal["shared", "static"]

# Floats are used by the samplers, whose draws must not depend on whether a compiler contracts.
# Inner loops are unrolled where they say so. Unrolling all others (as zig does, and gcc does not)
# took 25 of 102 kB on x86 and won 0 to 4 % in matrix products and 3x3 convolutions, 15 % in
# depthwise ones. Sections let a linker drop what an application does not call.
_COMPILE_FLAGS: Final = (
    *("-O3", "-std=c99", "-Wall", "-Wextra", "-g0", "-I."),
    *("-ffreestanding", "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-unroll-loops"),
    *("-ffunction-sections", "-fdata-sections"),
)
_FORMAT_FLAGS: Final = {Format.ELF: ("-fPIC",), Format.MACHO: ("-fPIC",), Format.WASM: ()}
_LINK_FLAGS: Final = {
    Format.ELF: ("-shared", "-nostdlib", "-s", "-Wl,--gc-sections", "-Wl,-soname,libbitspin.so"),
    # Apple's linker insists on libSystem, although nothing is taken from it.
    Format.MACHO: (
        *("-dynamiclib", "-nostdlib", "-lSystem", "-Wl,-x", "-Wl,-dead_strip"),
        "-Wl,-install_name,@rpath/libbitspin.dylib",
    ),
    # The page that loads it lays its own data behind __heap_base.
    Format.WASM: (
        *("-nostdlib", "-s", "-Wl,--no-entry", "-Wl,--export-dynamic"),
        *("-Wl,--export=__heap_base", "-Wl,-z,stack-size=65536"),
    ),
}


@dataclass(frozen=True)
class _Recipe:
    """Everything that makes a library, except the compiler and the content of the sources."""

    target: str
    file: str
    sources: tuple[str, ...]
    """C files relative to :data:`SOURCES`, in a fixed order."""
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...] | None
    """None for an archive."""

    def digest(self) -> "hashlib._Hash":
        """SHA-256 over the recipe and every C file and header, used by this recipe or not."""
        digest = hashlib.sha256(repr(self).encode())
        for path in sorted(SOURCES.rglob("*.[ch]")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(SOURCES)}\0{len(content)}\0".encode() + content)
        return digest


def build_library(
    target: str = "host",
    *,
    part: str = "runtime",
    kind: Kind = "shared",
    out: Path | None = None,
) -> Path:
    """Library of a target: packaged, from the cache, or compiled now.

    Parameters
    ----------
    target
        ``"host"`` or a key of :data:`~kernels.targets.TARGETS`.
    part
        Key of :data:`PARTS`.
    kind
        ``"shared"`` is loaded at run time, ``"static"`` is an archive to link into a program.
    out
        Where a copy is wanted, replaced atomically.

    Returns
    -------
    Path
        ``out`` if given, else the library in the package or in the cache.

    Raises
    ------
    ValueError
        If the target is unknown, or has no archive.
    BackendUnavailable
        If no compiler here can do it, or the compiler fails.
    """
    if target != "host" and target not in TARGETS:
        raise ValueError(f"target: expected host or one of {', '.join(TARGETS)}, got {target!r}")
    name = target if target != "host" else host_target()
    library = None
    if name is not None:
        recipe = _recipe(name, part, kind)
        library = _packaged(recipe, part)
    if library is None:
        compiler = find_compiler(target)
        recipe = _recipe(compiler.target, part, kind)
        key = recipe.digest()
        key.update(repr(compiler).encode())
        library = cache_folder() / key.hexdigest() / recipe.file
        if not library.exists():
            _compile(compiler, recipe, library)
    if out is None:
        return library
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        os.replace(shutil.copy(library, folder), out)
    return out


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/bitspin/native``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bitspin" / "native"


def package_libraries(folder: Path) -> dict[str, Path]:
    """Build what a wheel brings along: each target's runtime, and each host's kernels.

    Parameters
    ----------
    folder
        Existing and empty; everything is written under it.

    Returns
    -------
    dict
        Place relative to :data:`PACKAGED` -> file under ``folder``, the record of digests included.

    Raises
    ------
    BackendUnavailable
        If a compiler is missing or fails.
    """
    wanted: list[tuple[str, str, Kind]] = []
    for name, target in TARGETS.items():
        wanted.append((name, "runtime", "shared"))
        if target.archive:
            wanted.append((name, "runtime", "static"))
        if name in HOSTS.values():
            wanted.append((name, "kernels", "shared"))
    files: dict[str, Path] = {}
    record: dict[str, dict[str, str]] = {}
    for name, part, kind in wanted:
        recipe = _recipe(name, part, kind)
        place = f"{name}/{part}/{recipe.file}"
        files[place] = folder / place
        files[place].parent.mkdir(parents=True, exist_ok=True)
        build_library(name, part=part, kind=kind, out=files[place])
        sha256 = hashlib.sha256(files[place].read_bytes()).hexdigest()
        record[place] = {"sources": recipe.digest().hexdigest(), "sha256": sha256}
    files[PACKAGED_RECORD] = folder / PACKAGED_RECORD
    files[PACKAGED_RECORD].write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return files


def _recipe(name: str, part: str, kind: Kind) -> _Recipe:
    target = TARGETS[name]
    file = target.library if kind == "shared" else target.archive
    if file is None:
        raise ValueError(f"kind: expected shared for {name}, got {kind!r}; it has no archive")
    folders = (SOURCES / folder for folder in PARTS[part])
    files = (path for folder in folders for path in folder.glob("*.c"))
    sources = tuple(sorted(path.relative_to(SOURCES).as_posix() for path in files))
    link = (*_LINK_FLAGS[target.format], *target.link) if kind == "shared" else None
    compile_flags = (*_COMPILE_FLAGS, *_FORMAT_FLAGS[target.format])
    return _Recipe(name, file, sources, compile_flags, link)


def _packaged(recipe: _Recipe, part: str) -> Path | None:
    """The library that the installed package brings, if it was made from these very sources.

    Raises
    ------
    BackendUnavailable
        If it is not the file that was packaged.
    """
    try:
        record = json.loads((PACKAGED / PACKAGED_RECORD).read_bytes())
    except FileNotFoundError:
        return None
    place = f"{recipe.target}/{part}/{recipe.file}"
    entry = record.get(place)
    if entry is None or entry["sources"] != recipe.digest().hexdigest():
        return None
    library = PACKAGED / place
    if not library.is_file() or hashlib.sha256(library.read_bytes()).hexdigest() != entry["sha256"]:
        raise BackendUnavailable(
            f"{library}: expected the library that was packaged, got another file or none; "
            "install bitspin again"
        )
    return library


def _compile(compiler: Compiler, recipe: _Recipe, library: Path) -> None:
    """Compile into a temporary folder beside the library and rename: no reader sees a part."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as name:
            built = Path(name) / recipe.file
            # Relative names and a fixed order: the bytes do not depend on where this is.
            if recipe.link_flags is None:
                _archive(compiler, recipe, built)
            else:
                flags = (*recipe.compile_flags, *recipe.link_flags)
                _run(compiler, [*compiler.command, *flags, *recipe.sources, "-o", str(built)])
            os.replace(built, library)
    except OSError as error:
        raise BackendUnavailable(
            f"{library.parent}: cannot write the compiled runtime: {error.strerror}; "
            "set XDG_CACHE_HOME to a writable folder"
        ) from error


def _archive(compiler: Compiler, recipe: _Recipe, built: Path) -> None:
    """Compile each source on its own and put the objects, in order, into an archive."""
    objects = [source.replace("/", "_")[:-2] + ".o" for source in recipe.sources]

    def compile_one(source: str, name: str) -> None:
        out = str(built.with_name(name))
        _run(compiler, [*compiler.command, *recipe.compile_flags, "-c", source, "-o", out])

    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_one, recipe.sources, objects))
    _run(compiler, [*compiler.archiver, built.name, *objects], folder=built.parent)


def _run(compiler: Compiler, command: list[str], folder: Path | None = None) -> None:
    zig = str(cache_folder() / "zig")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}
    result = subprocess.run(
        command,
        cwd=folder or SOURCES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        first = next((line for line in lines if "error:" in line), lines[-1])
        raise BackendUnavailable(f"{compiler.version}: compiling failed: {first.strip()}")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=__doc__)
    parser.add_argument("target", nargs="?", default="host", choices=["host", *TARGETS])
    parser.add_argument("--part", default="runtime", choices=list(PARTS))
    parser.add_argument("--static", action="store_true", help="an archive to link with")
    parser.add_argument("--out", type=Path, help="file to write a copy to")
    wanted = parser.parse_args()
    kind: Kind = "static" if wanted.static else "shared"
    print(build_library(wanted.target, part=wanted.part, kind=kind, out=wanted.out))


if __name__ == "__main__":
    _main()
