"""The compiled kernels of this machine, called through ctypes; the calls release the GIL."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

Argument: TypeAlias = "int | float | NDArray[Any]"
"""An int is an int64 or an address, a float a C float, an array the address of its data."""


class KernelLibrary(Protocol):
    """What runs a compiled kernel: this machine, or an emulator (:mod:`kernels.emulate`)."""

    def call(self, name: str, *arguments: Argument) -> int:
        """Call the function ``name``; arrays are read and written in place."""
        ...


class HostLibrary:
    """The kernels compiled for this machine.

    Parameters
    ----------
    path
        Built by :func:`kernels.build.build_library` with ``part="kernels"``.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._functions: dict[str, Any] = {}

    def call(self, name: str, *arguments: Argument) -> int:
        """Call the function ``name`` of ``c/host``, whose scalars are int64_t or float.

        Arrays have to be C-contiguous; nothing is checked here.
        """
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, name)
            function.restype = ctypes.c_int64
        return int(function(*map(_convert, arguments)))


def _convert(argument: Argument) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_void_p(argument.__array_interface__["data"][0])


@cache
def host_library() -> HostLibrary:
    """Compile the kernels for this machine, or take them from the cache.

    Raises
    ------
    BackendUnavailable
        If there is no compiler.
    """
    # Here, because `python -m kernels.build` must not find its module already imported.
    from kernels.build import build_library

    return HostLibrary(build_library("host", part="kernels"))
