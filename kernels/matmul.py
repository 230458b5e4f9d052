"""Matrix products of packed bits, exact in int32, and the packing of their operands.

Rows are packed as :mod:`kernels.layout` says, in 32-bit words; rows of 64-bit words are the same
bytes and are taken too. Columns are packed once, in the panels that the inner loop reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kernels.backends import KernelTarget, kernel_target
from kernels.host import Argument, KernelLibrary
from kernels.layout import BLOB_ALIGNMENT, CHANNEL_WORD, ROW_WORD, n_words
from kernels.panels import STEP, WIDTH, Layout, from_panels, to_panels
from kernels.reference_matmul import (
    FORMS,
    Form,
    matmul_bits_reference,
    matmul_planes_reference,
    matmul_reference,
    pack_rows_reference,
)
from kernels.threads import run_ranges

_MAX_BITS: Final = 1 << 30  # twice a product fits int32
_PACK: Final = {"float32": "bsk_pack_f32", "uint8": "bsk_pack_u8", "int8": "bsk_pack_i8"}
_SMALL_PRODUCT: Final = 1 << 28  # operations; less takes 0.1 ms, as long as to wake a thread
_SMALL_INPUT: Final = 1 << 21  # bytes to pack
_TILE_ROWS: Final = 12  # both 4 and 6 divide it
_SET_PANELS: Final = 4  # BS_TILE_PANELS of c/tile.h


def empty_aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array like :func:`numpy.empty`, whose memory begins at a cache line."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(n_bytes + BLOB_ALIGNMENT, np.uint8)
    begin = -raw.__array_interface__["data"][0] % BLOB_ALIGNMENT
    array: NDArray[Any] = raw[begin : begin + n_bytes].view(dtype).reshape(shape)
    return array


def pack_rows(
    x: NDArray[Any], threshold: float = 0, *, library: KernelLibrary | None = None
) -> NDArray[np.uint32]:
    """Compare and pack along rows: bit = x >= threshold.

    Parameters
    ----------
    x
        Shape (n, k); float32, uint8 or int8. A NaN gives bit 0.
    threshold
        For float32 rounded to float32.
    library
        An emulator; its best back end runs. By default this machine's current back end.

    Returns
    -------
    NDArray
        Shape (n, ceil(k / 32)), uint32; spare bits are zero.

    Raises
    ------
    TypeError
        If the dtype is another one.
    ValueError
        If ``x`` has not two axes.
    BackendUnavailable
        If the back end that was asked for is absent.
    """
    if x.dtype.name not in _PACK:
        raise TypeError(f"x: expected {', '.join(_PACK)}, got {x.dtype}; convert it first")
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (n, k), got {x.shape}; reshape it first")
    target = kernel_target(library)
    if target is None:
        return pack_rows_reference(x, threshold)
    n, k = x.shape
    x = np.ascontiguousarray(x)
    out = empty_aligned((n, n_words(k, CHANNEL_WORD)), CHANNEL_WORD)
    # Integers are compared with the next integer; beyond +-2^9 all of them lie on one side.
    level = float(threshold) if x.dtype.kind == "f" else ceil(min(max(threshold, -512), 512))

    def run(begin: int, end: int) -> None:
        target.library.call(_PACK[x.dtype.name], target.code, x, k, level, out, begin, end)

    run_ranges(run, n, n_threads=1 if library or x.nbytes < _SMALL_INPUT else None)
    return out


@dataclass(frozen=True)
class Panels:
    """Columns of a product, in the order of words that a back end reads (:mod:`kernels.panels`)."""

    data: NDArray[np.uint32]
    """Flat."""
    n: int
    """Columns."""
    n_bits: int
    """True length of a column."""
    layout: Layout
    """LANES or VECTORS; every back end takes both, one of them at full speed."""

    def __post_init__(self) -> None:
        if self.layout is Layout.ROWS:
            raise ValueError("layout: expected LANES or VECTORS, got ROWS")
        if not (0 <= self.n_bits < _MAX_BITS and self.n >= 0):
            raise ValueError(f"n_bits: expected 0 to {_MAX_BITS - 1}, got {self.n_bits}")
        expected = self.n_panels * WIDTH[self.layout] * self.column_words
        if self.data.shape != (expected,) or self.data.dtype != CHANNEL_WORD:
            raise ValueError(
                f"data: expected {expected} uint32 for {self.n} columns of {self.n_bits} bits, "
                f"got {self.data.dtype} {self.data.shape}"
            )

    @property
    def n_panels(self) -> int:
        """Panels, the last one filled up with zeros."""
        return -(-self.n // WIDTH[self.layout])

    @property
    def column_words(self) -> int:
        """Words of a column, filled up with zeros to those of a vector."""
        step = STEP[self.layout]
        return -(-n_words(self.n_bits, CHANNEL_WORD) // step) * step

    @classmethod
    def of(
        cls,
        columns: NDArray[Any],
        n_bits: int,
        layout: Layout | None = None,
        *,
        library: KernelLibrary | None = None,
    ) -> "Panels":
        """Arrange packed columns.

        Parameters
        ----------
        columns
            Shape (n, n_words), packed words; each row is one column of the product.
        n_bits
            True length of a column.
        layout
            By default the one that the current back end reads fastest.
        library
            As :func:`pack_rows`.

        Raises
        ------
        TypeError, ValueError, BackendUnavailable
            If words and ``n_bits`` do not belong together, or as :func:`pack_rows`.
        """
        target = kernel_target(library)
        layout = native_layout(target) if layout is None else layout
        words = _rows("columns", columns, n_bits, 2)[:, : n_words(n_bits, CHANNEL_WORD)]
        if target is None or layout is Layout.ROWS:
            return cls(to_panels(words, layout), len(words), n_bits, layout)
        words = np.ascontiguousarray(words)
        n, width, step = len(words), WIDTH[layout], STEP[layout]
        n_panels, column_words = -(-n // width), -(-words.shape[1] // step) * step
        data = empty_aligned((n_panels * width * column_words,), CHANNEL_WORD)
        operands = (layout, words, n, words.shape[1], data, 0, n_panels)
        target.library.call("bsk_to_panels", *operands)
        return cls(data, n, n_bits, layout)

    def columns(self) -> NDArray[np.uint32]:
        """The packed columns again, shape (n, n_words)."""
        return from_panels(self.data, self.n, n_words(self.n_bits, CHANNEL_WORD), self.layout)


def matmul(
    a: NDArray[Any],
    panels: Panels,
    *,
    form: Form = "xor",
    out: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    r"""Product of packed rows and columns; one row makes a product of matrix and vector.

    .. math:: y_{ij} = \sum_k a_{ik} b_{jk} =
              K - 2 \operatorname{popc}(a_i \oplus b_j) \quad\text{or}\quad
              \operatorname{popc}(a_i \wedge b_j)

    Parameters
    ----------
    a
        Shape (m, n_words), packed rows of ``panels.n_bits`` bits.
    panels
        The n columns.
    form
        ``"xor"``: values -1, +1 on both sides; ``"and"``: 0, 1; ``"mixed"``: rows 0, 1 and
        columns -1, +1.
    out
        Where the result goes, contiguous; by default new memory.
    n_threads
        By default :func:`kernels.threads.default_threads`, one for small products.
    library
        As :func:`pack_rows`.

    Returns
    -------
    NDArray
        Shape (m, n), int32: exact.

    Raises
    ------
    TypeError, ValueError
        If words and lengths do not belong together, or ``out`` does not fit.
    BackendUnavailable
        If the back end that was asked for is absent.

    Notes
    -----
    O(m n K). Conventions: shared packing, pad bits zero on both sides; this is not checked.
    """
    target = kernel_target(library)
    rows = _operand("a", a, panels, form, 2)
    if target is None:
        result = matmul_reference(_exact(rows, panels), panels.columns(), panels.n_bits, form)
        return _into(out, result)
    rows = _filled(rows, panels)
    out = _output(out, (len(rows), panels.n))
    operands = (rows, rows.shape[1], panels.data, panels.n, out)
    _run(target, "bsk_matmul", len(rows), panels, form, operands, 1 if library else n_threads)
    return out


def matmul_bits(
    a: NDArray[Any],
    panels: Panels,
    threshold: NDArray[np.int32],
    flip: NDArray[np.bool_],
    *,
    form: Form = "xor",
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Bits ``(product >= threshold) ^ flip`` of every column: BatchNorm and sign in one step.

    Parameters
    ----------
    a, panels, form, n_threads, library
        As :func:`matmul`.
    threshold
        Shape (n,), int32.
    flip
        Shape (n,), bool.

    Returns
    -------
    NDArray
        Shape (m, ceil(n / 32)), uint32: packed rows for the next product, spare bits zero.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As :func:`matmul`; ValueError also if ``threshold`` or ``flip`` have another shape.
    """
    target = kernel_target(library)
    rows = _operand("a", a, panels, form, 2)
    if threshold.shape != (panels.n,) or flip.shape != (panels.n,):
        raise ValueError(
            f"threshold, flip: expected shape ({panels.n},), got {threshold.shape}, {flip.shape}"
        )
    if target is None:
        rows, columns = _exact(rows, panels), panels.columns()
        return matmul_bits_reference(rows, columns, panels.n_bits, threshold, flip, form)
    rows = _filled(rows, panels)
    level = np.ascontiguousarray(threshold, np.int32)
    flips = flip.astype(np.int32)
    out = empty_aligned((len(rows), n_words(panels.n, CHANNEL_WORD)), CHANNEL_WORD)
    operands = (rows, rows.shape[1], panels.data, panels.n, level, flips, out)
    _run(target, "bsk_matmul_bits", len(rows), panels, form, operands, 1 if library else n_threads)
    return out


def matmul_planes(
    planes: NDArray[Any],
    panels: Panels,
    weights: Sequence[int] | None = None,
    *,
    form: Form = "mixed",
    out: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    r"""Product of rows of several bits each and columns of one bit.

    .. math:: y = \sum_j w_j \, a^{(j)} b^\top

    Parameters
    ----------
    planes
        Shape (p, m, n_words): bit j of every value, packed along rows.
    panels, out, n_threads, library
        As :func:`matmul`.
    weights
        Of the planes; by default 1, 2, 4, ...: unsigned integers of p bits.
    form
        ``"mixed"``: unsigned integers times -1, +1; ``"and"``: times 0, 1; ``"xor"``: planes of
        -1, +1.

    Returns
    -------
    NDArray
        Shape (m, n), int32.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As :func:`matmul`; ValueError also if a sum could leave int32.
    """
    target = kernel_target(library)
    rows = _operand("planes", planes, panels, form, 3)
    n_planes = len(rows)
    weights = [1 << j for j in range(n_planes)] if weights is None else list(weights)
    if len(weights) != n_planes or n_planes == 0:
        raise ValueError(f"weights: expected one for each of {n_planes} planes, got {weights}")
    if sum(map(abs, weights)) * panels.n_bits >= 1 << 31:
        raise ValueError(
            f"weights: expected sums below 2^31, got {weights} with {panels.n_bits} bits; "
            "split the columns"
        )
    factors = np.array(weights, np.int32)
    if target is None:
        rows, columns = _exact(rows, panels), panels.columns()
        result = matmul_planes_reference(rows, columns, panels.n_bits, factors, form)
        return _into(out, result)
    rows = _filled(rows, panels)
    _, m, words = rows.shape
    out = _output(out, (m, panels.n))
    operands = (rows, words, m * words, n_planes, factors, panels.data, panels.n, out)
    _run(target, "bsk_matmul_planes", m, panels, form, operands, 1 if library else n_threads)
    return out


def native_layout(target: KernelTarget | None) -> Layout:
    """Layout that a back end reads fastest: VECTORS on ARM, else LANES."""
    return Layout.VECTORS if target is not None and target.code in (3, 4) else Layout.LANES


def _run(
    target: KernelTarget,
    name: str,
    m: int,
    panels: Panels,
    form: Form,
    operands: tuple[Argument, ...],
    n_threads: int | None,
) -> None:
    """Call a function of ``c/host/matmul.c`` on ranges of rows, or of panels if rows are few."""
    before = (target.code, panels.layout, FORMS[form], panels.n_bits, *operands)
    if n_threads is None and 2 * m * panels.n * panels.n_bits < _SMALL_PRODUCT:
        n_threads = 1
    if n_threads == 1:  # nothing between the caller and a product of microseconds
        target.library.call(name, *before, 0, m, 0, panels.n_panels)
        return

    def run_rows(begin: int, end: int) -> None:
        target.library.call(name, *before, begin, end, 0, panels.n_panels)

    def run_panels(begin: int, end: int) -> None:
        target.library.call(name, *before, 0, m, begin, end)

    if m >= 4 * _TILE_ROWS:
        run_ranges(run_rows, m, n_threads=n_threads, grain=_TILE_ROWS)
    else:
        run_ranges(run_panels, panels.n_panels, n_threads=n_threads, grain=_SET_PANELS)


def _operand(
    name: str, words: NDArray[Any], panels: Panels, form: Form, n_axes: int
) -> NDArray[np.uint32]:
    """Check packed rows; contiguous."""
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    return np.ascontiguousarray(_rows(name, words, panels.n_bits, n_axes))


def _rows(name: str, words: NDArray[Any], n_bits: int, n_axes: int) -> NDArray[np.uint32]:
    """Packed rows as 32-bit words, those of 64 bits with one more than needed if it is odd."""
    if words.dtype not in (CHANNEL_WORD, ROW_WORD):
        raise TypeError(f"{name}: expected uint32 or uint64, got {words.dtype}; pack it first")
    expected = n_words(n_bits, words.dtype)
    if words.ndim != n_axes or words.shape[-1] != expected:
        raise ValueError(
            f"{name}: expected {n_axes} axes, the last of {expected} for {n_bits} bits, "
            f"got shape {words.shape}"
        )
    return words if words.dtype == CHANNEL_WORD else np.ascontiguousarray(words).view(CHANNEL_WORD)


def _exact(rows: NDArray[np.uint32], panels: Panels) -> NDArray[np.uint32]:
    return rows[..., : n_words(panels.n_bits, CHANNEL_WORD)]


def _filled(rows: NDArray[np.uint32], panels: Panels) -> NDArray[np.uint32]:
    """Rows of at least as many words as a column has in its panel."""
    missing = panels.column_words - rows.shape[-1]
    if missing <= 0:
        return rows
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])


def _output(out: NDArray[np.int32] | None, shape: tuple[int, ...]) -> NDArray[np.int32]:
    if out is None:
        return empty_aligned(shape, np.int32)
    if out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise ValueError(
            f"out: expected a contiguous int32 array {shape}, got {out.dtype} {out.shape}"
        )
    return out


def _into(out: NDArray[np.int32] | None, result: NDArray[np.int32]) -> NDArray[np.int32]:
    if out is None:
        return result
    np.copyto(_output(out, result.shape), result)
    return out
