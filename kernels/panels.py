"""Columns of a binary product in the order in which an inner loop reads them (``c/tile.h``)."""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Layout(IntEnum):
    """How the words of packed columns lie in memory; the code stands in a model file."""

    ROWS = 0
    """Canonical: column by column; every back end reads it."""
    LANES = 1
    """Panels of 16 columns, word by word: one 32-bit lane each. For x86."""
    VECTORS = 2
    """Panels of 8 columns, 128 bits by 128 bits. For ARM and CUDA."""


WIDTH = {Layout.LANES: 16, Layout.VECTORS: 8}
"""Columns of a panel."""
STEP = {Layout.LANES: 1, Layout.VECTORS: 4}
"""Words of one column that lie side by side."""


def to_panels(columns: NDArray[np.uint32], layout: Layout) -> NDArray[np.uint32]:
    """Rearrange packed columns; missing columns and words are zeros.

    Parameters
    ----------
    columns
        Shape (n, n_words), each row one column of the product, 32-bit words.
    layout
        The target; ROWS returns a flat copy.

    Returns
    -------
    NDArray
        Flat uint32.
    """
    if layout is Layout.ROWS:
        return np.ascontiguousarray(columns).reshape(-1)
    width, step = WIDTH[layout], STEP[layout]
    n, n_words = columns.shape
    padded = np.zeros((-(-n // width) * width, -(-n_words // step) * step), np.uint32)
    padded[:n, :n_words] = columns
    panels = padded.reshape(len(padded) // width, width, padded.shape[1] // step, step)
    return np.ascontiguousarray(panels.transpose(0, 2, 1, 3)).reshape(-1)


def from_panels(panels: NDArray[Any], n: int, n_words: int, layout: Layout) -> NDArray[np.uint32]:
    """Invert :func:`to_panels`: shape (n, n_words)."""
    if layout is Layout.ROWS:
        return panels.reshape(n, n_words).astype(np.uint32)
    width, step = WIDTH[layout], STEP[layout]
    shape = (-(-n // width), -(-n_words // step), width, step)
    columns = panels.reshape(shape).transpose(0, 2, 1, 3)
    padded = np.ascontiguousarray(columns).reshape(shape[0] * width, shape[1] * step)
    return padded[:n, :n_words].copy()
