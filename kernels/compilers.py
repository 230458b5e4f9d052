"""Which compiler makes a library.

Zig if the extra ``arm`` is installed, for it reaches every target; else ``$CC``, ``cc``, ``gcc``
or ``clang``, for this machine only.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from kernels.errors import BackendUnavailable
from kernels.targets import HOSTS, TARGETS, Format, host_target

_INSTALL = "install a C compiler, or: pip install 'bitspin[arm]'"
# Without libc nothing provides the memset that gcc would make of a loop.
_GCC_FLAGS = ("-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none")


@dataclass(frozen=True)
class Compiler:
    """A command that compiles, and one that makes archives, for one target."""

    target: str
    command: tuple[str, ...]
    archiver: tuple[str, ...]
    """To be followed by the archive and its objects."""
    version: str


def find_compiler(target: str) -> Compiler:
    """Choose the compiler for ``target`` as the module says.

    Parameters
    ----------
    target
        ``"host"`` or a key of :data:`~kernels.targets.TARGETS`.

    Raises
    ------
    BackendUnavailable
        If there is none; the message says what to install.
    """
    host = host_target()
    name = host if target == "host" else target
    if name is None:
        known = ", ".join(f"{system} on {machine}" for system, machine in HOSTS)
        raise BackendUnavailable(
            f"host: expected one of {known}, got {sys.platform} on {platform.machine()}; "
            f"name a target: {', '.join(TARGETS)}"
        )
    if importlib.util.find_spec("ziglang") is not None:
        return _zig(name)
    if name != host:
        raise BackendUnavailable(f"{target}: zig is missing; pip install 'bitspin[arm]'")
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = tuple(shlex.split(candidate))
        if command and shutil.which(command[0]):
            return _native(name, command)
    raise BackendUnavailable(f"{target}: no C compiler found; {_INSTALL}")


def _zig(name: str) -> Compiler:
    zig = (sys.executable, "-m", "ziglang")
    # D: no times, owners or modes in the archive.
    style = "darwin" if TARGETS[name].format is Format.MACHO else "gnu"
    return Compiler(
        target=name,
        command=(*zig, "cc", *TARGETS[name].zig),
        archiver=(*zig, "ar", f"--format={style}", "rcsD"),
        version=f"zig {importlib.metadata.version('ziglang')}",
    )


def _native(name: str, command: tuple[str, ...]) -> Compiler:
    version = _version(command)
    if TARGETS[name].format is Format.MACHO:
        return Compiler(name, command, ("libtool", "-static", "-D", "-o"), version)
    flags = () if "clang" in version else _GCC_FLAGS
    return Compiler(name, (*command, *flags), ("ar", "rcsD"), version)


@cache
def _version(command: tuple[str, ...]) -> str:
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0]
