"""Back ends: which there are, what each needs, and which one runs.

The choice is the fastest that this machine has. ``BITSPIN_BACKEND`` or :func:`use_backend` force
another one; asking for one that is absent raises, nothing is ever replaced silently.
"""

import logging
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from kernels.errors import BackendUnavailable
from kernels.host import KernelLibrary, host_library

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """One way to compute; ``code`` is that of ``c/cpu.h``, None for numpy."""

    name: str
    code: int | None
    needs: str
    """What provides it, for the message when it is absent."""


_DOTPROD: Final = 4
_CPU_INFO: Final = Path("/proc/cpuinfo")

BACKENDS: Final = {
    backend.name: backend
    for backend in (  # best first
        Backend(
            "avx512", 2, "an x86-64 processor with AVX-512 VPOPCNTDQ and VBMI (Ice Lake, Zen 4)"
        ),
        Backend("avx2", 1, "an x86-64 processor with AVX2, BMI2 and FMA"),
        Backend("dotprod", _DOTPROD, "an ARM processor of Armv8.2 with the dot product"),
        Backend("neon", 3, "an ARM processor"),
        Backend("portable", 0, "a C compiler, or: pip install 'bitspin[arm]'"),
        Backend("reference", None, "numpy"),
    )
}
"""Name -> back end, best first. ``reference`` is the slow numpy twin, always there."""

_forced: ContextVar[str | None] = ContextVar("backend", default=None)


def available_backends() -> tuple[str, ...]:
    """Names of the back ends that this machine can run, best first."""
    mask = _mask()
    return tuple(b.name for b in BACKENDS.values() if b.code is None or mask >> b.code & 1)


def forced_backend() -> Backend | None:
    """The back end that :func:`use_backend` or the environment asks for, there or not.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    name = _forced.get() or os.environ.get("BITSPIN_BACKEND")
    return _named(name) if name else None


def current_backend() -> Backend:
    """The back end that runs now: forced by :func:`use_backend`, by the environment, or the best.

    Raises
    ------
    BackendUnavailable
        If the one that was asked for is absent; the message says what would provide it.
    ValueError
        If there is none of that name.
    """
    forced = _forced.get() or os.environ.get("BITSPIN_BACKEND")
    return _require(forced) if forced else _best()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force a back end for the length of the block, in this thread and task.

    Raises
    ------
    BackendUnavailable, ValueError
        As :func:`current_backend`.
    """
    _require(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def has_dot_product() -> bool:
    """Whether Linux says that all cores have it; the library cannot ask, and knows on macOS."""
    if platform.machine() != "aarch64" or not _CPU_INFO.is_file():
        return False
    features = re.findall(r"^Features\s*:(.*)$", _CPU_INFO.read_text(), re.MULTILINE)
    return bool(features) and all("asimddp" in line.split() for line in features)


def _named(name: str) -> Backend:
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


@dataclass(frozen=True)
class KernelTarget:
    """Where compiled kernels run, and as which back end."""

    library: KernelLibrary
    code: int


def kernel_target(library: KernelLibrary | None) -> KernelTarget | None:
    """The current back end of this machine, None if that is numpy; of an emulator, its best."""
    if library is not None:
        return KernelTarget(library, library.call("bsk_backends").bit_length() - 1)
    code = current_backend().code
    return None if code is None else KernelTarget(host_library(), code)


def _require(name: str) -> Backend:
    _named(name)
    if name not in available_backends():
        raise BackendUnavailable(
            f"backend {name}: needs {BACKENDS[name].needs}; "
            f"here there are {', '.join(available_backends())}"
        )
    return BACKENDS[name]


@cache
def _best() -> Backend:
    name = available_backends()[0]
    _LOG.info("backend %s, the best of %s", name, ", ".join(available_backends()))
    return BACKENDS[name]


@cache
def _mask() -> int:
    """Bit b is set if the compiled library can run back end b here; 0 without a library."""
    try:
        return int(host_library().call("bsk_backends")) | has_dot_product() << _DOTPROD
    except BackendUnavailable as error:
        _LOG.warning("no compiled kernels, numpy computes instead: %s", error)
        return 0
