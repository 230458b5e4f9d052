"""The model under construction: operations, tensors, and the intervals their values lie in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.folding import PointTooFine
from bnn.integer import Output
from kernels import DType, ModelFormatError, Op, OpCode, Tensor, output_shape, pack_bits
from kernels.model_bounds import OF_DTYPE, Interval, output_interval

_FORMATS = {DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8", DType.U16: "<u2"}


class Program:
    """Operations in running order. Tensor 0 is the input.

    Parameters
    ----------
    input_shape
        (H, W, C) of the uint8 images.
    """

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.tensors = [Tensor(DType.U8, tuple(input_shape))]
        self.ops: list[Op] = []
        self.names: list[str] = []
        """Layer of each operation."""
        self.intervals: dict[int, Interval] = {0: OF_DTYPE[DType.U8]}
        """Activation -> least and greatest value."""
        self.outputs: dict[int, Output] = {}
        """Activation -> the float tensor that it stands for."""
        self._shared: dict[tuple[DType, tuple[int, ...], bytes], int] = {}

    def constant(self, dtype: DType, array: NDArray[Any]) -> int:
        """Append a constant; of bits ``array`` is ±1. The number of the tensor."""
        if dtype is DType.BITS:
            data = pack_bits(array > 0).tobytes()
        else:
            data = np.ascontiguousarray(array.astype(_FORMATS[dtype])).tobytes()
        self.tensors.append(Tensor(dtype, array.shape, data))
        return len(self.tensors) - 1

    def shared_constant(self, dtype: DType, array: NDArray[Any]) -> int:
        """:meth:`constant`, but equal ones are one tensor: those of the steps of a cell."""
        key = dtype, array.shape, array.astype(np.int64).tobytes()
        if key not in self._shared:
            self._shared[key] = self.constant(dtype, array)
        return self._shared[key]

    def append(
        self, name: str, code: OpCode, data: int, dtype: DType = DType.I32, **fields: Any
    ) -> int:
        """Append an operation and the tensor it writes.

        Parameters
        ----------
        name
            Layer, for messages and tables.
        code, data
            What is computed of which tensor.
        dtype
            Of the output.
        **fields
            The other fields of :class:`kernels.Op`.

        Returns
        -------
        int
            Number of the tensor that it writes.

        Raises
        ------
        PointTooFine
            If a value of the output could leave int32.
        ValueError
            If shapes do not fit.
        """
        out = len(self.tensors)
        op = Op(code, data, fields.pop("weights", None), out, **fields)
        try:
            self.tensors.append(Tensor(dtype, output_shape(op, self.tensors)))
        except ModelFormatError as error:
            raise ValueError(f"{name}: {error}") from error
        try:
            self.intervals[out] = output_interval(op, self.tensors, self.intervals)
        except ModelFormatError as error:
            raise PointTooFine(f"{name}: {error}") from error
        self.ops.append(op)
        self.names.append(name)
        return out

    def dims(self, tensor: int) -> tuple[int, int, int]:
        """(H, W, C) of an activation."""
        height, width, n_channels = self.tensors[tensor].dims
        return height, width, n_channels

    def dtype(self, tensor: int) -> DType:
        """Element type of a tensor."""
        return self.tensors[tensor].dtype

    def stands_for(self, tensor: int, node: str, unit: float) -> None:
        """Note that ``tensor`` times ``unit`` is the output of a node of the float network."""
        is_bits = self.dtype(tensor) is DType.BITS
        self.outputs.setdefault(tensor, Output(node=node, unit=unit, is_bits=is_bits))
