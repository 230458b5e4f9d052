"""Pools of packed signs and of integers, and the residual add; every result is exact."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import reference_convolution as reference
from kernels.backends import kernel_target
from kernels.convolution_call import Plan, Size, check_images, pair_of, vector
from kernels.host import KernelLibrary
from kernels.packing import pack_bits, unpack_bits
from kernels.panels import Layout


def max_pool_bits(
    images: NDArray[np.uint32],
    window: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Largest sign of every window, which is the OR of its bits.

    Parameters
    ----------
    images
        Shape (N, H, W, words), uint32.
    window, stride, padding
        The stride is the window by default; outside the image is -1.

    Returns
    -------
    NDArray
        Shape (N, H', W', words), uint32.
    """
    check_images(images, np.dtype(np.uint32), "images")
    shape = _pool_shape(images, 32 * images.shape[3], 0, window, stride, padding)
    size = (len(images), *shape[10:].tolist(), images.shape[3])
    target = kernel_target(library)
    if target is None:
        bits = unpack_bits(images, 32 * images.shape[3])
        pair = (pair_of(window, "window"), pair_of(stride or window, "stride"))
        return pack_bits(reference.max_pool_bits(bits, *pair, pair_of(padding, "padding")))
    source, out = np.ascontiguousarray(images), np.empty(size, np.uint32)
    target.library.call("bsk_pool", target.code, shape, source, 0, 0, out, 0, len(images))
    return out


def average_pool(
    images: NDArray[np.int32],
    window: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    multiplier: NDArray[np.int32],
    offset: NDArray[np.int64],
    shift: int,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    r"""Scaled sum of every window; the reciprocal of its size is part of the multiplier.

    .. math:: y = \lfloor (m_c \sum x + b_c + 2^{s-1}) / 2^s \rfloor

    Parameters
    ----------
    images
        Shape (N, H, W, C), int32.
    window, stride, padding
        The stride is the window by default; outside the image is 0.
    multiplier, offset
        m and b, shape (C,), int32 and int64.
    shift
        s, 1 to 31.

    Returns
    -------
    NDArray
        Shape (N, H', W', C), int32. The caller bounds sums and results: both have to fit int32.
    """
    check_images(images, np.dtype(np.int32), "images")
    channels = images.shape[3]
    if not 1 <= shift <= 31:
        raise ValueError(f"shift: expected 1 to 31, got {shift}")
    factors = vector(multiplier, channels, np.dtype(np.int32), "multiplier")
    offsets = vector(offset, channels, np.dtype(np.int64), "offset")
    shape = _pool_shape(images, channels, shift, window, stride, padding)
    target = kernel_target(library)
    if target is None:
        pair = (pair_of(window, "window"), pair_of(stride or window, "stride"))
        wide = (images.astype(np.int64), *pair, pair_of(padding, "padding"))
        pooled = reference.average_pool(*wide, factors.astype(np.int64), offsets, shift)
        return pooled.astype(np.int32)
    source = np.ascontiguousarray(images)
    out = np.empty((len(images), *shape[10:].tolist(), channels), np.int32)
    operands = (shape, source, factors, offsets, out)
    target.library.call("bsk_pool", target.code, *operands, 0, len(images))
    return out


def add(
    x: NDArray[np.int32], y: NDArray[np.int32], *, library: KernelLibrary | None = None
) -> NDArray[np.int32]:
    """Add two residual streams, int32 of one shape; the caller excludes overflow."""
    if x.dtype != np.int32 or y.dtype != np.int32 or x.shape != y.shape:
        raise ValueError(
            f"x, y: expected int32 of one shape, got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    target = kernel_target(library)
    if target is None:
        return reference.add(x.astype(np.int64), y.astype(np.int64)).astype(np.int32)
    out = np.empty(x.shape, np.int32)
    first, second = np.ascontiguousarray(x), np.ascontiguousarray(y)
    target.library.call("bsk_add", target.code, first, second, out, 0, x.size)
    return out


def _pool_shape(
    images: NDArray[Any],
    channels: int,
    shift: int,
    window: Size,
    stride: Size | None,
    padding: Size,
) -> NDArray[np.int64]:
    """Argument of ``bsk_pool``."""
    kernel = pair_of(window, "window")
    step = kernel if stride is None else pair_of(stride, "stride")
    size, pad = (images.shape[1], images.shape[2]), pair_of(padding, "padding")
    plan = Plan(0, Layout.ROWS, 1, 0, channels, channels, size, kernel, step, pad, (1, 1))
    pairs = (size, kernel, step, pad, plan.out_size())
    return np.array([channels, shift, *(n for pair in pairs for n in pair)], np.int64)
