"""The CUDA sources as one text each, and what their kernels are called with.

A ``.cu`` file of ``kernels/cuda`` and the headers it includes become one text, which NVRTC, CuPy
and the CPU shim compile alike. The rules that the text keeps stand in ``cuda/device.cuh``; that
kernels are declared in one plain form lets launches be checked against the declaration.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "cuda"

INTEGER_RANGES: Final = {
    "i8": (-(1 << 7), (1 << 7) - 1),
    "u8": (0, (1 << 8) - 1),
    "u16": (0, (1 << 16) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
    "u32": (0, (1 << 32) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
    "u64": (0, (1 << 64) - 1),
}
"""Integer type of a parameter -> its least and greatest value."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)
_DECLARED = re.compile(r"^\s*KERNEL\b", re.MULTILINE)
_KERNEL = re.compile(r"^KERNEL\((\d+), (\d+)\)\s+(\w+)\(([^)]*)\)", re.MULTILINE)
_PARAMETER = re.compile(r"(?:const )?(\w+) (\*?)(?:__restrict__ )?(\w+)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    type: str
    """Of the value, or of what the pointer points to: a key of INTEGER_RANGES, or float."""
    is_pointer: bool


@dataclass(frozen=True)
class Signature:
    """How a kernel is launched."""

    name: str
    n_threads: int
    """Threads of a block."""
    n_blocks: int
    """Blocks that should fit a multiprocessor at a time."""
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class CudaSource:
    """One ``.cu`` file with everything that it includes."""

    name: str
    text: str
    kernels: Mapping[str, Signature] = field(hash=False)

    def kernel(self, name: str) -> Signature:
        """How a kernel is launched.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        if name not in self.kernels:
            raise ValueError(
                f"{self.name}.cu: expected one of {', '.join(self.kernels)}, got {name!r}"
            )
        return self.kernels[name]


def source_names() -> tuple[str, ...]:
    """Names of the ``.cu`` files, without the ending."""
    return tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))


@cache
def cuda_source(name: str) -> CudaSource:
    """Read ``cuda/NAME.cu``, put its headers where they are first included, find its kernels.

    Raises
    ------
    ValueError
        If there is no such file, or a kernel is not declared as ``cuda/device.cuh`` says.
    """
    path = SOURCES / f"{name}.cu"
    if name not in source_names():
        raise ValueError(f"name: expected one of {', '.join(source_names())}, got {name!r}")
    return source_of_text(name, path.read_text())


def source_of_text(name: str, text: str) -> CudaSource:
    """As :func:`cuda_source`, for a text that is not in a file.

    Parameters
    ----------
    name
        For messages.
    text
        May include the headers of ``kernels/cuda``.

    Raises
    ------
    ValueError
        If a kernel is not declared as ``cuda/device.cuh`` says, or declared twice.
    """
    text = _expand(text, set())
    kernels: dict[str, Signature] = {}
    for threads, blocks, kernel, parameters in _KERNEL.findall(text):
        if kernel in kernels:
            raise ValueError(f"{name}.cu: {kernel} is declared twice")
        kernels[kernel] = Signature(
            kernel, int(threads), int(blocks), _parameters(f"{name}.cu: {kernel}", parameters)
        )
    if len(kernels) != len(_DECLARED.findall(text)):
        raise ValueError(f"{name}.cu: a kernel is not declared as KERNEL(256, 1) name(...)")
    return CudaSource(name, text, kernels)


def _expand(text: str, seen: set[str]) -> str:
    def include(match: re.Match[str]) -> str:
        header = match.group(1)
        if not (SOURCES / header).is_file():
            return match.group(0)  # of the shim
        if header in seen:
            return ""
        seen.add(header)
        return _expand((SOURCES / header).read_text(), seen)

    return _INCLUDE.sub(include, text.replace("#pragma once\n", ""))


def _parameters(kernel: str, text: str) -> tuple[Parameter, ...]:
    result = []
    for declaration in filter(None, (" ".join(part.split()) for part in text.split(","))):
        match = _PARAMETER.fullmatch(declaration)
        if match is None or match.group(1) not in (*INTEGER_RANGES, "float"):
            raise ValueError(
                f"{kernel}: expected a parameter of {', '.join(INTEGER_RANGES)} or float, "
                f"or a pointer to one, got {declaration!r}"
            )
        result.append(Parameter(match.group(3), match.group(1), bool(match.group(2))))
    return tuple(result)
