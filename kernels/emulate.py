"""Runs the aarch64 runtime on any machine, in an emulator, and counts its instructions.

The emulator (unicorn) runs in a process of its own, ``python -m kernels.emulate``: it is a
verification tool under its own licence, and nothing of it is loaded into the caller. The count is
of instructions, not of cycles, and is the same in every run. :func:`emulate` runs a model, its
data cross as raw bytes in a temporary folder; :class:`EmulatedLibrary` calls single functions.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kernels.emulated_core import EmulatedCore, read_message, serve, write_message
from kernels.errors import BackendUnavailable, ModelFormatError
from kernels.host import Argument
from kernels.model_format import read_model
from kernels.native import encode_images


@dataclass(frozen=True)
class Emulation:
    """What an emulated run gave."""

    outputs: NDArray[np.int32]
    """Shape (N, n_out)."""
    instructions_per_image: float
    """Mean over the counted images; opening the model is not included."""
    n_counted: int
    """Images whose instructions were counted."""


def emulate(
    library: Path, model: bytes, images: NDArray[np.uint8], *, n_counted: int = 2
) -> Emulation:
    """Run ``images`` through an aarch64 library built by :func:`kernels.build.build_library`.

    Parameters
    ----------
    library
        ELF shared library for aarch64 that uses no libc.
    model
        Contents of a ``.bspn`` file.
    images
        Shape (N, H, W, C), uint8, N >= 1.
    n_counted
        Instructions are counted on the first images only, since counting is slow.

    Raises
    ------
    BackendUnavailable
        If unicorn or pyelftools is not installed.
    ModelFormatError
        If the library or the Python reader refuses the model.
    ValueError
        If shapes do not fit the model, ``n_counted`` is not in 1 ... N, or the library is not for
        aarch64.
    RuntimeError
        If the emulator stops; the message carries its last line.
    """
    _require_extra()
    if not 1 <= n_counted <= len(images):
        raise ValueError(f"n_counted: expected 1 to {len(images)} (images), got {n_counted}")
    inputs = encode_images(read_model(model).tensors[0], images)
    _require_aarch64(library)
    with tempfile.TemporaryDirectory(prefix="bitspin-emulate-") as name:
        folder = Path(name)
        (folder / "model.bspn").write_bytes(model)
        (folder / "inputs").write_bytes(inputs.tobytes())
        (folder / "job.json").write_text(
            json.dumps({"library": str(library), "n_images": len(images), "n_counted": n_counted})
        )
        result = subprocess.run(
            [sys.executable, "-m", "kernels.emulate", "run", name],
            env={**os.environ, "PYTHONPATH": _python_path()},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise RuntimeError(f"emulator: {lines[-1]}")
        answer = json.loads(result.stdout)
        if "refused" in answer:
            raise ModelFormatError(f"model: refused by the C runtime: {answer['refused']}")
        outputs = np.frombuffer((folder / "outputs").read_bytes(), "<i4").astype(np.int32)
    return Emulation(
        outputs.reshape(len(images), -1), answer["instructions"] / n_counted, n_counted
    )


class EmulatedLibrary:
    """An aarch64 library in an emulator, called like :class:`kernels.host.HostLibrary`.

    The emulator is a process that lives until :meth:`close`. Arrays are copied there and, if they
    are writeable, back; behind each one the memory is not mapped, so that a read past its end
    raises. An array passed twice is one array there too, overlapping views are not. Calls from
    several threads are served one after the other.

    Parameters
    ----------
    path
        Built by :func:`kernels.build.build_library` for aarch64.
    dot_product
        Whether the core has the dot product of Armv8.2; without, it is a fault.

    Raises
    ------
    BackendUnavailable
        If unicorn or pyelftools is not installed.
    ValueError
        If the library is not for aarch64.
    """

    def __init__(self, path: Path, *, dot_product: bool = False) -> None:
        _require_extra()
        _require_aarch64(path)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kernels.emulate", "serve", str(path)),
                *(["dot_product"] if dot_product else []),
            ],
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop, self._process)

    def call(self, name: str, *arguments: Argument) -> int:
        """Call the function ``name``; an int is passed in x, a float in s registers.

        Raises
        ------
        RuntimeError
            If the core stops; the message says where.
        TypeError, ValueError
            If an argument is of another kind, or an array is not C-contiguous.
        """
        return self._send(name, arguments, counts=False)[0]

    def count(self, name: str, *arguments: Argument) -> tuple[int, int]:
        """Call the function ``name``; returns its result and its number of instructions."""
        return self._send(name, arguments, counts=True)

    def _send(self, name: str, arguments: Sequence[Argument], counts: bool) -> tuple[int, int]:
        arrays: dict[tuple[int, int], NDArray[Any]] = {}
        places: dict[tuple[int, int], int] = {}  # of an array among the distinct ones
        passed: list[int | float | list[int]] = []
        for argument in arguments:
            if isinstance(argument, int | float):
                passed.append(argument)
                continue
            key = _memory(name, argument)
            arrays[key] = argument if key not in arrays else _writeable(arrays[key], argument)
            passed.append([places.setdefault(key, len(places))])
        header = {
            "function": name,
            "counts": counts,
            "sizes": [array.nbytes for array in arrays.values()],
            "writes": [bool(array.flags.writeable) for array in arrays.values()],
            "arguments": passed,
        }
        with self._lock:
            data = [array.tobytes() for array in arrays.values()]
            answer, written = self._exchange(header, data)
            at = 0
            for array in arrays.values():
                if array.flags.writeable:
                    block = written[at : at + array.nbytes]
                    array.reshape(-1)[:] = np.frombuffer(block, array.dtype)
                    at += array.nbytes
        return answer["result"], answer["instructions"]

    def _exchange(self, header: object, data: list[bytes]) -> tuple[Any, memoryview]:
        requests, answers = self._process.stdin, self._process.stdout
        if not self._finalizer.alive or requests is None or answers is None:
            raise RuntimeError("emulator: closed")
        with suppress(BrokenPipeError):  # the reason is read below
            write_message(requests, header, data)
        message = read_message(answers)
        if message is None:
            last = self._process.stderr.read() if self._process.stderr else b""
            raise RuntimeError(f"emulator: {(last.decode().splitlines() or ['ended'])[-1]}")
        if "error" in message[0]:
            raise RuntimeError(f"emulator: {message[0]['error']}")
        return message

    def close(self) -> None:
        """End the emulator."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _memory(name: str, argument: object) -> tuple[int, int]:
    """Address and size of an array, its identity."""
    if not isinstance(argument, np.ndarray):
        raise TypeError(f"{name}: expected int, float or array, got {type(argument).__name__}")
    if not argument.flags.c_contiguous:
        raise ValueError(f"{name}: expected C-contiguous arrays, got strides {argument.strides}")
    return argument.__array_interface__["data"][0], argument.nbytes


def _writeable(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return second if second.flags.writeable else first


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The child ends where its requests end."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    process.wait()


def _require_extra() -> None:
    for module in ("unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            raise BackendUnavailable(f"{module}: not installed; pip install 'bitspin[arm]'")


def _require_aarch64(library: Path) -> None:
    with library.open("rb") as stream:
        if stream.read(20)[::18] != b"\x7f\xb7":  # first byte of the magic, and e_machine
            raise ValueError(f"library: expected an aarch64 ELF file, got {library}")


def _python_path() -> str:
    """Search path on which the child finds this very package first."""
    inherited = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parents[1])
    return os.pathsep.join([here, inherited] if inherited else [here])


def _main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    machine = EmulatedCore(Path(job["library"]))
    file = (folder / "model.bspn").read_bytes()
    model = machine.allocate(bytes(64))
    error = machine.call("bs_open", model, machine.allocate(file), len(file)) & 0xFFFFFFFF
    if error:
        print(json.dumps({"refused": machine.read_string(machine.call("bs_strerror", error))}))
        return
    arena = machine.allocate(bytes(machine.call("bs_arena_bytes", model)))
    n_output = 4 * machine.call("bs_output_count", model)
    output = machine.allocate(bytes(n_output))
    inputs = (folder / "inputs").read_bytes()
    n_input = len(inputs) // job["n_images"]
    source = machine.allocate(bytes(n_input))
    outputs, instructions = bytearray(), 0
    for i in range(job["n_images"]):
        machine.write(source, inputs[i * n_input : (i + 1) * n_input])
        if i < job["n_counted"]:
            instructions += machine.count_call("bs_run", model, arena, source, output)[1]
        else:
            machine.call("bs_run", model, arena, source, output)
        outputs += machine.read(output, n_output)
    (folder / "outputs").write_bytes(outputs)
    print(json.dumps({"instructions": instructions}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        has_dot_product = "dot_product" in sys.argv[3:]
        serve(Path(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer, dot_product=has_dot_product)
    else:
        _main(Path(sys.argv[2]))
