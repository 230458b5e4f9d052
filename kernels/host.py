"""The compiled kernels of this machine, called through ctypes; the calls release the GIL."""

import ctypes
from ctypes import addressof, c_char
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

Argument: TypeAlias = "int | float | NDArray[Any]"
"""An int is an int64 or an address, a float a C float, an array the address of its data."""

_SCALARS = (int, float)  # a tuple, because isinstance takes long over int | float


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
        function = self._functions.get(name) or self._declare(name, arguments)
        result: int = function(*[a if isinstance(a, _SCALARS) else _address(a) for a in arguments])
        return result

    def _declare(self, name: str, arguments: tuple[Argument, ...]) -> Any:
        """Types are declared once, by the first call: half the cost of naming them in every call.

        An argument that is a float must therefore be one in all calls, which C asks for anyway.
        """
        function = getattr(self._library, name)
        function.restype = ctypes.c_int64
        function.argtypes = [
            ctypes.c_float if isinstance(a, float) else ctypes.c_int64 for a in arguments
        ]
        self._functions[name] = function
        return function


def _address(array: Any) -> int:
    try:
        return addressof(c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only or empty; three times as slow
        address: int = array.__array_interface__["data"][0]
        return address


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
