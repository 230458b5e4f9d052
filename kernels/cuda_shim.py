"""Runs the CUDA kernels on the CPU, thread by thread: their proof on machines without a GPU.

The text of ``kernels/cuda`` is compiled as C++17 with the words of ``kernels/shim``. Every thread
of a block has a stack of its own; barriers and warp functions let threads wait for each other, and
what cannot be satisfied is an error. Threads and blocks run in a chosen order, so that what depends
on the order shows. It says nothing about speed, and nothing about what only hardware decides.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch

from kernels.build import cache_folder
from kernels.cuda_launch import Argument, Grid, address, check_launch
from kernels.cuda_source import CudaSource, Parameter, Signature, cuda_source
from kernels.errors import BackendUnavailable

SHIM: Final = Path(__file__).parent / "shim"

Order = Literal["forward", "reverse", "random"]
ORDERS: Final[dict[Order, int]] = {"forward": 0, "reverse": 1, "random": 2}
"""In which order threads and blocks run -> its code in ``shim/threads.h``."""

Checker = Literal["none", "sanitizers", "races"]


class _Watch(NamedTuple):
    """How a checker is built."""

    flags: tuple[str, ...] = ()
    """Of everything."""
    kernel_flags: tuple[str, ...] = ()
    """Of the kernels alone."""
    files: tuple[str, ...] = ("threads.cpp",)
    """Of the shim."""


_FLAGS: Final = (
    *("-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    *("-Wno-unused-function", *(("-mpopcnt",) if platform.machine() == "x86_64" else ())),
)
CHECKERS: Final[dict[Checker, _Watch]] = {
    "none": _Watch(),
    "sanitizers": _Watch(
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
        ("-O1",),
    ),
    "races": _Watch(
        ("-DBITSPIN_SHIM_RACES",), ("-fsanitize=thread", "-O1"), ("threads.cpp", "races.cpp")
    ),
}
"""What watches the kernels.

``sanitizers``: AddressSanitizer and UndefinedBehaviorSanitizer, which end the process with a
report and have to be in it from its beginning (:func:`sanitizer_environment`). ``races``:
``shim/races.cpp``, whose findings are the errors of a launch.
"""

_CTYPES: Final = {
    **{"i8": ctypes.c_int8, "u8": ctypes.c_uint8, "u16": ctypes.c_uint16},
    **{"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "i64": ctypes.c_int64},
    **{"u64": ctypes.c_uint64, "float": ctypes.c_float},
}
_lock = threading.Lock()


class _Array(ctypes.Structure):
    """The fields of ``shim/threads.h``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_int64),
    )


class _Launch(ctypes.Structure):
    """The fields of ``shim/threads.h``."""

    _fields_ = (
        ("grid", ctypes.c_int32 * 3),
        ("n_threads", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int64),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("arrays", ctypes.POINTER(_Array)),
        ("n_arrays", ctypes.c_int32),
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
        If the sanitizers are to watch and are not in the process; when launching, if there is no
        C++ compiler.
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
        if checker == "sanitizers" and not hasattr(ctypes.CDLL(None), "__asan_init"):
            raise BackendUnavailable(
                "CUDA shim: the sanitizers are not in this process; start it with the variables of "
                "kernels.cuda_shim.sanitizer_environment()"
            )

    def launch(
        self,
        source: str | CudaSource,
        kernel: str,
        grid: Grid,
        *arguments: Argument,
        shared_bytes: int = 0,
    ) -> None:
        """Run one kernel to its end; as :meth:`kernels.cuda_launch.Launcher.launch`.

        Parameters
        ----------
        source
            Name of a file, or a text that is in none.
        kernel, grid, *arguments, shared_bytes
            As there.

        Raises
        ------
        RuntimeError
            If the kernel does what no kernel may; the message says what.
        ValueError
            If there is no such kernel; also as :func:`kernels.cuda_launch.check_launch`.
        """
        source = cuda_source(source) if isinstance(source, str) else source
        signature = source.kernel(kernel)
        blocks = check_launch(signature, grid, arguments, self.device)
        library = _library(source, self._checker)
        values = [
            _value(parameter, argument)
            for parameter, argument in zip(signature.parameters, arguments, strict=True)
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        arrays = _arrays(signature, arguments)
        launch = _Launch(
            *(blocks, signature.n_threads, shared_bytes, self._order, self._seed & 0xFFFFFFFF),
            *((_Array * len(arrays))(*arrays), len(arrays)),
        )
        function = getattr(library, f"shim_launch_{kernel}")
        function.restype = ctypes.c_char_p
        with _lock:  # the shim has one block at a time, in globals
            message = function(ctypes.byref(launch), pointers)
        if message is not None:
            raise RuntimeError(f"{source.name}.cu: {kernel}: {message.decode()}")


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


def _arrays(signature: Signature, arguments: tuple[Argument, ...]) -> list[_Array]:
    """The memory of the tensors; those that overlap, as one passed twice, are one."""
    ranges = sorted(
        (address(argument), address(argument) + argument.nbytes, parameter.name)
        for parameter, argument in zip(signature.parameters, arguments, strict=True)
        if isinstance(argument, torch.Tensor) and argument.nbytes
    )
    merged: list[tuple[int, int, str]] = []
    for begin, end, name in ranges:
        if merged and begin < merged[-1][1]:
            first, last, names = merged.pop()
            merged.append((first, max(end, last), f"{names}, {name}"))
        else:
            merged.append((begin, end, name))
    return [_Array(name.encode(), begin, end - begin) for begin, end, name in merged]


def sanitizer_environment() -> dict[str, str]:
    """Variables for a Python process in which the sanitizers can watch the kernels.

    Raises
    ------
    BackendUnavailable
        If there is no compiler, or it has no AddressSanitizer.
    """
    command = [compiler(), "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        raise BackendUnavailable(
            f"CUDA shim: {command[0]} has no libasan.so; install libasan of g++"
        )
    return {
        "LD_PRELOAD": str(Path(path).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


@cache
def _library(source: CudaSource, checker: Checker) -> ctypes.CDLL:
    return ctypes.CDLL(str(build_shim(source, checker)))


def build_shim(source: CudaSource, checker: Checker = "none") -> Path:
    """Compile a source for the CPU, or take it from the cache.

    Raises
    ------
    BackendUnavailable
        If there is no compiler, or it fails; the message has its first error.
    """
    watch = CHECKERS[checker]
    text = source.text + "\n" + "\n".join(map(_entry, source.kernels.values()))
    command = (compiler(), *_FLAGS, *watch.flags, *watch.kernel_flags, "-DBITSPIN_SHIM")
    threads = [_built(SHIM / file, (compiler(), *_FLAGS, *watch.flags)) for file in watch.files]
    key = repr((command, *(path.name for path in threads)))
    library = _cached(f"{source.name}.so", text, key)
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            unit = Path(folder) / f"{source.name}.cpp"
            compiled, linked = unit.with_suffix(".o"), unit.with_suffix(".so")
            unit.write_text(text)
            _run(f"{source.name}.cu", *command, f"-I{SHIM}", "-c", unit, "-o", compiled)
            objects = (*threads, compiled)
            flags = (*_FLAGS, *watch.flags)
            _run(f"{source.name}.cu", compiler(), *flags, "-shared", *objects, "-o", linked)
            os.replace(linked, library)
    return library


def _built(file: Path, command: tuple[str, ...]) -> Path:
    """A file of the shim, compiled."""
    path = _cached(f"{file.stem}.o", file.read_text(), repr(command))
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            _run(file.name, *command, "-c", file, "-o", built)
            os.replace(built, path)
    return path


def _cached(file: str, text: str, key: str) -> Path:
    """Where in the cache the result is, by everything that it is made of."""
    headers = (path.name + path.read_text() for path in sorted(SHIM.glob("*.h")))
    parts = (text, key, _version(compiler()), *headers)
    name, _, ending = file.partition(".")
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    path = cache_folder().parent / "shim" / f"{name}-{digest}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _run(name: str, *command: str | Path) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        error = next((line for line in result.stderr.splitlines() if "error" in line), "")
        raise BackendUnavailable(f"CUDA shim: {name} does not compile: {error}")


@cache
def _version(path: str) -> str:
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0]


def _entry(signature: Signature) -> str:
    """A function that calls the kernel with arguments from an array of pointers."""
    arguments = ", ".join(
        f"*({p.type} *)arguments[{i}]" if not p.is_pointer else f"*({p.type} **)arguments[{i}]"
        for i, p in enumerate(signature.parameters)
    )
    return (
        'extern "C" __attribute__((visibility("default"))) const char *'
        f"shim_launch_{signature.name}(const shim::Launch *launch, void **arguments)\n{{\n"
        f"    auto body = [](void *all) UNWATCHED {{\n        void **arguments = (void **)all;\n"
        f"        {signature.name}({arguments});\n    }};\n"
        "    return shim::run(*launch, body, arguments);\n}\n"
    )
