"""Tensors as they lie in a file: packed weights may be in the panels of one kind of processor."""

from dataclasses import dataclass
from math import prod

import numpy as np

from kernels.errors import ModelFormatError
from kernels.layout import CHANNEL_WORD, n_words
from kernels.model import DType, Model, OpCode, Tensor
from kernels.panels import STEP, WIDTH, Layout, from_panels, to_panels


@dataclass(frozen=True)
class Stored:
    """A tensor with the bytes and the layout that it has in the file."""

    dtype: DType
    dims: tuple[int, ...]
    data: bytes | None
    layout: Layout

    @property
    def n_bytes(self) -> int:
        """Bytes in the file; panels are filled up with zero columns and words."""
        if self.layout is Layout.ROWS or len(self.dims) != 4:
            return Tensor(self.dtype, self.dims).n_bytes
        width, step = WIDTH[self.layout], STEP[self.layout]
        return _ceil(self.dims[0], width) * _ceil(_column_words(self.dims), step) * 4


def allows_panels(model: Model, number: int, layout: Layout) -> bool:
    """Tell if tensor ``number`` is weights of CONV_B1 only, of groups that fill whole panels."""
    if layout is Layout.ROWS:
        return True
    users = [op for op in model.ops if number in (*op.constants, *op.activations, op.out)]
    return bool(users) and all(
        op.code is OpCode.CONV_B1
        and op.weights == number
        and (op.groups == 1 or model.tensors[number].dims[0] // op.groups % WIDTH[layout] == 0)
        for op in users
    )


def store(tensor: Tensor, layout: Layout) -> Stored:
    """Rearrange a constant into ``layout``; :func:`read_tensor` inverts."""
    if tensor.data is None or layout is Layout.ROWS:
        return Stored(tensor.dtype, tensor.dims, tensor.data, layout)
    columns = np.frombuffer(tensor.data, CHANNEL_WORD).reshape(tensor.dims[0], -1)
    return Stored(tensor.dtype, tensor.dims, to_panels(columns, layout).tobytes(), layout)


def read_tensor(stored: Stored, name: str) -> Tensor:
    """Bring a tensor back into canonical rows.

    Raises
    ------
    ModelFormatError
        If it may not be in panels, or the fill of the panels is not zero; begins with ``name``.
    """
    if stored.layout is Layout.ROWS:
        return Tensor(stored.dtype, stored.dims, stored.data)
    if stored.data is None or stored.dtype is not DType.BITS or len(stored.dims) != 4:
        raise ModelFormatError(
            f"{name}.layout: expected panels of packed weights (C_out, KH, KW, C_in) only, "
            f"got {stored.layout.name} of {stored.dtype.name} {stored.dims}"
        )
    words = np.frombuffer(stored.data, CHANNEL_WORD)
    columns = from_panels(words, stored.dims[0], _column_words(stored.dims), stored.layout)
    if to_panels(columns, stored.layout).tobytes() != stored.data:
        raise ModelFormatError(f"{name}.data: expected panels filled up with zeros, got a 1")
    return Tensor(stored.dtype, stored.dims, columns.astype(CHANNEL_WORD).tobytes())


def _column_words(dims: tuple[int, ...]) -> int:
    return prod(dims[1:3]) * n_words(dims[3], CHANNEL_WORD)


def _ceil(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
