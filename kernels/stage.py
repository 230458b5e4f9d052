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
LARGEST_SUM = 2**15 - 1
"""Sums of signs are kept in 16 bits; a longer window has to be convolved elsewhere."""
_LANES = 16

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Sums = NDArray[np.float32] | NDArray[np.int16]
"""Whole numbers of signs, floats of reals."""
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
        if self.n_terms > LARGEST_SUM:
            raise ValueError(f"kernel: expected at most {LARGEST_SUM} terms, got {self.n_terms}")
        if self.border not in (-1, 0):
            raise ValueError(f"border: expected -1 or 0, got {self.border}")
        self.full_size()

    @property
    def n_terms(self) -> int:
        """Products in one sum."""
        return self.channels * self.kernel[0] * self.kernel[1]

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
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8] | None, Doubles]:
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
            The sums, shape (N, rows, columns, n_out), int16; which position of its window each
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

        sums = np.empty((len(words), *self.out_size(), self.n_out), np.int16)
        choices, totals = self._sums(run, len(words), {"images": words, "integers": sums})
        return sums, choices, totals

    def sums_of_reals(
        self, images: Floats, weights: Floats
    ) -> tuple[Floats, NDArray[np.uint8] | None, Doubles]:
        """Convolve ``images``, (N, H, W, C), with ``weights``, (n_out, KH, KW, C), and pool.

        The result is that of :meth:`sums_of_signs`, the sums float32; the order of each sum is that
        of the kernel's taps, and on AVX-512 its products are fused.
        """
        sums = np.empty((len(images), *self.out_size(), self.n_out), np.float32)
        arrays = {"images": images, "weights": self._columns(weights), "sums": sums}
        choices, totals = self._sums(self._on_scratch("bsk_stage_sums_reals"), len(images), arrays)
        return sums, choices, totals

    def moments_of_reals(self, images: Floats) -> Doubles:
        r"""Totals of the products of a window's terms and, last row, of the terms themselves.

        .. math:: M_{kl} = \sum_p v_{pk} v_{pl}, \qquad M_{Kl} = \sum_p v_{pl}

        over all positions p of all images, terms in the order (KH, KW, C); shape
        (n_terms + 1, n_terms). Without a pool they have all that statistics of the sums need.
        """
        moments = np.zeros((self.n_terms + 1, self.n_terms), np.float64)
        run, arrays = self._on_scratch("bsk_stage_moments_reals"), {"images": images}
        return _in_ranges(self, run, len(images), {**arrays}, {"moments": moments})["moments"]

    def normalise_reals(
        self,
        images: Floats,
        weights: Floats,
        scale: Floats,
        shift: Floats,
        clip: float | None,
        *,
        packed: bool = False,
    ) -> tuple[Floats | Words, Words | None]:
        """:meth:`normalise` of the sums of ``images``, which are never held; no pool."""
        arrays = {"images": images, "weights": self._columns(weights)}
        operands = {**arrays, "coefficients": np.stack([scale, shift])}
        bound, out, within = self._outputs(len(images), clip, packed)
        target = _target()

        def run(begin: int, end: int) -> None:
            call = _Call(self, target, {**operands})
            scratch = self._scratch(call)
            call.run("bsk_stage_normalise_reals", begin, end, bound, *_places(out, within))
            del scratch

        run_ranges(run, len(images))
        return out, within

    def products_of_reals(self, images: Floats, gradient: Floats, within: Words | None) -> Doubles:
        """Totals of the gradient within the clip times each term, and, last row, of it alone.

        Shape (n_terms + 1, n_out); no pool.
        """
        totals = np.zeros((self.n_terms + 1, _up(self.n_out)), np.float64)
        run = self._on_scratch("bsk_stage_products_reals")
        arrays = {"images": images, "gradient": gradient, "within": within}
        result = _in_ranges(self, run, len(images), {**arrays}, {"totals": totals})["totals"]
        return result[:, : self.n_out]

    def normalise(
        self,
        sums: Sums,
        scale: Floats,
        shift: Floats,
        clip: float | None,
        *,
        packed: bool = False,
    ) -> tuple[Floats | Words, Words | None]:
        """``sums * scale + shift`` per channel; with a clip its signs, and where it is within.

        Returns
        -------
        tuple
            Floats or ±1, shape of ``sums``, or packed the words of the signs; the packed mask of
            ``|value| <= clip``, or None.
        """
        arrays: dict[str, NDArray[Any] | None]
        arrays = {**_named(sums), "coefficients": np.stack([scale, shift])}
        bound, out, within = self._outputs(len(sums), clip, packed)
        target = _target()

        def run(begin: int, end: int) -> None:
            call = _Call(self, target, arrays)
            call.run("bsk_stage_normalise", begin, end, bound, *_places(out, within))

        run_ranges(run, sums.size // self.n_out, grain=64)
        return out, within

    def gradient_totals(
        self, sums: Sums, gradient: Floats, within: Words | None, mean: Floats
    ) -> Doubles:
        """Per channel the totals of the gradient and of gradient times (sum - mean): (2, n_out)."""
        arrays: dict[str, NDArray[Any] | None]
        arrays = {**_named(sums), "gradient": gradient, "within": within, "coefficients": mean}

        def run(call: "_Call", begin: int, end: int) -> None:
            call.run("bsk_stage_totals", begin, end)

        totals = np.zeros((2, self.n_out), np.float64)
        return _in_ranges(self, run, sums.size // self.n_out, arrays, {"totals": totals})["totals"]

    def gradients_of_signs(
        self,
        words: Words,
        sums: Sums,
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
            **_named(sums),
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
        sums: Sums,
        choices: NDArray[np.uint8] | None,
        gradient: Floats,
        within: Words | None,
        coefficients: Floats,
    ) -> Floats:
        """∂W of a convolution of reals, shape (n_out, KH, KW, C); else as for signs."""
        arrays: dict[str, NDArray[Any] | None] = {
            "images": images,
            **_named(sums),
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
        totals = {"weight_gradient": total}
        return _in_ranges(self, self._on_scratch(name), n, arrays, totals)["weight_gradient"]

    def _sums(
        self,
        run: "Callable[[_Call, int, int], None]",
        n: int,
        arrays: dict[str, NDArray[Any]],
    ) -> tuple[NDArray[np.uint8] | None, Doubles]:
        shape = (n, *self.out_size(), self.n_out)
        choices = np.empty(shape, np.uint8) if self.pool > 1 else None
        totals = {"totals": np.zeros((2, self.n_out), np.float64)}
        return choices, _in_ranges(self, run, n, {**arrays, "choices": choices}, totals)["totals"]

    def _outputs(
        self, n: int, clip: float | None, packed: bool
    ) -> tuple[float, Floats | Words, Words | None]:
        """Bound of the clip, and room for what normalising leaves."""
        shape = (n, *self.out_size())
        words = (*shape, n_words(self.n_out, CHANNEL_WORD))
        if clip is None:
            return 0.0, np.empty((*shape, self.n_out), np.float32), None
        within = np.empty(words, np.uint32)
        if packed:
            return float(clip), np.empty(words, np.uint32), within
        return float(clip), np.empty((*shape, self.n_out), np.float32), within

    def _columns(self, weights: Floats) -> Floats:
        columns = np.zeros((*self.kernel, self.channels, _up(self.n_out)), np.float32)
        columns[..., : self.n_out] = weights.transpose(1, 2, 3, 0)
        return columns

    def _on_scratch(self, name: str) -> "Callable[[_Call, int, int], None]":
        """Call a function that wants scratch memory."""

        def run(call: "_Call", begin: int, end: int) -> None:
            scratch = self._scratch(call)
            call.run(name, begin, end)
            del scratch

        return run

    def _scratch(self, call: "_Call") -> NDArray[np.uint8]:
        n_bytes = call.target.library.call("bsk_stage_scratch", call.array)
        scratch = np.empty(n_bytes, np.uint8)
        call.put("scratch", scratch)
        return scratch

    def _plan(self, layout: int) -> Plan:
        return Plan(
            KINDS["bits"], Layout(layout), 1, self.border, self.channels, self.n_out, self.size,
            self.kernel, self.stride, self.padding, (1, 1),
        )  # fmt: skip


_ARRAYS = (
    "images", "sums", "integers", "choices", "gradient", "within", "coefficients", "weights",
    "image_gradient", "weight_gradient", "totals", "moments", "scratch",
)  # fmt: skip
"""The pointers of ``bs_stage`` in ``c/host/stage.h``, in their order."""


class _Call:
    """One ``bs_stage``; its arrays live as long as this does.

    The target is the caller's: in a thread of the pool no back end is forced.
    """

    def __init__(
        self, stage: Stage, target: KernelTarget, arrays: dict[str, NDArray[Any] | None]
    ) -> None:
        self.target = target
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
        self.target.library.call(name, self.target.code, self.array, begin, end, *rest)


def _in_ranges(
    stage: Stage,
    run: Callable[[_Call, int, int], None],
    n: int,
    arrays: dict[str, NDArray[Any] | None],
    totals: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Run on ranges of images or pixels; what is summed over them is summed in their order."""
    parts: dict[int, dict[str, NDArray[Any]]] = {}
    target = _target()

    def run_part(begin: int, end: int) -> None:
        part = {name: np.zeros_like(total) for name, total in totals.items()}
        run(_Call(stage, target, {**arrays, **part}), begin, end)
        parts[begin] = part

    run_ranges(run_part, n)
    for begin in sorted(parts):
        for name, total in totals.items():
            total += parts[begin][name]
    return totals


def _named(sums: Sums) -> dict[str, NDArray[Any] | None]:
    return {"integers" if sums.dtype == np.int16 else "sums": sums}


def _places(out: Floats | Words, within: Words | None) -> tuple[Any, Any, Any]:
    """Arguments of the two that normalise: floats, words, mask; 0 is none."""
    mask = 0 if within is None else within
    return (out, 0, mask) if out.dtype == np.float32 else (0, out, mask)


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
