"""Launching kernels of ``kernels/cuda``: arguments checked against the declaration, then run.

What computes a grid and hands over tensors is written once for every :class:`Launcher`: the GPU
(:class:`CupyLauncher`, CuPy's compiler and launch on torch's stream, memory owned by torch) and the
CPU (:mod:`kernels.cuda_shim`), on which the same code is tested.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor

from kernels.cuda_source import INTEGER_RANGES, Parameter, Signature

Argument: TypeAlias = "Tensor | int | float | None"
"""A tensor is passed as the address of its data, None as a null pointer."""

Grid: TypeAlias = "int | tuple[int, int] | tuple[int, int, int]"

ELEMENT_BYTES: Final = {
    **{"i8": 1, "u8": 1, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8, "float": 4}
}
"""Type of what a pointer points to -> size of the elements of the tensor."""
_MAX_GRID: Final = (2**31 - 1, 65535, 65535)


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
            raise ValueError(f"{name}: expected {low} <= {parameter.name} <= {high}, got {argument}")


def address(argument: Any) -> int:
    """Address of the data of a tensor, 0 for None."""
    return 0 if argument is None else int(argument.data_ptr())
