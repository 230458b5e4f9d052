"""Compiles the C runtime for this machine or for a phone; ``python -m kernels.build TARGET``.

The compiler is zig when the extra ``arm`` is installed (it reaches every target), else ``$CC``,
``cc``, ``gcc`` or ``clang`` (this machine only). Libraries are cached under
``$XDG_CACHE_HOME/bitspin/native`` by the content of everything that makes them; equal inputs give
equal bytes, wherever they are built.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from kernels.errors import BackendUnavailable

SOURCES: Final = Path(__file__).parent / "c"
LIBRARY_NAME: Final = "libbitspin.so"
PARTS: Final = {"runtime": ("",), "kernels": ("", "host")}
"""What is built -> folders under ``c``: the runtime that ships, or that and the library face."""
_INSTALL: Final = "install a C compiler, or: pip install 'bitspin[arm]'"
_COMMON_FLAGS: Final = (
    *("-O3", "-std=c99", "-Wall", "-Wextra", "-g0", "-shared", "-fPIC", "-s"),
    *("-ffreestanding", "-nostdlib", "-fno-strict-aliasing", "-fvisibility=hidden"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    f"-Wl,-soname,{LIBRARY_NAME}",
)
# Without libc nothing provides the memset that gcc would make of a loop.
_GCC_FLAGS: Final = ("-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none")

TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "x86_64-linux": ("-target", "x86_64-linux-musl"),
    "aarch64-linux": ("-target", "aarch64-linux-musl"),
    "aarch64-android": ("-target", "aarch64-linux-android"),
    "armv7-linux": ("-target", "arm-linux-musleabihf", "-mcpu=cortex_a15"),
}
"""Target -> what zig calls it. The libraries use no libc, so musl in a name binds nothing."""

_HOSTS = {"x86_64": "x86_64-linux", "aarch64": "aarch64-linux"}


@dataclass(frozen=True)
class _Compiler:
    command: tuple[str, ...]
    version: str


def build_library(target: str = "host", *, part: str = "runtime", out: Path | None = None) -> Path:
    """Compile the runtime, unless the cache has it already.

    Parameters
    ----------
    target
        ``"host"`` or a key of :data:`TARGETS`.
    part
        Key of :data:`PARTS`.
    out
        Where a copy is wanted, replaced atomically.

    Returns
    -------
    Path
        ``out`` if given, else the library in the cache.

    Raises
    ------
    ValueError
        If the target is unknown.
    BackendUnavailable
        If no compiler here can do it, or the compiler fails.
    """
    if target != "host" and target not in TARGETS:
        raise ValueError(f"target: expected host or one of {', '.join(TARGETS)}, got {target!r}")
    compiler = find_compiler(target)
    sources = _sources(part)
    key = hashlib.sha256(repr((compiler, _COMMON_FLAGS, sources)).encode())
    for name in sorted(SOURCES.rglob("*.[ch]")):
        key.update(name.name.encode() + b"\0" + name.read_bytes())
    library = cache_folder() / key.hexdigest() / LIBRARY_NAME
    if not library.exists():
        _compile(compiler, sources, library)
    if out is None:
        return library
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        os.replace(shutil.copy(library, folder), out)
    return out


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/bitspin/native``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bitspin" / "native"


def find_compiler(target: str) -> _Compiler:
    """Choose the compiler for ``target`` as the module says.

    Raises
    ------
    BackendUnavailable
        If there is none; the message says what to install.
    """
    host = _HOSTS.get(platform.machine()) if sys.platform == "linux" else None
    row = host if target == "host" else target
    if row is None:
        raise BackendUnavailable(
            f"host: expected Linux on {' or '.join(_HOSTS)}, got {sys.platform} on "
            f"{platform.machine()}; name a target: {', '.join(TARGETS)}"
        )
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "cc", *TARGETS[row])
        return _Compiler(command, f"zig {importlib.metadata.version('ziglang')}")
    if row != host:
        raise BackendUnavailable(f"{target}: zig is missing; pip install 'bitspin[arm]'")
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = tuple(shlex.split(candidate))
        if command and shutil.which(command[0]):
            version = _version(command)
            return _Compiler(command + (() if "clang" in version else _GCC_FLAGS), version)
    raise BackendUnavailable(f"{target}: no C compiler found; {_INSTALL}")


@cache
def _version(command: tuple[str, ...]) -> str:
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0]


def _sources(part: str) -> tuple[str, ...]:
    """C files of a part, relative to :data:`SOURCES`, in a fixed order."""
    folders = (SOURCES / folder for folder in PARTS[part])
    files = (file for folder in folders for file in folder.glob("*.c"))
    return tuple(sorted(str(file.relative_to(SOURCES)) for file in files))


def _compile(compiler: _Compiler, sources: tuple[str, ...], library: Path) -> None:
    """Compile into a temporary folder beside the library and rename: no reader sees a part."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            result = subprocess.run(
                # Relative names and a fixed order: the bytes do not depend on where this is.
                [
                    *compiler.command,
                    *_COMMON_FLAGS,
                    "-I.",
                    *sources,
                    *("-o", str(Path(folder) / LIBRARY_NAME)),
                ],
                cwd=SOURCES,
                env=_environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode != 0:
                last = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
                raise BackendUnavailable(f"{compiler.version}: compiling failed: {last}")
            os.replace(Path(folder) / LIBRARY_NAME, library)
    except OSError as error:
        raise BackendUnavailable(
            f"{library.parent}: cannot write the compiled runtime: {error.strerror}; "
            "set XDG_CACHE_HOME to a writable folder"
        ) from error


def _environment() -> dict[str, str]:
    zig = str(cache_folder() / "zig")
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=__doc__)
    parser.add_argument("target", nargs="?", default="host", choices=["host", *TARGETS])
    parser.add_argument("--out", type=Path, help="file to write a copy to")
    arguments = parser.parse_args()
    print(build_library(arguments.target, out=arguments.out))


if __name__ == "__main__":
    _main()
