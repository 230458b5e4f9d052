"""Launching kernels of ``kernels/cuda``: arguments checked against the declaration, then run.

What computes a grid and hands over tensors is written once for every :class:`Launcher`: the GPU
(:class:`CupyLauncher`, CuPy's compiler and launch on torch's stream, memory owned by torch) and the
CPU (:mod:`kernels.cuda_shim`), on which the same code is tested.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kernels.cuda_compile import cubin_path
from kernels.cuda_source import (
    INTEGER_RANGES,
    Parameter,
    Signature,
    cuda_source,
    source_names,
)
from kernels.errors import BackendUnavailable

Argument: TypeAlias = "Tensor | int | float | None"
"""A tensor is passed as the address of its data, None as a null pointer."""

LEAST_CAPABILITY: Final = (8, 0)
"""Ampere: the first with the matrix instructions that the kernels are made of."""

Grid: TypeAlias = "int | tuple[int, int] | tuple[int, int, int]"

ELEMENT_BYTES: Final = {
    **{"i8": 1, "u8": 1, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8, "float": 4}
}
"""Type of what a pointer points to -> size of the elements of the tensor."""
_MAX_GRID: Final = (2**31 - 1, 65535, 65535)
_NUMPY: Final = {
    **{"i8": np.int8, "u8": np.uint8, "u16": np.uint16, "i32": np.int32, "u32": np.uint32},
    **{"i64": np.int64, "u64": np.uint64, "float": np.float32},
}
_STATIC_LIMIT: Final = 48 << 10
"""Bytes of shared memory that a block gets without asking."""
_INSTALL: Final = "pip install 'bitspin[cuda13]' (or cuda12, for an older driver)"


class Launcher(Protocol):
    """Runs kernels on one device."""

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, which decides between paths: (9, 0) is Hopper."""

    @property
    def device(self) -> torch.device:
        """Where the tensors of a launch are."""

    def launch(
        self, source: str, kernel: str, grid: Grid, *arguments: Argument, shared_bytes: int = 0
    ) -> None:
        """Run one kernel of ``cuda/SOURCE.cu`` after what was launched before it.

        Parameters
        ----------
        source, kernel
            File without its ending, and name.
        grid
            Blocks; a grid with a zero does nothing.
        *arguments
            In the order of the declaration.
        shared_bytes
            Dynamic shared memory of a block.

        Raises
        ------
        TypeError, ValueError
            If the arguments are not those of the declaration.
        """


class CupyLauncher:
    """Runs kernels on a GPU: loaded and launched by CuPy, on the stream that torch is using.

    Parameters
    ----------
    device
        A CUDA device, with its number.

    Raises
    ------
    BackendUnavailable
        If CuPy or the device is missing, or the device is older than Ampere.
    """

    def __init__(self, device: torch.device) -> None:
        reason = missing()
        if reason:
            raise BackendUnavailable(reason)
        import cupy

        self.device = device
        self.capability = torch.cuda.get_device_capability(device)
        if self.capability < LEAST_CAPABILITY:
            raise BackendUnavailable(
                f"{device}: expected compute capability 8.0 (Ampere) or newer, "
                f"got {'.'.join(map(str, self.capability))}; use the CPU"
            )
        self._cupy = cupy
        self._modules: dict[str, Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        self._shared_bytes: dict[tuple[str, str], int] = {}

    def launch(
        self, source: str, kernel: str, grid: Grid, *arguments: Argument, shared_bytes: int = 0
    ) -> None:
        """Start one kernel and return; as :meth:`Launcher.launch`."""
        signature = cuda_source(source).kernels[kernel]
        blocks = check_launch(signature, grid, arguments, self.device)
        if 0 in blocks:
            return
        values = tuple(
            np.uint64(address(argument)) if parameter.is_pointer else _scalar(parameter, argument)
            for parameter, argument in zip(signature.parameters, arguments, strict=True)
        )
        with self._cupy.cuda.Device(self.device.index):
            function = self._function(source, kernel, shared_bytes)
            stream = self._cupy.cuda.Stream.from_external(torch.cuda.current_stream(self.device))
            with stream:
                function(blocks, (signature.n_threads,), values, shared_mem=shared_bytes)

    def prepare(self) -> None:
        """Compile and load every source now, so that no step and no capture waits for it."""
        with self._cupy.cuda.Device(self.device.index):
            for source in source_names():
                self._module(source).compile()

    def _module(self, source: str) -> Any:
        """The machine code that the tests look at; CuPy's own compiler takes no ``sm_90a``."""
        module = self._modules.get(source)
        if module is None:
            path = cubin_path(source, architecture(self.capability))
            module = self._modules[source] = self._cupy.RawModule(path=str(path))
        return module

    def _function(self, source: str, kernel: str, shared_bytes: int) -> Any:
        key = source, kernel
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = self._module(source).get_function(kernel)
        if shared_bytes > self._shared_bytes.get(key, _STATIC_LIMIT):
            function.max_dynamic_shared_size_bytes = shared_bytes
            self._shared_bytes[key] = shared_bytes
        return function


def missing() -> str | None:
    """What this machine lacks to run the kernels on a GPU, and the way out; None if nothing.

    CUDA is initialised by asking.
    """
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else ", and this torch is built without CUDA"
        return f"expected a CUDA device, torch finds none{built}; use the CPU"
    if importlib.util.find_spec("cupy") is None:
        return f"expected CuPy beside the CUDA device, it is not installed; {_INSTALL}"
    return None


def architecture(capability: tuple[int, int]) -> str:
    """What to compile for: Hopper with the instructions that only it has, else the plain one."""
    major, minor = capability
    return "sm_90a" if capability == (9, 0) else f"sm_{major}{minor}"


def launcher_for(device: torch.device) -> CupyLauncher:
    """Launcher of a CUDA device, one per device and process.

    Raises
    ------
    BackendUnavailable
        As :class:`CupyLauncher`.
    """
    return _launcher(_current_device() if device.index is None else device.index)


def _current_device() -> int:
    """Number of torch's device; where there is none, of the one that a launcher then misses."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


@cache
def _launcher(index: int) -> CupyLauncher:
    return CupyLauncher(torch.device("cuda", index))


def check_launch(
    signature: Signature, grid: Grid, arguments: Sequence[Argument], device: torch.device
) -> tuple[int, int, int]:
    """Compare arguments with a declaration.

    Returns
    -------
    tuple of int
        Blocks in x, y and z.

    Raises
    ------
    TypeError, ValueError
        If number, types, ranges, devices or strides of the arguments are others.
    """
    if len(arguments) != len(signature.parameters):
        raise TypeError(
            f"{signature.name}: expected {len(signature.parameters)} arguments, "
            f"got {len(arguments)}"
        )
    for parameter, argument in zip(signature.parameters, arguments, strict=True):
        _check_argument(signature.name, parameter, argument, device)
    x, y, z = (*(grid if isinstance(grid, tuple) else (grid,)), 1, 1)[:3]
    for blocks, limit in zip((x, y, z), _MAX_GRID, strict=True):
        if not 0 <= blocks <= limit:
            raise ValueError(
                f"{signature.name}: expected a grid of at most {_MAX_GRID} blocks, got {(x, y, z)}"
            )
    return x, y, z


def _check_argument(
    kernel: str, parameter: Parameter, argument: Argument, device: torch.device
) -> None:
    name = f"{kernel}: {parameter.name}"
    if parameter.is_pointer:
        if argument is None:
            return
        if not isinstance(argument, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(argument).__name__}")
        if argument.device != device:
            raise ValueError(f"{name}: expected a tensor on {device}, got {argument.device}")
        if argument.element_size() != ELEMENT_BYTES[parameter.type]:
            raise TypeError(f"{name}: expected elements of {parameter.type}, got {argument.dtype}")
        if not argument.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous tensor, got {argument.stride()}")
    elif parameter.type == "float":
        if not isinstance(argument, float):
            raise TypeError(f"{name}: expected a float, got {argument!r}")
    else:
        if isinstance(argument, bool) or not isinstance(argument, int):
            raise TypeError(f"{name}: expected an integer, got {argument!r}")
        low, high = INTEGER_RANGES[parameter.type]
        if not low <= argument <= high:
            raise ValueError(
                f"{name}: expected {low} <= {parameter.name} <= {high}, got {argument}"
            )


def _scalar(parameter: Parameter, value: Any) -> Any:
    """The value in its own width: that is how CuPy knows what to hand over."""
    return _NUMPY[parameter.type](value)


def address(argument: Any) -> int:
    """Address of the data of a tensor, 0 for None."""
    return 0 if argument is None else int(argument.data_ptr())
