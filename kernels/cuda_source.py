"""The CUDA sources as one text each, and what their kernels are called with.

A ``.cu`` file of ``kernels/cuda`` and the headers it includes become one text, which NVRTC, CuPy
and the CPU shim compile alike. The rules that the text keeps stand in ``cuda/device.cuh``; that
kernels are declared in one plain form lets launches be checked against the declaration.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class CudaSource:
    """One ``.cu`` file with everything that it includes."""

    name: str
    text: str
    kernels: Mapping[str, Signature]


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
    if not path.is_file():
        raise ValueError(f"name: expected one of {', '.join(source_names())}, got {name!r}")
    text = _expand(path, set())
    kernels = {}
    for threads, _, kernel, parameters in _KERNEL.findall(text):
        kernels[kernel] = Signature(kernel, int(threads), _parameters(kernel, parameters))
    if len(kernels) != text.count("\nKERNEL("):
        raise ValueError(f"{path.name}: a kernel is not declared as KERNEL(256, 1) name(...)")
    return CudaSource(name, text, kernels)


def _expand(path: Path, seen: set[str]) -> str:
    seen.add(path.name)

    def include(match: re.Match[str]) -> str:
        header = match.group(1)
        if not (SOURCES / header).is_file():
            return match.group(0)  # of the shim
        return "" if header in seen else _expand(SOURCES / header, seen)

    return _INCLUDE.sub(include, path.read_text().replace("#pragma once\n", ""))


def _parameters(kernel: str, text: str) -> tuple[Parameter, ...]:
    result = []
    for declaration in filter(None, (" ".join(part.split()) for part in text.split(","))):
        match = _PARAMETER.fullmatch(declaration)
        if match is None or match.group(1) not in (*INTEGER_RANGES, "float"):
            raise ValueError(f"{kernel}: a parameter is of a type that no launch knows: {declaration}")
        result.append(Parameter(match.group(3), match.group(1), bool(match.group(2))))
    return tuple(result)
