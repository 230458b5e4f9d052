"""Compiles the CUDA sources to machine code on any machine, and reads what came out.

No GPU and no driver are needed: NVRTC makes the code, ``nvdisasm`` and ``cuobjdump`` show it. So
that a kernel compiles for an architecture, uses the instructions it was written for, keeps within
its registers and spills nothing is known before it ever runs.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from kernels.build import cache_folder
from kernels.cuda_source import CudaSource, cuda_source
from kernels.errors import BackendUnavailable

ARCHITECTURES: Final = ("sm_80", "sm_90a", "sm_100")
"""Ampere, Hopper with its own instructions, Blackwell: what every kernel is compiled for."""

OPTIONS: Final = ("-std=c++17", "-default-device")
"""Of NVRTC and of CuPy."""

_INSTALL: Final = "pip install 'bitspin[test]'"
_NVRTC: Final = {13: "nvidia-cuda-nvrtc", 12: "nvidia-cuda-nvrtc-cu12"}
"""Major number of CUDA -> package of its compiler."""
_FUNCTION = re.compile(r"^\s*\.text\.(\w+):", re.MULTILINE)
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)")
_LOCAL_CALL = re.compile(r"\bCALL\.[A-Z.]+ `\(\.L_")
"""How ptxas leaves some loops on Ampere: a jump to a label of the same kernel, and no call."""

_USAGE = re.compile(r"Function (\w+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class MachineCode:
    """What one kernel became."""

    n_registers: int
    """Of one thread."""
    stack_bytes: int
    """Local memory of one thread: spills, and arrays that are indexed at run time."""
    instructions: Mapping[str, int]
    """Instruction with its modifiers, as in ``BMMA.168256.AND.POPC``, and how often it stands.

    ``CALL`` is the call of a function, as that of a division of 64 bits."""

    def count(self, prefix: str) -> int:
        """How many instructions begin with ``prefix``."""
        return sum(n for name, n in self.instructions.items() if name.startswith(prefix))


def compile_cubin(source: CudaSource, architecture: str) -> bytes:
    """Compile a source for one architecture, for instance ``"sm_90a"``.

    Raises
    ------
    BackendUnavailable
        If NVRTC is missing.
    RuntimeError
        If it does not compile; the message is the compiler's first error.
    """
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    name = f"{source.name}.cu"
    create = nvrtc.nvrtcCreateProgram
    text = source.text.encode()
    _check(nvrtc, create(ctypes.byref(program), text, name.encode(), 0, None, None))
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        if status:
            log = _read(nvrtc, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            lines = log.rstrip(bytes(1)).decode().splitlines() or [f"NVRTC's status is {status}"]
            error = next((line for line in lines if "error" in line), lines[0])
            raise RuntimeError(f"{name} does not compile for {architecture}: {error.strip()}")
        return _read(nvrtc, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def cubin_path(name: str, architecture: str) -> Path:
    """Machine code of ``cuda/NAME.cu`` in a file of the cache; compiled if it is not there.

    Raises
    ------
    BackendUnavailable, RuntimeError
        As :func:`compile_cubin`.
    """
    source = cuda_source(name)
    key = repr((source.text, architecture, OPTIONS, nvrtc_version()))
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_folder().parent / "cuda" / f"{name}-{architecture}-{digest}.cubin"
    if path.exists():
        return path
    cubin = compile_cubin(source, architecture)
    try:
        _write(path, cubin)
    except OSError:  # where the cache cannot be written, this process has its own
        path = Path(_own_cache().name) / path.name
        _write(path, cubin)
    return path


def nvrtc_version() -> tuple[int, int]:
    """Major and minor number of the compiler.

    Raises
    ------
    BackendUnavailable
        If it is missing.
    """
    nvrtc, major, minor = _nvrtc(), ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


@cache
def machine_code(name: str, architecture: str) -> Mapping[str, MachineCode]:
    """Compile ``cuda/NAME.cu`` and disassemble it, or take what came out from the cache.

    Returns
    -------
    mapping
        Kernel -> what it became, in the order of the source; without the kernels that the source
        leaves out for this architecture.

    Raises
    ------
    BackendUnavailable, RuntimeError
        As :func:`compile_cubin`; also if the disassemblers are missing.
    """
    cubin = cubin_path(name, architecture)
    reader = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = cubin.with_suffix(f".{reader}.json")
    if not path.exists():
        _write(path, json.dumps(_disassemble(cubin)).encode())
    found = {kernel: MachineCode(*code) for kernel, code in json.loads(path.read_bytes()).items()}
    return {kernel: found[kernel] for kernel in cuda_source(name).kernels if kernel in found}


def _disassemble(cubin: Path) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Kernel -> the fields of its MachineCode."""
    listing = _run("nvidia-cuda-nvdisasm", "nvdisasm", "-c", str(cubin))
    usage = _run("nvidia-cuda-cuobjdump", "cuobjdump", "--dump-resource-usage", str(cubin))
    _, *parts = _FUNCTION.split(_LOCAL_CALL.sub("BRA `(.L_", listing))
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    return {
        kernel: (
            int(registers),
            int(stack) + int(local),
            Counter(_INSTRUCTION.findall(bodies[kernel])),
        )
        for kernel, registers, stack, _, local in _USAGE.findall(usage)
    }


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


@cache
def _own_cache() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="bitspin-cuda-")


def _run(package: str, program: str, *arguments: str) -> str:
    command = [str(_program(package, program)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def _program(package: str, program: str) -> Path:
    path = _packaged(package, program) or shutil.which(program)
    if path is None:
        raise BackendUnavailable(f"{program} is missing; {_INSTALL}")
    return Path(path)


@cache
def _nvrtc() -> Any:
    for candidate in _nvrtc_candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise BackendUnavailable(f"NVRTC is missing; {_INSTALL}")


def _nvrtc_candidates() -> Iterator[str]:
    """Of torch's own CUDA first: a driver of CUDA 12 loads nothing that CUDA 13 has compiled."""
    is_older = (torch.version.cuda or "").startswith("12.")
    roots = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME")]
    for major in sorted(_NVRTC, reverse=not is_older):
        file = f"libnvrtc.so.{major}"
        packaged = _packaged(_NVRTC[major], file)
        if packaged is not None:
            yield str(packaged)
        yield file
        yield from (f"{root}/lib64/{file}" for root in filter(None, [*roots, "/usr/local/cuda"]))


def _packaged(package: str, file: str) -> Path | None:
    """A file that a Python package has brought along."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(path.locate())) for path in files if path.name == file), None)


def _read(nvrtc: Any, program: ctypes.c_void_p, size_name: str, name: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, size_name)(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, name)(program, buffer))
    return buffer.raw


def _check(nvrtc: Any, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")
