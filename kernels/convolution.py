"""Convolutions of packed bits and of small integers; every result is exact.

Images are (N, H, W, C) with the channels of a pixel packed into words of 32 bits (pad bits 0), or
uint8 and int8. Weights are (n_out, KH, KW, C / groups). Nothing is copied into a matrix of patches:
``c/conv_b1.c`` reads the images where they lie.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.backends import kernel_target
from kernels.convolution_call import (
    KINDS,
    Border,
    Plan,
    Run,
    Size,
    check_images,
    check_weights,
    level_rows,
    outside_of,
    pair_of,
    weights_bits,
)
from kernels.host import KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words
from kernels.matmul import native_layout
from kernels.packing import pack_bits
from kernels.panels import Layout, to_panels
from kernels.pooling import add, average_pool, max_pool_bits

__all__ = [
    "Border",
    "ConvWeights",
    "FloatConvolution",
    "Size",
    "add",
    "arrange_weights",
    "average_pool",
    "convolve",
    "convolve_bits",
    "convolve_int8",
    "convolve_int8_bits",
    "max_pool_bits",
    "weights_layout",
]


@dataclass(frozen=True)
class ConvWeights:
    """Packed weights of a binary convolution, in the order that a back end reads."""

    data: NDArray[np.uint32]
    """Flat: each group's columns in ``layout``, one group behind the other."""
    n_out: int
    kernel: tuple[int, int]
    channels: int
    """Of the image, all groups together."""
    groups: int
    layout: Layout

    @classmethod
    def of(
        cls,
        bits: NDArray[np.bool_],
        groups: int = 1,
        layout: Layout | None = None,
        *,
        library: KernelLibrary | None = None,
    ) -> "ConvWeights":
        """Pack weights.

        Parameters
        ----------
        bits
            Shape (n_out, KH, KW, C / groups), bool; True is +1.
        groups
            Divides n_out; C for a depthwise convolution.
        layout
            By default the one that :func:`weights_layout` names for the back end that runs.
        library
            Instead of this machine's.

        Raises
        ------
        TypeError, ValueError
            If dtype, rank or groups do not fit.
        """
        if bits.dtype != np.bool_:
            raise TypeError(f"bits: expected dtype bool (True is +1), got {bits.dtype}")
        check_weights(bits, groups)
        n_out, kernel_h, kernel_w, group_channels = bits.shape
        if layout is None:
            layout = weights_layout(
                n_out, group_channels, groups, native_layout(kernel_target(library))
            )
        data = arrange_weights(pack_bits(bits), groups, layout)
        return cls(data, n_out, (kernel_h, kernel_w), group_channels * groups, groups, layout)

    def bits(self) -> NDArray[np.bool_]:
        """Unpack: shape (n_out, KH, KW, C / groups)."""
        one = (1, 1)
        counts = (self.layout, self.groups, -1, self.channels, self.n_out)
        return weights_bits(
            self.data, Plan(KINDS["bits"], *counts, self.kernel, self.kernel, one, (0, 0), one)
        )


def weights_layout(n_out: int, group_channels: int, groups: int, native: Layout) -> Layout:
    """Order of the weights that runs fastest where ``native`` is the layout of products.

    Depthwise convolutions (one channel in and out per group) keep their weights in rows, because
    they are no product of words.
    """
    is_depthwise = group_channels == 1 and n_out == groups and groups > 1
    return Layout.ROWS if is_depthwise else native


def arrange_weights(words: NDArray[np.uint32], groups: int, layout: Layout) -> NDArray[np.uint32]:
    """Rearrange canonical weights (n_out, KH, KW, words), each group for itself; flat."""
    rows = words.reshape(len(words), -1)
    return np.concatenate([to_panels(part, layout) for part in np.split(rows, groups)])


def convolve(
    images: NDArray[np.uint32],
    weights: ConvWeights,
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    pool: Size = 1,
    bias: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    r"""Cross-correlate signs.

    .. math:: a_{n y x o} = \sum_{i j c} w_{o i j c}\, x_{n,\, s y + i - p,\, s x + j - p,\, c}

    Parameters
    ----------
    images
        Shape (N, H, W, ceil(C / 32)), uint32, pad bits 0.
    weights
        For C channels.
    stride, padding
        Steps of the kernel; pixels around the image, fewer than the kernel has.
    border
        What is outside the image: -1, or 0 exactly.
    pool
        Window and stride of a max-pool of the sums; incomplete windows are dropped.
    bias
        Shape (n_out,), int32, added to the sums.
    n_threads
        For batches; see :mod:`kernels.threads`.
    library
        Instead of this machine's.

    Returns
    -------
    NDArray
        Shape (N, H', W', n_out), int32, H' = ((H + 2 p - KH) // s + 1) // pool.

    Raises
    ------
    TypeError, ValueError
        If a dtype, shape or parameter does not fit.
    """
    plan = _plan_bits(images, weights, stride, padding, border, pool)
    return Run(plan, weights.data, bias, None, library)(images, n_threads)


def convolve_bits(
    images: NDArray[np.uint32],
    weights: ConvWeights,
    threshold: NDArray[np.int32],
    flip: NDArray[np.bool_],
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    pool: Size = 1,
    bias: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Cross-correlate signs and threshold the sums: a convolution, BatchNorm and sign in one.

    As :func:`convolve`, then bit = (sum >= threshold) ^ flip per channel, both of shape (n_out,).
    The result is packed, shape (N, H', W', ceil(n_out / 32)), pad bits 0.
    """
    plan = _plan_bits(images, weights, stride, padding, border, pool)
    levels = level_rows(threshold, flip, weights.n_out)
    return Run(plan, weights.data, bias, levels, library)(images, n_threads)


def convolve_int8(
    images: NDArray[Any],
    weights: NDArray[np.int8],
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    groups: int = 1,
    pool: Size = 1,
    bias: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.int32]:
    """Cross-correlate with int8 weights: a first layer on pixels, a last one on signs.

    As :func:`convolve`, but ``weights`` are (n_out, KH, KW, C / groups), int8, and ``images`` are
    uint8 or int8 (N, H, W, C), with 0 outside whatever ``border`` says, or packed signs.
    """
    plan = _plan_int8(images, weights, stride, padding, border, pool, groups)
    return Run(plan, weights, bias, None, library)(images, n_threads)


def convolve_int8_bits(
    images: NDArray[Any],
    weights: NDArray[np.int8],
    threshold: NDArray[np.int32],
    flip: NDArray[np.bool_],
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    groups: int = 1,
    pool: Size = 1,
    bias: NDArray[np.int32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """:func:`convolve_int8`, then bits as in :func:`convolve_bits`."""
    plan = _plan_int8(images, weights, stride, padding, border, pool, groups)
    levels = level_rows(threshold, flip, len(weights))
    return Run(plan, weights, bias, levels, library)(images, n_threads)


class FloatConvolution:
    """A binary convolution of the signs of float32 images, with its memory kept between calls.

    Parameters
    ----------
    weights
        For C channels.
    size
        Height and width of the images.
    stride, padding, border
        As in :func:`convolve`.
    level
        A value is +1 if it is at least this much.
    threshold, flip
        Both or neither: bits come out, as in :func:`convolve_bits`.
    library
        Instead of this machine's.

    Notes
    -----
    Not for several threads at once: they would share the memory.
    """

    def __init__(
        self,
        weights: ConvWeights,
        size: tuple[int, int],
        stride: Size = 1,
        padding: Size = 0,
        border: Border = "minus_one",
        *,
        level: float = 0.0,
        threshold: NDArray[np.int32] | None = None,
        flip: NDArray[np.bool_] | None = None,
        library: KernelLibrary | None = None,
    ) -> None:
        words = n_words(weights.channels, CHANNEL_WORD)
        self._packed = np.zeros((1, *size, words), np.uint32)
        plan = _plan_bits(self._packed, weights, stride, padding, border, 1)
        levels = None
        if threshold is not None and flip is not None:
            levels = level_rows(threshold, flip, weights.n_out)
        self._run, self._level = Run(plan, weights.data, None, levels, library), float(level)
        self._scratch, self._shape = self._run.scratch(), (*size, weights.channels)

    def __call__(
        self, images: NDArray[np.float32], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Convolve images (N, H, W, C), float32; ``out`` as :func:`convolve` returns it."""
        if images.dtype != np.float32 or images.shape[1:] != self._shape:
            raise ValueError(
                f"images: expected float32 (N, {', '.join(map(str, self._shape))}), "
                f"got {images.dtype} {images.shape}"
            )
        return self._run.floats(images, self._level, self._packed, self._scratch, out)


def _plan_bits(
    images: NDArray[np.uint32],
    weights: ConvWeights,
    stride: Size,
    padding: Size,
    border: Border,
    pool: Size,
) -> Plan:
    check_images(images, np.dtype(np.uint32), "images")
    words = n_words(weights.channels, CHANNEL_WORD)
    if images.shape[3] != words:
        raise ValueError(
            f"images: expected last axis {words} ({weights.channels} channels in words of 32), "
            f"got shape {images.shape}"
        )
    return Plan(
        KINDS["bits"], weights.layout, weights.groups, outside_of(border), weights.channels,
        weights.n_out, (images.shape[1], images.shape[2]), weights.kernel,
        pair_of(stride, "stride"), pair_of(padding, "padding"), pair_of(pool, "pool"),
    )  # fmt: skip


def _plan_int8(
    images: NDArray[Any],
    weights: NDArray[np.int8],
    stride: Size,
    padding: Size,
    border: Border,
    pool: Size,
    groups: int,
) -> Plan:
    if weights.dtype != np.int8:
        raise TypeError(f"weights: expected dtype int8, got {weights.dtype}")
    check_weights(weights, groups)
    if images.dtype.name not in KINDS:
        raise TypeError(f"images: expected dtype uint8, int8 or uint32, got {images.dtype}")
    check_images(images, images.dtype, "images")
    n_out, kernel_h, kernel_w, group_channels = weights.shape
    channels, is_packed = group_channels * groups, images.dtype == np.uint32
    last = n_words(channels, CHANNEL_WORD) if is_packed else channels
    if images.shape[3] != last:
        raise ValueError(
            f"images: expected last axis {last} ({channels} channels), got shape {images.shape}"
        )
    return Plan(
        KINDS[images.dtype.name], Layout.ROWS, groups, outside_of(border) if is_packed else 0,
        channels, n_out, (images.shape[1], images.shape[2]), (kernel_h, kernel_w),
        pair_of(stride, "stride"), pair_of(padding, "padding"), pair_of(pool, "pool"),
    )  # fmt: skip
