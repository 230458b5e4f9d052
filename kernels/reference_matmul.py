"""Slow twins of :mod:`kernels.matmul`: bits are unpacked and multiplied as 64-bit integers."""

from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels.packing import pack_bits, unpack_bits

Form: TypeAlias = Literal["xor", "and", "mixed"]
"""Values of rows and columns: -1, +1 both; 0, 1 both; rows 0, 1 and columns -1, +1."""

FORMS: Final[dict[Form, int]] = {"xor": 0, "and": 1, "mixed": 2}
"""Form -> code in ``c/host/matmul.c``."""


def pack_rows_reference(x: NDArray[Any], threshold: float = 0) -> NDArray[np.uint32]:
    """``x >= threshold``, packed along the last axis; a floating threshold has the type of x."""
    return pack_bits(x >= (x.dtype.type(threshold) if x.dtype.kind == "f" else threshold))


def matmul_reference(
    a: NDArray[np.uint32], columns: NDArray[np.uint32], n_bits: int, form: Form = "xor"
) -> NDArray[np.int32]:
    """Product of rows a (m, n_words) and columns (n, n_words): (m, n)."""
    rows = unpack_bits(a, n_bits).astype(np.int64)
    others = unpack_bits(columns, n_bits).astype(np.int64)
    if form == "xor":
        rows = 2 * rows - 1
    if form != "and":
        others = 2 * others - 1
    return (rows @ others.T).astype(np.int32)


def matmul_bits_reference(
    a: NDArray[np.uint32],
    columns: NDArray[np.uint32],
    n_bits: int,
    threshold: NDArray[np.int32],
    flip: NDArray[np.bool_],
    form: Form = "xor",
) -> NDArray[np.uint32]:
    """Bits ``(product >= threshold) ^ flip``, packed along the columns."""
    return pack_bits((matmul_reference(a, columns, n_bits, form) >= threshold) ^ flip)


def matmul_planes_reference(
    planes: NDArray[np.uint32],
    columns: NDArray[np.uint32],
    n_bits: int,
    weights: NDArray[np.int32],
    form: Form = "mixed",
) -> NDArray[np.int32]:
    """Weighted sum of the products of the planes (p, m, n_words)."""
    products = [matmul_reference(plane, columns, n_bits, form).astype(np.int64) for plane in planes]
    return np.tensordot(weights.astype(np.int64), np.stack(products), 1).astype(np.int32)
