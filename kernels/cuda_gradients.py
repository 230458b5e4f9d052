"""Gradients of the binary layers on a GPU: real matrices times packed signs, and packed masks.

The kernels are ``cuda/gradients.cu`` and ``cuda/masks.cu``; every function takes the launcher first
and works on tensors of the launcher's device.
"""

from typing import Final

import torch
from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.cuda_packing import check_words

TILE: Final = 128
"""Rows, and columns, that one block makes."""
DEPTH: Final = 32
"""Terms of the sum in one step of a block."""
_PLANE, _BITS = 2 * TILE * DEPTH, DEPTH * TILE // 8
SHARED_BYTES: Final = {
    torch.bfloat16: 4 * (_PLANE + _BITS),  # 4 stages
    torch.float32: 3 * _PLANE + 4 * TILE * DEPTH + 2 * _BITS,  # 3 terms, raw floats, bits twice
}
"""Type of the real matrix -> shared memory of a block."""
_TARGET_BLOCKS: Final = 264
"""Two blocks for each of the 132 multiprocessors of an H100; with fewer the sum is split."""
_LEAST_SPLIT: Final = 1024
"""Terms that a block sums at least: 32 steps, against the slab that it costs to write and read."""
_KEEP_COLUMNS: Final = 1024
"""Columns of one block of the kernels of masks."""
_MAX_GRID_ROWS: Final = 65535
_NAMES: Final = {torch.float32: "f32", torch.bfloat16: "bf16"}


def signs_product(
    launcher: Launcher,
    real: Tensor,
    words: Tensor,
    n: int,
    *,
    transposed: bool = False,
    mask: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    n_splits: int | None = None,
) -> Tensor:
    r"""Multiply a real matrix with packed signs, and leave out what a mask does not have.

    .. math:: c_{ik} = m_{ik} \sum_j r_{ij} s_{jk}, \qquad s_{jk} = \pm 1

    Parameters
    ----------
    real
        Shape (rows, J), or (J, rows) if ``transposed``; float32 or bfloat16, contiguous.
    words
        Shape (J, ceil(n / 32)), int32 words.
    n
        Columns of the result.
    transposed
        Whether ``real`` is stored as its transpose.
    mask
        Shape (rows, ceil(n / 32)), int32 words; None keeps everything.
    out_dtype
        float32 or bfloat16; by default that of ``real``.
    n_splits
        Parts of the sum that blocks of their own make; by default few blocks split it.

    Returns
    -------
    Tensor
        Shape (rows, n). Sums are float32; of a float32 ``real`` no bit is lost before.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together.
    """
    out_dtype = out_dtype or real.dtype
    for name, dtype in (("real", real.dtype), ("out_dtype", out_dtype)):
        if dtype not in _NAMES:
            raise TypeError(f"{name}: expected float32 or bfloat16, got {dtype}; use .to()")
    n_rows, n_sum = reversed(real.shape) if transposed else real.shape
    _check_rows("words", words, n_sum, n)
    if mask is not None:
        _check_rows("mask", mask, n_rows, n)
    if n_sum == 0:
        return real.new_zeros((n_rows, n), dtype=out_dtype)
    tiles = -(-n_rows // TILE) * -(-n // TILE)
    split = _split(tiles, n_sum, n_splits)
    n_slabs = -(-n_sum // split)
    is_whole = n_slabs == 1 and (out_dtype, real.dtype) != (torch.bfloat16, torch.float32)
    made = out_dtype if is_whole else torch.float32
    out = real.new_empty((n_slabs, n_rows, n), dtype=made)
    side = "transposed" if transposed else "rows"
    launcher.launch(
        *("gradients", f"multiply_{side}_{_NAMES[real.dtype]}_{_NAMES[made]}", (tiles, n_slabs)),
        *(real, words, mask if is_whole else None, out, n_rows, n, n_sum, split),
        int(_is_aligned(real, 16)),
        shared_bytes=SHARED_BYTES[real.dtype],
    )
    return out[0] if is_whole else _keep(launcher, out, mask, out_dtype)


def masked(launcher: Launcher, values: Tensor, mask: Tensor) -> Tensor:
    """Keep values where a mask has a 1, and put 0 elsewhere.

    Parameters
    ----------
    values
        Shape (..., n), float32 or bfloat16, contiguous.
    mask
        Shape (..., ceil(n / 32)), int32 words.

    Returns
    -------
    Tensor
        Shape and dtype of ``values``.
    """
    if values.dtype not in _NAMES:
        raise TypeError(f"values: expected float32 or bfloat16, got {values.dtype}; use .to()")
    n = values.shape[-1]
    n_rows = values.numel() // max(n, 1)
    _check_rows("mask", mask.reshape(n_rows, -1), n_rows, n)
    return _keep(launcher, values.view(1, n_rows, n), mask, values.dtype).view(values.shape)


def _keep(launcher: Launcher, slabs: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Sum slabs, shape (n_slabs, rows, n), mask and convert them."""
    n_slabs, n_rows, n = slabs.shape
    out = slabs.new_empty((n_rows, n), dtype=dtype)
    # Whole words make one long row, so that no thread of a warp idles.
    rows, columns = (1, n_rows * n) if n % 32 == 0 else (n_rows, n)
    launcher.launch(
        *("masks", f"keep_{_NAMES[slabs.dtype]}_{_NAMES[dtype]}"),
        (-(-columns // _KEEP_COLUMNS), min(rows, _MAX_GRID_ROWS)),
        *(slabs, mask, out, rows, columns, n_slabs),
        int(_is_aligned(slabs, 4 * slabs.element_size())),
    )
    return out


def _is_aligned(lines: Tensor, n_bytes: int) -> bool:
    """Whether every line of the last axis begins at a multiple of ``n_bytes``."""
    line_bytes = lines.shape[-1] * lines.element_size()
    return lines.data_ptr() % n_bytes == 0 and line_bytes % n_bytes == 0


def _split(tiles: int, n_sum: int, n_splits: int | None) -> int:
    """Terms of the sum that one block makes, whole steps."""
    if n_splits is None:
        n_splits = max(1, min(_TARGET_BLOCKS // max(tiles, 1), n_sum // _LEAST_SPLIT))
    return -(-n_sum // (n_splits * DEPTH)) * DEPTH


def _check_rows(name: str, words: Tensor, n_rows: int, n_bits: int) -> None:
    check_words(name, words, n_bits)
    if words.dim() != 2 or words.shape[0] != n_rows:
        raise ValueError(f"{name}: expected {n_rows} rows of words, got {tuple(words.shape)}")
