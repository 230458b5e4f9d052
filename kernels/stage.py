"""A stage of training, convolution and max-pool with all gradients, image by image in C.

Images are (N, H, W, C); the signs of a pixel are packed into words of 32 bits. A sum is the
convolution's output after pooling. Nothing as large as the batch exists but what is returned, and
each sum has one order, whatever the back end; with several threads the images are cut into ranges
whose sums are added in order. :func:`is_compiled` says whether any of it can run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.backends import KernelTarget, kernel_target
from kernels.convolution import ConvWeights
from kernels.convolution_call import KINDS, Plan
from kernels.errors import BackendUnavailable
from kernels.layout import CHANNEL_WORD, n_words
from kernels.panels import Layout
from kernels.threads import run_ranges

LARGEST_POOL = 16
"""Windows larger than this have more positions than a byte names."""
_LANES = 16

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]


def is_compiled() -> bool:
    """Whether there are compiled kernels; there is no other implementation here."""
    return kernel_target(None) is not None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Geometry of a convolution of one group and of the max-pool after it."""

    channels: int
    n_out: int
    size: tuple[int, int]
    """Height and width of the images."""
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    """Less than the kernel."""
    pool: int = 1
    """Window and stride; incomplete windows are dropped."""
    border: int = -1
    """What is outside an image of signs: -1 or 0. Reals have 0."""

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= LARGEST_POOL:
            raise ValueError(f"pool: expected 1 to {LARGEST_POOL}, got {self.pool}")
        if self.border not in (-1, 0):
            raise ValueError(f"border: expected -1 or 0, got {self.border}")
        self.full_size()

    def full_size(self) -> tuple[int, int]:
        """Height and width before pooling; ValueError if the geometry is impossible."""
        rows, columns = self._plan(1).out_size()
        if min(rows, columns) < self.pool:
            raise ValueError(f"pool: expected a window within {rows} x {columns}, got {self.pool}")
        return rows, columns

    def out_size(self) -> tuple[int, int]:
        """Height and width of the sums."""
        rows, columns = self.full_size()
        return rows // self.pool, columns // self.pool

    def sums_of_signs(
        self, words: Words, weight_signs: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.uint8] | None, NDArray[np.float64]]:
        """Convolve packed signs with signs, and pool.

        Parameters
        ----------
        words
            Shape (N, H, W, ceil(C / 32)), uint32.
        weight_signs
            Shape (n_out, KH, KW, C); True is +1.

        Returns
        -------
        tuple
            The sums, shape (N, rows, columns, n_out), float32; which position of its window each
            was (the first of equals), the same shape, or None without a pool; and per channel the
            totals of the sums and of their squares, shape (2, n_out), exact up to 2**53.
        """
        target, weights = _target(), ConvWeights.of(weight_signs)
        plan = self._plan(weights.layout).array()
        room = target.library.call("bsk_convolution_scratch", target.code, plan)

        def run(call: "_Call", begin: int, end: int) -> None:
            scratch = np.empty(-(-room // 8), np.uint64)
            image = np.empty((*self.full_size(), self.n_out), np.int32)
            operands = (call.array, plan, weights.data, scratch, image, begin, end)
            target.library.call("bsk_stage_sums_bits", target.code, *operands)

        return self._sums(run, len(words), {"images": words})

    def sums_of_reals(
        self, images: Floats, weights: Floats
    ) -> tuple[Floats, NDArray[np.uint8] | None, NDArray[np.float64]]:
        """Convolve ``images``, (N, H, W, C), with ``weights``, (n_out, KH, KW, C), and pool.

        The result is that of :meth:`sums_of_signs`; the order of each sum is that of the kernel's
        taps, and on AVX-512 its products are fused.
        """
        n_out = _up(self.n_out)
        panels = np.zeros((*self.kernel, self.channels, n_out), np.float32)
        panels[..., : self.n_out] = weights.transpose(1, 2, 3, 0)

        def run(call: "_Call", begin: int, end: int) -> None:
            scratch = self._scratch(call)
            call.run("bsk_stage_sums_reals", begin, end)
            del scratch

        return self._sums(run, len(images), {"images": images, "weights": panels})

    def normalise(
        self, sums: Floats, scale: Floats, shift: Floats, clip: float | None
    ) -> tuple[Floats, Words | None]:
        """``sums * scale + shift`` per channel; with a clip its signs, and where it is within.

        Returns
        -------
        tuple
            Floats or ±1, shape of ``sums``; the packed mask of ``|value| <= clip``, or None.
        """
        out, within = np.empty_like(sums), None
        if clip is not None:
            within = np.empty((*sums.shape[:-1], n_words(self.n_out, CHANNEL_WORD)), np.uint32)
        arrays: dict[str, NDArray[Any] | None]
        arrays = {"sums": sums, "coefficients": np.stack([scale, shift])}
        bound, mask = float(clip or 0.0), 0 if within is None else within

        def run(begin: int, end: int) -> None:
            _Call(self, arrays).run("bsk_stage_normalise", begin, end, bound, out, mask)

        run_ranges(run, sums.size // self.n_out, grain=64)
        return out, within

    def gradient_totals(
        self, sums: Floats, gradient: Floats, within: Words | None, mean: Floats
    ) -> NDArray[np.float64]:
        """Per channel the totals of the gradient and of gradient times (sum - mean): (2, n_out)."""
        arrays: dict[str, NDArray[Any] | None]
        arrays = {"sums": sums, "gradient": gradient, "within": within, "coefficients": mean}

        def run(call: "_Call", begin: int, end: int) -> None:
            call.run("bsk_stage_totals", begin, end)

        totals = np.zeros((2, self.n_out), np.float64)
        return _in_ranges(self, run, sums.size // self.n_out, arrays, {"totals": totals})["totals"]

    def gradients_of_signs(
        self,
        words: Words,
        sums: Floats,
        choices: NDArray[np.uint8] | None,
        gradient: Floats,
        within: Words | None,
        coefficients: Floats,
        weight_signs: NDArray[np.bool_] | None,
    ) -> tuple[Floats, Floats | None]:
        r"""Gradients of the signs of weights and images.

        .. math:: g = a_c (m \, \partial y + b_c (\text{sum} - \mu_c) + c_c), \qquad
                  \partial W = g^\top X, \qquad \partial X = g W

        Parameters
        ----------
        words, sums, choices
            Argument and results of :meth:`sums_of_signs`.
        gradient
            ∂y, shape of ``sums``.
        within
            m, packed; None is everywhere.
        coefficients
            a, b, c and μ, shape (4, n_out).
        weight_signs
            W; None if the gradient of the images is not wanted.

        Returns
        -------
        tuple
            ∂W, shape (n_out, KH, KW, C), and ∂X, shape (N, H, W, C), or None.
        """
        channels = _up(self.channels)
        out: Floats | None = None
        arrays: dict[str, NDArray[Any] | None] = {
            "images": words,
            "sums": sums,
            "choices": choices,
            "gradient": gradient,
            "within": within,
            "coefficients": coefficients,
        }
        if weight_signs is not None:
            panels = np.zeros((self.n_out, *self.kernel, channels), np.float32)
            np.copyto(panels[..., : self.channels], weight_signs)
            panels[..., : self.channels] *= 2
            panels[..., : self.channels] -= 1
            rows = panels.reshape(self.n_out, -1, channels // _LANES, _LANES)
            # A vector that lies across two lines of the cache is read at half the speed.
            arrays["weights"] = _aligned(rows.transpose(2, 0, 1, 3))
            out = np.empty((len(words), *self.size, self.channels), np.float32)
            arrays["image_gradient"] = out
        total = np.zeros((self.n_out, *self.kernel, channels), np.float32)
        result = self._gradients("bsk_stage_gradients_bits", len(words), arrays, total)
        return result[..., : self.channels], out

    def gradients_of_reals(
        self,
        images: Floats,
        sums: Floats,
        choices: NDArray[np.uint8] | None,
        gradient: Floats,
        within: Words | None,
        coefficients: Floats,
    ) -> Floats:
        """∂W of a convolution of reals, shape (n_out, KH, KW, C); else as for signs."""
        arrays: dict[str, NDArray[Any] | None] = {
            "images": images,
            "sums": sums,
            "choices": choices,
            "gradient": gradient,
            "within": within,
            "coefficients": coefficients,
        }
        total = np.zeros((*self.kernel, self.channels, _up(self.n_out)), np.float32)
        result = self._gradients("bsk_stage_gradients_reals", len(images), arrays, total)
        return result[..., : self.n_out].transpose(3, 0, 1, 2)

    def _gradients(
        self, name: str, n: int, arrays: dict[str, NDArray[Any] | None], total: Floats
    ) -> Floats:
        def run(call: "_Call", begin: int, end: int) -> None:
            scratch = self._scratch(call)
            call.run(name, begin, end)
            del scratch

        return _in_ranges(self, run, n, arrays, {"weight_gradient": total})["weight_gradient"]

    def _sums(
        self,
        run: "Callable[[_Call, int, int], None]",
        n: int,
        arrays: dict[str, NDArray[Any] | None],
    ) -> tuple[Floats, NDArray[np.uint8] | None, NDArray[np.float64]]:
        shape = (n, *self.out_size(), self.n_out)
        sums = np.empty(shape, np.float32)
        choices = np.empty(shape, np.uint8) if self.pool > 1 else None
        arrays = {**arrays, "sums": sums, "choices": choices}
        totals = np.zeros((2, self.n_out), np.float64)
        return sums, choices, _in_ranges(self, run, n, arrays, {"totals": totals})["totals"]

    def _scratch(self, call: "_Call") -> NDArray[np.uint8]:
        n_bytes = _target().library.call("bsk_stage_scratch", call.array)
        scratch = np.empty(n_bytes, np.uint8)
        call.put("scratch", scratch)
        return scratch

    def _plan(self, layout: int) -> Plan:
        return Plan(
            KINDS["bits"], Layout(layout), 1, self.border, self.channels, self.n_out, self.size,
            self.kernel, self.stride, self.padding, (1, 1),
        )  # fmt: skip


_ARRAYS = (
    "images", "sums", "choices", "gradient", "within", "coefficients", "weights",
    "image_gradient", "weight_gradient", "totals", "scratch",
)  # fmt: skip
"""The pointers of ``bs_stage`` in ``c/host/stage.h``, in their order."""


class _Call:
    """One ``bs_stage``; its arrays live as long as this does."""

    def __init__(self, stage: Stage, arrays: dict[str, NDArray[Any] | None]) -> None:
        pairs = (stage.size, stage.kernel, stage.stride, stage.padding)
        out, full = stage.out_size(), stage.full_size()
        numbers = [stage.channels, stage.n_out, *(n for pair in pairs for n in pair)]
        numbers += [stage.pool, *out, *full, stage.border]
        self._n_numbers = len(numbers)
        self.array = np.array([*numbers, *[0] * len(_ARRAYS)], np.int64)
        self._arrays: list[NDArray[Any]] = []
        for name, array in arrays.items():
            if array is not None:
                self.put(name, array)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Set one pointer."""
        assert array.flags.c_contiguous, name
        self._arrays.append(array)
        self.array[self._n_numbers + _ARRAYS.index(name)] = array.ctypes.data

    def run(self, name: str, begin: int, end: int, *rest: Any) -> None:
        """Call a function of ``c/host/stage.c`` on a range."""
        target = _target()
        target.library.call(name, target.code, self.array, begin, end, *rest)


def _in_ranges(
    stage: Stage,
    run: Callable[[_Call, int, int], None],
    n: int,
    arrays: dict[str, NDArray[Any] | None],
    totals: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Run on ranges of images or pixels; what is summed over them is summed in their order."""
    parts: dict[int, dict[str, NDArray[Any]]] = {}

    def run_part(begin: int, end: int) -> None:
        part = {name: np.zeros_like(total) for name, total in totals.items()}
        run(_Call(stage, {**arrays, **part}), begin, end)
        parts[begin] = part

    run_ranges(run_part, n)
    for begin in sorted(parts):
        for name, total in totals.items():
            total += parts[begin][name]
    return totals


def _target() -> KernelTarget:
    target = kernel_target(None)
    if target is None:
        raise BackendUnavailable("stage: expected compiled kernels, got the back end numpy")
    return target


def _aligned(values: Floats) -> Floats:
    """Copy to an address that is a multiple of 64."""
    room = np.empty(values.size + _LANES, np.float32)
    begin = -room.ctypes.data % (4 * _LANES) // 4
    out = room[begin : begin + values.size].reshape(values.shape)
    np.copyto(out, values)
    return out


def _up(n: int) -> int:
    return -(-n // _LANES) * _LANES
