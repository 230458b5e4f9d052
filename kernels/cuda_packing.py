"""Packing, unpacking, transposing and counting bits on CUDA.

Words are int32 tensors that hold bit patterns: bit i is element i, bits past the end are 0. Panels
are the layout VECTORS of :mod:`kernels.panels`, shape (ceil(n / 8), ceil(n_words / 4), 32).
"""

import math
from typing import Final, Literal, overload

import torch
from torch import Tensor

from kernels.cuda_launch import Launcher

WORD_BITS: Final = 32
_WARP_WORDS: Final = 32  # words of a warp of pack.cu and unpack.cu
_BLOCK_WORDS: Final = 8 * _WARP_WORDS
_UNIT_BYTES: Final = 16
_MAX_WORDS: Final = 2**31 - 1  # of one launch: their numbers are 32 bits
_NAMES: Final = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.uint8: "bytes",
    torch.int8: "bytes",
    torch.bool: "bytes",
}
"""Type of elements -> ending of the kernel's name."""

PANEL_COLUMNS: Final = 8
_BLOCK_OF_WORDS: Final = 4  # words of a column side by side in a panel
_TILE: Final = 8  # words of a row, and words of a column, of a block of transpose.cu


def words_of(n_bits: int) -> int:
    """Words that hold ``n_bits`` bits."""
    return -(-n_bits // WORD_BITS)


@overload
def pack(
    launcher: Launcher, x: Tensor, threshold: float = 0.0, *, popcounts: Literal[False] = False
) -> Tensor: ...


@overload
def pack(
    launcher: Launcher, x: Tensor, threshold: float = 0.0, *, popcounts: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def pack(
    launcher: Launcher, x: Tensor, threshold: float = 0.0, *, popcounts: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Compare with a threshold and pack the last axis.

    .. math:: b_i = 1 \text{ if } x_i \ge t \text{ else } 0

    Parameters
    ----------
    launcher
        Where to run; ``x`` is there.
    x
        Shape (..., K), float32, bfloat16, uint8 or int8, contiguous; NaN gives bit 0.
    threshold
        t; the default packs signs, with sign(0) = +1.
    popcounts
        Whether to count the bits of each row too.

    Returns
    -------
    Tensor or tuple of Tensor
        Words, shape (..., ceil(K / 32)), int32; and the counts, shape (...), int32.

    Raises
    ------
    TypeError, ValueError
        If dtype, number of axes or strides are others.
    """
    _check_source(x, (torch.float32, torch.bfloat16, torch.uint8, torch.int8))
    words = _empty_words(x)
    if x.dtype in (torch.uint8, torch.int8):
        test: tuple[int | float, ...] = _byte_level(x.dtype, threshold)
    else:
        test = (float(threshold),)
    _launch_rows(launcher, "pack", "pack", x, words, x, (*test, words))
    return (words, row_popcounts(launcher, words)) if popcounts else words


def pack_signs(launcher: Launcher, x: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Pack signs and, in the same pass, where the straight-through estimator lets gradients pass.

    Parameters
    ----------
    launcher, x
        As :func:`pack`, float32 or bfloat16.
    clip
        c of :math:`|x| \le c`.

    Returns
    -------
    tuple of Tensor
        Words of ``x >= 0`` and words of ``|x| <= clip``, each (..., ceil(K / 32)), int32; NaN gives
        0 in both.

    Raises
    ------
    TypeError, ValueError
        As :func:`pack`.
    """
    _check_source(x, (torch.float32, torch.bfloat16))
    words, within = _empty_words(x), _empty_words(x)
    _launch_rows(launcher, "pack", "pack_signs", x, words, x, (float(clip), words, within))
    return words, within


def unpack(
    launcher: Launcher,
    words: Tensor,
    n_bits: int,
    dtype: torch.dtype = torch.bool,
    *,
    signs: bool = False,
) -> Tensor:
    """Unpack the last axis.

    Parameters
    ----------
    launcher
        Where to run; ``words`` are there.
    words
        Shape (..., ceil(n_bits / 32)), int32, contiguous.
    n_bits
        True length of the last axis.
    dtype
        bool, uint8, int8, float32 or bfloat16.
    signs
        Whether a bit becomes -1 or +1 instead of 0 or 1; not for bool and uint8.

    Returns
    -------
    Tensor
        Shape (..., n_bits).

    Raises
    ------
    TypeError, ValueError
        If ``dtype`` is another one, or the number of words does not belong to ``n_bits``.
    """
    check_words("words", words, n_bits)
    values = _VALUES.get((dtype, signs))
    if values is None:
        raise TypeError(
            f"dtype: expected one of {', '.join(str(d) for d, s in _VALUES if s == signs)} "
            f"with signs={signs}, got {dtype}"
        )
    out = words.new_empty((*words.shape[:-1], n_bits), dtype=dtype)
    _launch_rows(launcher, "unpack", "unpack", out, words, words, (*values, out))
    return out


def row_popcounts(launcher: Launcher, words: Tensor) -> Tensor:
    """Count the bits of each row.

    Parameters
    ----------
    launcher
        Where to run; ``words`` are there.
    words
        Shape (..., n_words), int32, contiguous.

    Returns
    -------
    Tensor
        Shape (...), int32.
    """
    n_words = words.shape[-1]
    n_rows = math.prod(words.shape[:-1])
    counts = words.new_empty(words.shape[:-1])
    log_lanes = min(5, max(0, n_words - 1).bit_length())
    grid = -(-(n_rows << log_lanes) // 256)
    launcher.launch("panels", "row_popcounts", grid, words, n_rows, n_words, log_lanes, counts)
    return counts


def panel_popcounts(launcher: Launcher, panels: Tensor, n: int) -> Tensor:
    """Count the bits of each column of panels.

    Parameters
    ----------
    launcher
        Where to run; ``panels`` are there.
    panels
        Shape (ceil(n / 8), n_blocks, 32), int32, contiguous.
    n
        Columns.

    Returns
    -------
    Tensor
        Shape (n,), int32.

    Raises
    ------
    ValueError
        If the number of panels does not belong to ``n``.
    """
    n_panels = -(-n // PANEL_COLUMNS)
    if panels.ndim != 3 or (panels.shape[0], panels.shape[2]) != (n_panels, 32):
        raise ValueError(
            f"panels: expected shape ({n_panels}, n_blocks, 32) for {n} columns, "
            f"got {tuple(panels.shape)}"
        )
    counts = panels.new_empty(n)
    grid = -(-n_panels // 4)
    launcher.launch("panels", "panel_popcounts", grid, panels, n, panels.shape[1], counts)
    return counts


def to_panels(launcher: Launcher, columns: Tensor) -> Tensor:
    """Bring packed columns into panels; missing columns and words are zeros.

    Parameters
    ----------
    launcher
        Where to run; ``columns`` are there.
    columns
        Shape (n, n_words), int32, contiguous; each row is one column of the product.

    Returns
    -------
    Tensor
        Shape (ceil(n / 8), ceil(n_words / 4), 32), int32.
    """
    if columns.ndim != 2:
        raise ValueError(f"columns: expected shape (n, n_words), got {tuple(columns.shape)}")
    n, n_words = columns.shape
    panels = columns.new_empty(_panel_shape(n, n_words))
    n_panels, n_blocks, _ = panels.shape
    grid = (n_panels, -(-n_blocks // 16))
    launcher.launch("panels", "to_panels", grid, columns, n, n_words, n_blocks, panels)
    return panels


def transpose_bits(launcher: Launcher, words: Tensor, n_bits: int) -> Tensor:
    """Transpose a matrix of bits that is packed along its rows.

    Parameters
    ----------
    launcher
        Where to run; ``words`` are there.
    words
        Shape (n_rows, ceil(n_bits / 32)), int32, contiguous.
    n_bits
        True length of a row.

    Returns
    -------
    Tensor
        Shape (n_bits, ceil(n_rows / 32)), int32; bits past n_rows are zero.

    Raises
    ------
    TypeError, ValueError
        If dtype or shape do not fit.
    """
    out = words.new_empty((n_bits, words_of(words.shape[0])))
    _launch_transpose(launcher, "transpose_bits", words, n_bits, out)
    return out


def transpose_to_panels(launcher: Launcher, words: Tensor, n_bits: int) -> Tensor:
    """Transpose a matrix of bits into panels: :func:`to_panels` of :func:`transpose_bits`.

    Returns
    -------
    Tensor
        Shape (ceil(n_bits / 8), ceil(n_rows / 128), 32), int32.
    """
    out = words.new_empty(_panel_shape(n_bits, words_of(words.shape[0])))
    _launch_transpose(launcher, "transpose_to_panels", words, n_bits, out)
    return out


def check_words(name: str, words: Tensor, n_bits: int) -> None:
    """Check that ``words`` are rows of ``n_bits`` bits.

    Raises
    ------
    TypeError, ValueError
        If they are not int32, or another number of words.
    """
    if words.dtype != torch.int32:
        raise TypeError(f"{name}: expected int32 words, got {words.dtype}; pack them first")
    if words.ndim == 0 or words.shape[-1] != words_of(n_bits):
        raise ValueError(
            f"{name}: expected last axis {words_of(n_bits)} for {n_bits} bits, "
            f"got shape {tuple(words.shape)}"
        )


def _panel_shape(n: int, n_words: int) -> tuple[int, int, int]:
    return -(-n // PANEL_COLUMNS), -(-n_words // _BLOCK_OF_WORDS), 32


def _check_source(x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if x.dtype not in dtypes:
        raise TypeError(f"x: expected one of {', '.join(map(str, dtypes))}, got {x.dtype}")
    if x.ndim == 0 or not x.is_contiguous():
        raise ValueError(
            f"x: expected a contiguous tensor with an axis to pack, got shape {tuple(x.shape)} "
            f"with strides {x.stride()}; call contiguous()"
        )


def _empty_words(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], words_of(x.shape[-1])), dtype=torch.int32)


def _byte_level(dtype: torch.dtype, threshold: float) -> tuple[int, int]:
    """What to flip in four bytes so that they are unsigned, and the least byte that gives 1."""
    offset = 128 if dtype == torch.int8 else 0
    if math.isnan(threshold):
        return offset * 0x01010101, 256
    level = max(0.0, min(256.0, threshold + offset))
    return offset * 0x01010101, math.ceil(level)


def _launch_rows(
    launcher: Launcher,
    source: str,
    kernel: str,
    elements: Tensor,
    words: Tensor,
    source_data: Tensor,
    others: tuple[Tensor | int | float, ...],
) -> None:
    """Run a kernel of pack.cu or unpack.cu: 16 bytes at a time where rows begin at 16 bytes."""
    n, row_words, n_words = elements.shape[-1], words.shape[-1], words.numel()
    if n_words > _MAX_WORDS:
        raise ValueError(f"{kernel}: expected less than 2**31 words, got {n_words}; split the rows")
    if n % WORD_BITS == 0 and n_words:  # rows fill their words: they are one long row
        n, row_words = elements.numel(), n_words
    unit = _UNIT_BYTES // elements.element_size()
    if n % unit == 0 and elements.data_ptr() % _UNIT_BYTES == 0:
        row_length = n // unit
    else:
        row_length, kernel = n, f"{kernel}_elements"
    launcher.launch(
        source,
        f"{kernel}_{_NAMES[elements.dtype]}",
        -(-n_words // _BLOCK_WORDS),
        *(source_data, n_words, row_words, row_length, *others),
    )


def _launch_transpose(
    launcher: Launcher, kernel: str, words: Tensor, n_bits: int, out: Tensor
) -> None:
    check_words("words", words, n_bits)
    if words.ndim != 2:
        raise ValueError(f"words: expected shape (n_rows, n_words), got {tuple(words.shape)}")
    n_rows, n_words = words.shape
    grid = (-(-words_of(n_rows) // _TILE), -(-n_words // _TILE))
    shared = 4 * _TILE * WORD_BITS * (_TILE + 1)
    launcher.launch(
        "transpose", kernel, grid, words, n_rows, n_words, n_bits, out, shared_bytes=shared
    )


_VALUES: Final = {
    (torch.bool, False): (1, 0),
    (torch.uint8, False): (1, 0),
    (torch.int8, False): (1, 0),
    (torch.int8, True): (1, 0xFF),
    (torch.float32, False): (0x3F800000, 0),
    (torch.float32, True): (0x3F800000, 0xBF800000),
    (torch.bfloat16, False): (0x3F80, 0),
    (torch.bfloat16, True): (0x3F80, 0xBF80),
}
"""Type of elements and whether they are signs -> bit patterns of a bit 1 and of a bit 0."""
