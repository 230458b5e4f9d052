"""One call of a compiled convolution: geometry, checks, and the choice of who computes."""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels import reference_convolution as reference
from kernels.backends import kernel_target
from kernels.host import Argument, KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words
from kernels.packing import pack_bits, unpack_bits
from kernels.panels import Layout, from_panels
from kernels.threads import run_ranges

Size: TypeAlias = int | tuple[int, int]
"""Vertical and horizontal, or one number for both."""
Border: TypeAlias = Literal["minus_one", "zero"]

BORDERS: Final[dict[str, int]] = {"minus_one": -1, "zero": 0}
"""Name -> value of a sign outside the image."""
KINDS: Final = {"uint8": 1, "bits": 2, "uint32": 3, "int8": 4}
"""What is multiplied -> code in ``c/conv.h``; uint32 is signs with int8 weights."""
_LARGEST: Final = {1: 255 * 128, 2: 1, 3: 128, 4: 128 * 128}  # product of each kind


@dataclass(frozen=True)
class Plan:
    """What ``c/host/conv.c`` calls a shape."""

    kind: int
    layout: Layout
    groups: int
    outside: int
    channels: int
    n_out: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    pool: tuple[int, int]

    def out_size(self) -> tuple[int, int]:
        """Height and width that come out; ValueError if none would."""
        sizes = []
        for axis, name in enumerate(("height", "width")):
            size, kernel, stride = self.size[axis], self.kernel[axis], self.stride[axis]
            padding, pool = self.padding[axis], self.pool[axis]
            if not (0 <= padding < kernel and stride >= 1 and pool >= 1):
                raise ValueError(
                    f"{name}: expected stride >= 1, pool >= 1 and 0 <= padding < kernel, got "
                    f"stride {stride}, pool {pool}, padding {padding} and kernel {kernel}"
                )
            n_out = (size + 2 * padding - kernel) // stride + 1
            if size + 2 * padding < kernel or n_out < pool:
                raise ValueError(
                    f"images: expected room for one output, got {name} {size} with kernel "
                    f"{kernel}, padding {padding}, stride {stride} and pool {pool}"
                )
            sizes.append(n_out // pool)
        return sizes[0], sizes[1]

    def array(self) -> NDArray[np.int64]:
        """The shape argument of ``c/host/conv.c``."""
        numbers = (self.kind, self.layout, self.groups, self.outside, self.channels, self.n_out)
        pairs = (self.size, self.kernel, self.stride, self.padding, self.pool, self.out_size())
        return np.array([*numbers, *(n for pair in pairs for n in pair)], np.int64)


class Run:
    """A convolution ready to be called, on any number of images.

    Parameters
    ----------
    plan
        Its geometry.
    weights
        As ``plan`` says: packed and flat, or int8.
    bias
        Shape (n_out,), int32, or None.
    levels
        From :func:`level_rows`: bits come out, packed; None: int32.
    library
        Instead of this machine's.
    """

    def __init__(
        self,
        plan: Plan,
        weights: NDArray[Any],
        bias: NDArray[np.int32] | None,
        levels: NDArray[np.int32] | None,
        library: KernelLibrary | None,
    ) -> None:
        k = plan.kernel[0] * plan.kernel[1] * (plan.channels // plan.groups)
        if _LARGEST[plan.kind] * k >= 2**31:
            raise ValueError(f"weights: expected sums that fit int32, got {k} products")
        self._plan, self._shape, self._levels = plan, plan.array(), levels
        self._weights, self._bias = np.ascontiguousarray(weights), None
        if bias is not None:
            self._bias = vector(bias, plan.n_out, np.dtype(np.int32), "bias")
        self._target, self._is_foreign = kernel_target(library), library is not None
        self._scratch_words = 0
        if self._target is not None:
            code, compiled = self._target.code, self._target.library
            n_bytes = compiled.call("bsk_convolution_scratch", code, self._shape)
            if n_bytes >= 2**32:
                raise ValueError(
                    f"pool, weights: expected working memory below 4 GiB, got {plan.pool} and "
                    f"{plan.n_out} x {k}"
                )
            self._scratch_words = -(-n_bytes // 8)
        last = plan.n_out if levels is None else n_words(plan.n_out, CHANNEL_WORD)
        self._out_shape = (*plan.out_size(), last)
        self._out_type = np.dtype(np.int32 if levels is None else np.uint32)

    def __call__(self, images: NDArray[Any], n_threads: int | None = None) -> NDArray[Any]:
        """Convolve a batch of images that fit the plan."""
        if self._target is None:
            return self._reference(images)
        images, out = np.ascontiguousarray(images), self._buffer(len(images), None)

        def run(begin: int, end: int) -> None:
            self._call("bsk_convolve", images, self.scratch(), out, begin, end)

        run_ranges(run, len(images), n_threads=1 if self._is_foreign else n_threads)
        return out

    def floats(
        self,
        images: NDArray[np.float32],
        level: float,
        packed: NDArray[np.uint32],
        scratch: NDArray[np.uint64],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Pack images (N, H, W, C) one after the other into ``packed``, and convolve them."""
        if self._target is None:
            result = self._reference(pack_bits(images >= level))
            if out is None:
                return result
            np.copyto(out, result)
            return out
        images, out = np.ascontiguousarray(images), self._buffer(len(images), out)
        for i in range(len(images)):
            self._call("bsk_convolve_f32", images[i], scratch, out[i], packed, level)
        return out

    def scratch(self) -> NDArray[np.uint64]:
        """Working memory of one call."""
        return np.empty(self._scratch_words, np.uint64)

    def _call(
        self,
        name: str,
        images: NDArray[Any],
        scratch: NDArray[np.uint64],
        out: NDArray[Any],
        *rest: Argument,
    ) -> None:
        assert self._target is not None
        bias = 0 if self._bias is None else self._bias
        levels = 0 if self._levels is None else self._levels
        operands = (self._shape, images, self._weights, bias, levels, scratch, out)
        self._target.library.call(name, self._target.code, *operands, *rest)

    def _buffer(self, n: int, out: NDArray[Any] | None) -> NDArray[Any]:
        shape = (n, *self._out_shape)
        if out is None:
            return np.empty(shape, self._out_type)
        if out.shape != shape or out.dtype != self._out_type or not out.flags.c_contiguous:
            raise ValueError(
                f"out: expected contiguous {self._out_type} {shape}, got {out.dtype} {out.shape}"
            )
        return out

    def _reference(self, images: NDArray[Any]) -> NDArray[Any]:
        plan, weights = self._plan, self._weights
        if plan.kind in (KINDS["bits"], KINDS["uint32"]):
            images = 2 * unpack_bits(images, plan.channels).astype(np.int64) - 1
        if plan.kind == KINDS["bits"]:
            weights = 2 * weights_bits(weights, plan).astype(np.int64) - 1
        geometry = (plan.stride, plan.padding, plan.outside, plan.groups)
        sums = reference.max_pool(reference.convolve(images, weights, *geometry), plan.pool)
        sums = sums if self._bias is None else sums + self._bias
        if self._levels is None:
            return sums.astype(np.int32)
        return pack_bits(reference.threshold_bits(sums, *self._levels))


def weights_bits(data: NDArray[np.uint32], plan: Plan) -> NDArray[np.bool_]:
    """Unpack the weights of ``plan``: shape (n_out, KH, KW, C / groups)."""
    group_channels = plan.channels // plan.groups
    tap_words = n_words(group_channels, CHANNEL_WORD)
    n_row, n_rows = plan.kernel[0] * plan.kernel[1] * tap_words, plan.n_out // plan.groups
    parts = np.split(data, plan.groups)
    rows = np.concatenate([from_panels(part, n_rows, n_row, plan.layout) for part in parts])
    return unpack_bits(rows.reshape(plan.n_out, *plan.kernel, tap_words), group_channels)


def check_weights(weights: NDArray[Any], groups: int) -> None:
    """Raise ValueError unless these are weights (n_out, KH, KW, C / groups)."""
    if weights.ndim != 4 or weights.size == 0:
        raise ValueError(
            f"weights: expected shape (n_out, KH, KW, C / groups), got {weights.shape}"
        )
    if groups < 1 or len(weights) % groups:
        raise ValueError(f"groups: expected a divisor of n_out = {len(weights)}, got {groups}")


def check_images(images: NDArray[Any], dtype: np.dtype[Any], name: str) -> None:
    """Raise TypeError or ValueError unless these are images (N, H, W, C) of ``dtype``."""
    if images.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape[1:] or max(images.shape[1:3]) >= 2**31:
        raise ValueError(f"{name}: expected shape (N, H, W, channels), got {images.shape}")


def level_rows(
    threshold: NDArray[np.int32], flip: NDArray[np.bool_], n_out: int
) -> NDArray[np.int32]:
    """Both rows as ``c/conv.h`` reads them, shape (2, n_out)."""
    if flip.dtype != np.bool_ or flip.shape != (n_out,):
        raise ValueError(f"flip: expected bool ({n_out},), got {flip.dtype} {flip.shape}")
    levels = vector(threshold, n_out, np.dtype(np.int32), "threshold")
    return np.stack([levels, flip.astype(np.int32)])


def vector(x: NDArray[Any], n: int, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """``x``, contiguous; ValueError unless it has shape (n,) and ``dtype``."""
    if x.dtype != dtype or x.shape != (n,):
        raise ValueError(f"{name}: expected {dtype} of shape ({n},), got {x.dtype} {x.shape}")
    return np.ascontiguousarray(x)


def pair_of(size: Size, name: str) -> tuple[int, int]:
    """Vertical and horizontal; ValueError if they are none."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(0 <= n < 2**31 for n in pair):
        raise ValueError(f"{name}: expected one or two numbers >= 0, got {size}")
    return pair[0], pair[1]


def outside_of(border: Border) -> int:
    """Value of a sign outside the image."""
    if border not in BORDERS:
        raise ValueError(f"border: expected one of {', '.join(BORDERS)}, got {border!r}")
    return BORDERS[border]
