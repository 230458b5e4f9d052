"""Binary products by the warpgroup instructions of Hopper: the path "wgmma" of products.

``cuda/matmul_wgmma.cu`` computes what ``cuda/matmul.cu`` does, from the same operands.
"""

from typing import Final

from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.cuda_matmul import AND_COEFFICIENTS, Product

TILE_ROWS: Final = (128, 192)
"""Rows that a block's tile may have; its columns are 256."""
_COLUMNS: Final = 256
_STAGES: Final = 4
_LINE_BYTES: Final = 128
_ALIGNMENT_BYTES: Final = 896
"""What the lines of shared memory may need to begin at a multiple of 1024."""
_LEVEL_BYTES: Final = 5
"""Of a column: threshold and flip."""
_VECTOR_WORDS: Final = 4


def default_tile_rows(m: int) -> int:
    """Rows of a tile for m rows: the high tile reads less for each product, if it is full."""
    return 192 if m >= 4 * 192 else 128


def run_wgmma(launcher: Launcher, product: Product, tile_rows: int | None = None) -> None:
    """Launch a kernel of ``matmul_wgmma.cu``.

    Parameters
    ----------
    launcher
        Of capability (9, 0).
    product
        Operands and result.
    tile_rows
        One of :data:`TILE_ROWS`; by default :func:`default_tile_rows`.
    """
    rows = default_tile_rows(product.m) if tile_rows is None else tile_rows
    of_k, of_row, of_column, of_both = AND_COEFFICIENTS[product.form]
    a = _aligned(product.a)
    launcher.launch(
        "matmul_wgmma",
        f"matmul_wgmma_{rows}",
        -(-product.m // rows) * -(-product.n // _COLUMNS),
        *(a, product.panels, product.m, product.n, a.shape[1]),
        product.ones_of_rows(launcher) if of_row else None,
        product.ones_of_columns(launcher) if of_column else None,
        *(of_k * product.n_bits, of_row, of_column, of_both),
        *product.epilogue,
        shared_bytes=_STAGES * (rows + _COLUMNS) * _LINE_BYTES
        + _ALIGNMENT_BYTES
        + _LEVEL_BYTES * _COLUMNS,
    )


def _aligned(a: Tensor) -> Tensor:
    """The rows, copied if need be, so that each begins at a multiple of 16 bytes."""
    m, n_words = a.shape
    if n_words % _VECTOR_WORDS == 0 and a.data_ptr() % 16 == 0:
        return a
    wide = a.new_zeros((m, -(-n_words // _VECTOR_WORDS) * _VECTOR_WORDS))
    wide[:, :n_words] = a
    return wide
