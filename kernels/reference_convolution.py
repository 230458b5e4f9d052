"""Slow, exact numpy twins of :mod:`kernels.convolution`: signs are +-1, zeros are zeros, int64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def convolve(
    images: NDArray[np.int64],
    weights: NDArray[np.int64],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    outside: int = 0,
    groups: int = 1,
) -> NDArray[np.int64]:
    r"""Cross-correlate integers tap by tap.

    .. math:: a_{y x o} = \sum_{i j c} w_{o i j c}\, x_{s y + i - p,\, s x + j - p,\, c}

    Parameters
    ----------
    images
        Shape (N, H, W, C); signs +-1, or integers.
    weights
        Shape (n_out, KH, KW, C / groups).
    stride, padding
        Vertical and horizontal.
    outside
        Value of a pixel outside the image: -1 or 0.
    groups
        Slices of the channels, in and out, that do not see each other.

    Returns
    -------
    NDArray
        Shape (N, (H + 2 p - KH) // s + 1, the same of W, n_out), int64.
    """
    n_out, kernel_h, kernel_w, channels = weights.shape
    (stride_h, stride_w), (pad_h, pad_w) = stride, padding
    margins = ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0))
    padded = np.pad(images.astype(np.int64), margins, constant_values=outside)
    height = (padded.shape[1] - kernel_h) // stride_h + 1
    width = (padded.shape[2] - kernel_w) // stride_w + 1
    out = np.zeros((len(images), height, width, n_out), np.int64)
    group_out = n_out // groups
    for i in range(kernel_h):
        for j in range(kernel_w):
            rows = slice(i, i + (height - 1) * stride_h + 1, stride_h)
            columns = slice(j, j + (width - 1) * stride_w + 1, stride_w)
            seen = padded[:, rows, columns]
            for g in range(groups):
                own = slice(g * group_out, (g + 1) * group_out)
                part = seen[..., g * channels : (g + 1) * channels]
                out[..., own] += part @ weights[own, i, j].T.astype(np.int64)
    return out


def max_pool(sums: NDArray[np.int64], window: tuple[int, int]) -> NDArray[np.int64]:
    """Largest value of every complete window, side by side; shape (N, H // h, W // w, C)."""
    n, height, width, channels = sums.shape
    rows, columns = height // window[0], width // window[1]
    out = np.empty((n, rows, columns, channels), np.int64)
    for y in range(rows):
        for x in range(columns):
            part = sums[:, y * window[0] : (y + 1) * window[0], x * window[1] : (x + 1) * window[1]]
            out[:, y, x] = part.max(axis=(1, 2))
    return out


def threshold_bits(
    sums: NDArray[np.int64], threshold: NDArray[Any], flip: NDArray[Any]
) -> NDArray[np.bool_]:
    """BatchNorm and sign: ``(sum >= threshold) ^ flip`` per channel."""
    bits: NDArray[np.bool_] = (sums >= threshold) ^ flip.astype(np.bool_)
    return bits


def max_pool_bits(
    bits: NDArray[np.bool_],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
) -> NDArray[np.bool_]:
    """OR of every window; what is outside the image is -1, that is 0. Shape (N, H', W', C)."""
    (window_h, window_w), (stride_h, stride_w), (pad_h, pad_w) = window, stride, padding
    padded = np.pad(bits, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (window_h, window_w), axis=(1, 2))
    return np.asarray(views[:, ::stride_h, ::stride_w].any(axis=(-2, -1)))


def average_pool(
    x: NDArray[np.int64],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    multiplier: NDArray[np.int64],
    offset: NDArray[np.int64],
    shift: int,
) -> NDArray[np.int64]:
    r"""Scaled sum of every window; outside the image is 0.

    .. math:: y = \lfloor (m_c \sum x + b_c + 2^{s-1}) / 2^s \rfloor
    """
    (window_h, window_w), (stride_h, stride_w), (pad_h, pad_w) = window, stride, padding
    padded = np.pad(x, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (window_h, window_w), axis=(1, 2))
    sums = views[:, ::stride_h, ::stride_w].sum(axis=(-2, -1), dtype=np.int64)
    out: NDArray[np.int64] = (sums * multiplier + offset + (1 << (shift - 1))) >> shift
    return out


def add(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of two residual streams."""
    return x + y
