"""Runs the CUDA kernels on the CPU, thread by thread: the proof of kernels on machines without a GPU.

The text of ``kernels/cuda`` is compiled as C++17 with the words of ``kernels/shim``. Every thread
of a block has a stack of its own; barriers and warp functions let threads wait for each other, and
what cannot be satisfied is an error. Threads and blocks run in a chosen order, so that what depends
on the order shows. It says nothing about speed, and nothing about what only hardware decides.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import torch

from kernels.build import cache_folder
from kernels.cuda_launch import Argument, Grid, address, check_launch
from kernels.cuda_source import CudaSource, Parameter, Signature, cuda_source
from kernels.errors import BackendUnavailable

SHIM: Final = Path(__file__).parent / "shim"

Order = Literal["forward", "reverse", "random"]
ORDERS: Final[dict[Order, int]] = {"forward": 0, "reverse": 1, "random": 2}
"""In which order threads and blocks run -> its code in ``shim/threads.h``."""

Checker = Literal["none", "sanitizers"]
_FLAGS: Final = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    "-Wno-unused-function",
)
CHECKERS: Final[dict[Checker, tuple[str, ...]]] = {
    "none": (),
    "sanitizers": (
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ),
}
"""What watches the kernels -> flags of the compiler. Sanitizers have to be in the process first."""

_CTYPES: Final = {
    **{"i8": ctypes.c_int8, "u8": ctypes.c_uint8, "u16": ctypes.c_uint16},
    **{"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "i64": ctypes.c_int64},
    **{"u64": ctypes.c_uint64, "float": ctypes.c_float},
}
_lock = threading.Lock()


class _Launch(ctypes.Structure):
    """The fields of ``shim/threads.h``."""

    _fields_ = (
        ("grid", ctypes.c_int32 * 3),
        ("n_threads", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int64),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
    )


class ShimLauncher:
    """Runs kernels on the CPU, on CPU tensors.

    Parameters
    ----------
    capability
        The compute capability that it pretends to have.
    order
        In which order threads and blocks run.
    seed
        Of a random order.
    checker
        What watches the kernels: a key of :data:`CHECKERS`.

    Raises
    ------
    BackendUnavailable
        If there is no C++ compiler.
    """

    def __init__(
        self,
        capability: tuple[int, int] = (8, 0),
        *,
        order: Order = "forward",
        seed: int = 0,
        checker: Checker = "none",
    ) -> None:
        self.capability = capability
        self.device = torch.device("cpu")
        self._order = ORDERS[order]
        self._seed = seed
        self._checker: Checker = checker

    def launch(
        self, source: str, kernel: str, grid: Grid, *arguments: Argument, shared_bytes: int = 0
    ) -> None:
        """Run one kernel to its end; as :meth:`kernels.cuda_launch.Launcher.launch`.

        Raises
        ------
        RuntimeError
            If the kernel does what no kernel may; the message says what.
        """
        signature = cuda_source(source).kernels[kernel]
        blocks = check_launch(signature, grid, arguments, self.device)
        library = _library(source, self._checker)
        values = [
            _value(parameter, argument)
            for parameter, argument in zip(signature.parameters, arguments, strict=True)
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        launch = _Launch(
            blocks, signature.n_threads, shared_bytes, self._order, self._seed & 0xFFFFFFFF
        )
        function = getattr(library, f"shim_launch_{kernel}")
        function.restype = ctypes.c_char_p
        with _lock:  # the shim has one block at a time, in globals
            message = function(ctypes.byref(launch), pointers)
        if message is not None:
            raise RuntimeError(f"{source}.cu: {kernel}: {message.decode()}")


def compiler() -> str:
    """Path of the C++ compiler: ``$CXX``, ``g++`` or ``clang++``.

    Raises
    ------
    BackendUnavailable
        If there is none.
    """
    for candidate in (os.environ.get("CXX", ""), "g++", "clang++"):
        path = shutil.which(candidate) if candidate else None
        if path:
            return path
    raise BackendUnavailable("CUDA shim: no C++ compiler found; install g++, or set CXX")


def _value(parameter: Parameter, argument: Argument) -> Any:
    if parameter.is_pointer:
        return ctypes.c_void_p(address(argument))
    return _CTYPES[parameter.type](argument)  # type: ignore[arg-type]


@cache
def _library(source: str, checker: Checker) -> ctypes.CDLL:
    return ctypes.CDLL(str(build_shim(cuda_source(source), checker)))


def build_shim(source: CudaSource, checker: Checker = "none") -> Path:
    """Compile a source for the CPU, or take it from the cache.

    Raises
    ------
    BackendUnavailable
        If there is no compiler, or it fails; the message has its first error.
    """
    text = source.text + "\n" + "\n".join(map(_entry, source.kernels.values()))
    command = (compiler(), *_FLAGS, *CHECKERS[checker], "-DBITSPIN_SHIM", f"-I{SHIM}")
    digest = hashlib.sha256(repr((command, _version(command[0]), text)).encode())
    for path in sorted(SHIM.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    library = cache_folder().parent / "shim" / f"{source.name}-{digest.hexdigest()[:32]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unit, built = Path(folder) / f"{source.name}.cpp", Path(folder) / library.name
        unit.write_text(text)
        result = subprocess.run(
            [*command, str(unit), str(SHIM / "threads.cpp"), "-o", str(built)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            error = next((line for line in result.stderr.splitlines() if "error" in line), "")
            raise BackendUnavailable(f"CUDA shim: {source.name}.cu does not compile: {error}")
        os.replace(built, library)
    return library


@cache
def _version(path: str) -> str:
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0]


def _entry(signature: Signature) -> str:
    """A function that calls the kernel with arguments from an array of pointers."""
    arguments = ", ".join(
        f"*({p.type} *)arguments[{i}]"
        if not p.is_pointer
        else f"*({p.type} **)arguments[{i}]"
        for i, p in enumerate(signature.parameters)
    )
    return (
        f'extern "C" const char *shim_launch_{signature.name}'
        "(const shim::Launch *launch, void **arguments)\n{\n"
        f"    auto body = [](void *all) {{\n        void **arguments = (void **)all;\n"
        f"        {signature.name}({arguments});\n    }};\n"
        "    return shim::run(*launch, body, arguments);\n}\n"
    )
