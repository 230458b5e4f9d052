"""Products of packed bits on CUDA, exact in int32: one function, several paths, the same integers.

Rows are int32 words (m, ceil(K / 32)), columns panels of the layout VECTORS, (ceil(n / 8),
ceil(K / 128), 32), both with pad bits 0 (:mod:`kernels.cuda_packing`). The tensor cores count
popc(a & b) only; popcounts of rows and columns make every form of product from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from kernels import cuda_packing
from kernels.cuda_launch import Launcher
from kernels.reference_matmul import Form

Capability: TypeAlias = tuple[int, int]
Tile: TypeAlias = Literal["large", "small"]

_MAX_BITS: Final = 1 << 29  # 4 popc(a & b) fits int32
_MAX_FLOAT_BITS: Final = 1 << 24  # every integer up to it is a float32
_OUTPUTS: Final = {torch.int32: 0, torch.float32: 1}
_BITS: Final = 2  # Output of matmul.cu and gemv.cu


@dataclass(frozen=True)
class Product:
    """Operands and result of one product, checked."""

    a: Tensor
    panels: Tensor
    n_bits: int
    n: int
    form: Form
    row_popcounts: Tensor | None
    column_popcounts: Tensor | None
    threshold: Tensor | None
    flip: Tensor | None
    out: Tensor

    @property
    def m(self) -> int:
        """Rows."""
        return self.a.shape[0]

    @property
    def epilogue(self) -> tuple[int, Tensor | None, Tensor | None, Tensor]:
        """The last arguments of every kernel, the first one the code of what ``out`` holds."""
        output = _OUTPUTS[self.out.dtype] if self.threshold is None else _BITS
        return output, self.threshold, self.flip, self.out

    def ones_of_rows(self, launcher: Launcher) -> Tensor:
        """Popcounts of the rows: the caller's, or counted now."""
        if self.row_popcounts is not None:
            return self.row_popcounts
        return cuda_packing.row_popcounts(launcher, self.a)

    def ones_of_columns(self, launcher: Launcher) -> Tensor:
        """Popcounts of the columns: the caller's, or counted now."""
        if self.column_popcounts is not None:
            return self.column_popcounts
        return cuda_packing.panel_popcounts(launcher, self.panels, self.n)


AND_COEFFICIENTS: Final[dict[Form, tuple[int, int, int, int]]] = {
    "xor": (1, -2, -2, 4),
    "and": (0, 0, 0, 1),
    "mixed": (0, -1, 0, 2),
}
"""Form -> factors of K, popc(row), popc(column) and popc(row & column)."""

_POPC_COEFFICIENTS: Final[dict[Form, tuple[str, int, int, int]]] = {
    "xor": ("xor", 1, 0, -2),
    "and": ("and", 0, 0, 1),
    "mixed": ("and", 0, -1, 2),
}
"""Form -> operation, and factors of K, popc(row) and popc(row operation column)."""

TILES: Final[dict[Tile, tuple[int, int, int]]] = {
    "large": (128, 256, 3 * (128 + 256) * 128),
    "small": (64, 64, 3 * (64 + 64) * 128),
}
"""Tile -> rows, columns and bytes of shared memory of a block (``cuda/matmul.cuh``)."""

LARGE_CAPABILITIES: Final = ((8, 0), (8, 7), (9, 0), (10, 0), (10, 3))
"""Whose blocks can have the 144 KB of a large tile; the others stop at 99 KB."""
_LARGE_TILES: Final = 108
"""From so many large tiles on they are used: one for each multiprocessor of an A100. With fewer the
small tiles, of which three or four share a multiprocessor, leave less of the chip idle. The rule is
arithmetic; not measured."""


def default_tile(capability: Capability, m: int, n: int) -> Tile:
    """Tile of the tensor-core kernels for a product of m rows and n columns."""
    rows, columns, _ = TILES["large"]
    n_tiles = -(-m // rows) * -(-n // columns)
    return "large" if capability in LARGE_CAPABILITIES and n_tiles >= _LARGE_TILES else "small"


def _run_b1(launcher: Launcher, product: Product) -> None:
    _run_tensor_cores(launcher, product, "b1")


def _run_s8(launcher: Launcher, product: Product) -> None:
    _run_tensor_cores(launcher, product, "s8")


def _run_tensor_cores(launcher: Launcher, product: Product, instruction: str) -> None:
    """Launch a kernel of ``matmul.cu``."""
    a, m, n = product.a, product.m, product.n
    of_k, of_row, of_column, of_both = AND_COEFFICIENTS[product.form]
    tile = default_tile(launcher.capability, m, n)
    rows, columns, shared_bytes = TILES[tile]
    is_wide = a.shape[1] % 4 == 0 and a.data_ptr() % 16 == 0
    launcher.launch(
        "matmul",
        f"matmul_{instruction}_{tile}",
        -(-m // rows) * -(-n // columns),
        *(a, product.panels, m, n, a.shape[1], int(is_wide)),
        product.ones_of_rows(launcher) if of_row else None,
        product.ones_of_columns(launcher) if of_column else None,
        *(of_k * product.n_bits, of_row, of_column, of_both),
        *product.epilogue,
        shared_bytes=shared_bytes,
    )


def _run_wgmma(launcher: Launcher, product: Product) -> None:
    from kernels.cuda_wgmma import run_wgmma  # which takes a Product

    run_wgmma(launcher, product)


_GEMV_WARPS: Final = 4
_GEMV_ROUND: Final = 64  # ROUND of gemv.cu, blocks of 128 bits
_GEMV_PART: Final = 4 * _GEMV_ROUND


def _run_popc(launcher: Launcher, product: Product) -> None:
    """Launch a kernel of ``gemv.cu``: a block for each panel and 1, 4 or 8 rows."""
    m, n = product.m, product.n
    operation, of_k, of_row, of_ones = _POPC_COEFFICIENTS[product.form]
    rows = 1 if m == 1 else 4 if m <= 4 else 8
    # Bits of panels that do not exist are written too, up to the end of the last word.
    n_panels = -(-n // 8) if product.threshold is None else -(-n // 32) * 4
    part = min(-(-product.panels.shape[1] // _GEMV_ROUND) * _GEMV_ROUND, _GEMV_PART)
    launcher.launch(
        "gemv",
        f"gemv_{operation}_{rows}",
        (n_panels, -(-m // rows)),
        *(product.a, product.panels, m, n, product.a.shape[1]),
        product.ones_of_rows(launcher) if of_row else None,
        *(of_k * product.n_bits, of_row, of_ones),
        *product.epilogue,
        shared_bytes=rows * max(16 * part, 32 * _GEMV_WARPS),  # the sums of the warps come after
    )


@dataclass(frozen=True)
class Path:
    """One way to compute products."""

    run: Callable[[Launcher, Product], None]
    first: Capability
    """The least compute capability that has its instructions."""
    last: Capability | None
    """The greatest one; None if there is none yet."""


PATHS: Final[dict[str, Path]] = {
    "popc": Path(_run_popc, (8, 0), None),
    "b1": Path(_run_b1, (8, 0), (9, 0)),
    "wgmma": Path(_run_wgmma, (9, 0), (9, 0)),
    "s8": Path(_run_s8, (8, 0), None),
}
"""Every path; the integers are the same."""

_POPC_ROWS: Final = 8  # which read the weights once


def default_path(capability: Capability, m: int) -> str:
    """Path that a product of m rows takes; none of this is measured yet.

    On Hopper "wgmma" is there to be asked for, and has to be measured and to pass its tests on the
    chip before it becomes the default: its layouts are known from documents alone.

    Raises
    ------
    ValueError
        If the capability is less than 8.0.
    """
    if capability < (8, 0):
        raise ValueError(f"capability: expected 8.0 or later, got {capability[0]}.{capability[1]}")
    if m <= _POPC_ROWS:  # memory-bound; and the xor form needs no popcounts of the weights
        return "popc"
    if capability > (9, 0):  # no b1 instruction in hardware
        return "s8"
    return "b1"  # 8 times the int8 rate on an A100


def matmul(
    launcher: Launcher,
    a: Tensor,
    panels: Tensor,
    n_bits: int,
    n: int,
    form: Form = "xor",
    *,
    path: str | None = None,
    out_dtype: torch.dtype = torch.int32,
    row_popcounts: Tensor | None = None,
    column_popcounts: Tensor | None = None,
) -> Tensor:
    r"""Multiply packed rows with panels, exactly.

    .. math:: c_{ij} = K - 2 \operatorname{popc}(a_i \oplus b_j) \quad\text{or}\quad
              c_{ij} = \operatorname{popc}(a_i \wedge b_j)

    Parameters
    ----------
    launcher
        Where to run; the tensors are there.
    a
        Shape (m, ceil(K / 32)), int32 words, contiguous.
    panels
        Shape (ceil(n / 8), ceil(K / 128), 32), int32 words, contiguous.
    n_bits
        K, less than 2^29.
    n
        Columns.
    form
        ``"xor"`` for values +-1, ``"and"`` for values 0 and 1, ``"mixed"`` for rows of 0 and 1
        and columns of +-1.
    path
        A key of :data:`PATHS`; by default :func:`default_path`.
    out_dtype
        int32, or float32 for K up to 2^24: then every value is exact.
    row_popcounts, column_popcounts
        Shapes (m,) and (n,), int32, if the caller has them; else they are counted where the form
        and the path need them.

    Returns
    -------
    Tensor
        Shape (m, n).

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or lengths do not belong together, or the device has not the path.
    """
    if out_dtype not in _OUTPUTS:
        raise TypeError(f"out_dtype: expected int32 or float32, got {out_dtype}; convert it after")
    if out_dtype == torch.float32 and n_bits > _MAX_FLOAT_BITS:
        raise ValueError(f"n_bits: expected at most 2^24 for float32, got {n_bits}; use int32")
    operands = _checked(launcher, a, panels, n_bits, n, form, row_popcounts, column_popcounts)
    out = a.new_empty((a.shape[0], n), dtype=out_dtype)
    return _run(launcher, Product(*operands, None, None, out), path)


def matmul_bits(
    launcher: Launcher,
    a: Tensor,
    panels: Tensor,
    n_bits: int,
    n: int,
    threshold: Tensor,
    flip: Tensor,
    form: Form = "xor",
    *,
    path: str | None = None,
    row_popcounts: Tensor | None = None,
    column_popcounts: Tensor | None = None,
) -> Tensor:
    """Bits ``(product >= threshold) ^ flip`` of every column: BatchNorm and sign in one step.

    Parameters
    ----------
    launcher, a, panels, n_bits, n, form, path, row_popcounts, column_popcounts
        As :func:`matmul`.
    threshold
        Shape (n,), int32.
    flip
        Shape (n,), bool.

    Returns
    -------
    Tensor
        Shape (m, ceil(n / 32)), int32: packed rows for the next product, spare bits zero.

    Raises
    ------
    TypeError, ValueError
        As :func:`matmul`.
    """
    operands = _checked(launcher, a, panels, n_bits, n, form, row_popcounts, column_popcounts)
    _check_vector("threshold", threshold, n, torch.int32)
    _check_vector("flip", flip, n, torch.bool)
    out = a.new_empty((a.shape[0], cuda_packing.words_of(n)))
    return _run(launcher, Product(*operands, threshold, flip, out), path)


def _run(launcher: Launcher, product: Product, path: str | None) -> Tensor:
    capability = launcher.capability
    name = default_path(capability, product.m) if path is None else path
    if name not in PATHS:
        raise ValueError(f"path: expected one of {', '.join(PATHS)}, got {name!r}")
    first, last = PATHS[name].first, PATHS[name].last
    if capability < first or (last is not None and capability > last):
        raise ValueError(
            f"path: {name!r} needs a compute capability from {first} to {last or 'any'}, got "
            f"{capability}; leave it out for the default"
        )
    if product.m and product.n:
        PATHS[name].run(launcher, product)
    return product.out


def _checked(
    launcher: Launcher,
    a: Tensor,
    panels: Tensor,
    n_bits: int,
    n: int,
    form: Form,
    row_popcounts: Tensor | None,
    column_popcounts: Tensor | None,
) -> tuple[Tensor, Tensor, int, int, Form, Tensor | None, Tensor | None]:
    """The first seven fields of a product; that they lie on the device the launch checks."""
    if form not in AND_COEFFICIENTS:
        raise ValueError(f"form: expected one of {', '.join(AND_COEFFICIENTS)}, got {form!r}")
    if not (0 <= n_bits < _MAX_BITS and n >= 0):
        raise ValueError(f"n_bits, n: expected 0 to 2^29 - 1 and n >= 0, got {n_bits}, {n}")
    n_words = cuda_packing.words_of(n_bits)
    for name, tensor, shape in (
        ("a", a, ("m", n_words)),
        ("panels", panels, (-(-n // 8), -(-n_words // 4), 32)),
    ):
        if tensor.dtype != torch.int32:
            raise TypeError(f"{name}: expected int32 words, got {tensor.dtype}; pack it first")
        if tensor.shape[1:] != shape[1:] or (name == "panels" and tensor.shape != shape):
            raise ValueError(
                f"{name}: expected shape {shape} for {n_bits} bits, {n} columns, "
                f"got {tuple(tensor.shape)}"
            )
    if panels.data_ptr() % 16:
        raise ValueError("panels: expected memory aligned to 16 bytes, got a view; clone it")
    for name, counts, length in (
        ("row_popcounts", row_popcounts, a.shape[0]),
        ("column_popcounts", column_popcounts, n),
    ):
        if counts is not None:
            _check_vector(name, counts, length, torch.int32)
    return a, panels, n_bits, n, form, row_popcounts, column_popcounts


def _check_vector(name: str, vector: Tensor, length: int, dtype: torch.dtype) -> None:
    if vector.dtype != dtype or vector.shape != (length,):
        raise ValueError(
            f"{name}: expected {dtype} of shape ({length},), got {vector.dtype} of "
            f"{tuple(vector.shape)}"
        )
