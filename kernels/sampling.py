"""Compiled draws: random words, and field -> sigmoid -> ``uniform < p`` -> packed bits.

A draw is named as in :mod:`kernels.philox` and does not depend on back end, batch split or
threads: every back end gives the bits of :mod:`kernels.reference_sampling`. Spins {-1, +1} are the
same bits, with 2 x instead of x.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.backends import kernel_target
from kernels.host import KernelLibrary
from kernels.layout import CHANNEL_WORD, n_words
from kernels.philox import Purpose, check_address
from kernels.reference_sampling import (
    bernoulli_probabilities_reference,
    bernoulli_reference,
    random_words_reference,
    sigmoid_reference,
)
from kernels.threads import run_ranges

_FIELDS: Final = 0  # the codes of c/host/sampler.h
_PROBABILITIES: Final = 1
_FEW_UNITS: Final = 1 << 18  # are drawn in 0.2 ms, a few times what it takes to wake a thread
_ROW_BLOCK: Final = 16  # rows of c/host/sampler.h that share their first rounds
_MAX_ELEMENTS: Final = 1 << 34  # the counter of four elements is a 32-bit word


def random_words(
    seed: int,
    purpose: Purpose,
    n_elements: int,
    *,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
    first_element: int = 0,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Draw 32-bit words of one stream, one line per row: :func:`kernels.random_words`, compiled.

    Parameters
    ----------
    seed, purpose, n_elements, rows, step, index
        As :func:`kernels.random_words`.
    first_element
        Where the lines begin.
    library
        An emulator; its best back end runs. By default this machine's current back end.

    Returns
    -------
    NDArray
        Shape (n_rows, n_elements), uint32.

    Raises
    ------
    ValueError
        If a number does not fit in the field of the counter that it is meant for.
    BackendUnavailable
        If the back end that was asked for is absent.
    """
    row_numbers = check_address(seed, rows=rows, step=step, index=index)
    if first_element < 0 or n_elements < 0 or first_element + n_elements > _MAX_ELEMENTS:
        raise ValueError(
            "first_element, n_elements: expected a range of elements below 2**34, "
            f"got {n_elements} from {first_element}"
        )
    target = kernel_target(library)
    if target is None:
        return random_words_reference(
            *(seed, purpose, n_elements),
            rows=row_numbers,
            step=step,
            index=index,
            first_element=first_element,
        )
    out = np.empty((row_numbers.size, n_elements), CHANNEL_WORD)
    target.library.call(
        "bsk_random_words",
        *(target.code, seed & 0xFFFFFFFF, seed >> 32, int(purpose), index, step),
        *(row_numbers, row_numbers.size, first_element, n_elements, out),
    )
    return out


def sigmoid(x: NDArray[np.float32], *, library: KernelLibrary | None = None) -> NDArray[np.float32]:
    r"""Sigmoid, the same bits on every back end, within 1.1e-7 of the exact one.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    x
        Any shape, float32. Below -87 the result is that of -87, 1.6e-38; NaN stays NaN.
    library
        As :func:`random_words`.

    Raises
    ------
    TypeError
        If ``x`` is not float32.
    """
    _check_float32("x", x)
    target = kernel_target(library)
    if target is None:
        return sigmoid_reference(x)
    values = np.ascontiguousarray(x)
    out = np.empty(x.shape, np.float32)
    target.library.call("bsk_sigmoid", target.code, values, values.size, out)
    return out


def bernoulli(
    field: NDArray[np.float32],
    *,
    seed: int,
    purpose: Purpose,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
    out: NDArray[np.uint32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Draw units that are on with probability sigmoid(field), and pack them.

    Parameters
    ----------
    field
        Shape (n_rows, n), float32; rows may be apart, elements of a row lie side by side.
    seed, purpose, rows, step, index
        What the draw is named; ``rows`` are the global row numbers (chains, samples), one per row
        of ``field``; unit j is element j of the stream.
    out
        Where to write, C-contiguous; allocated by default.
    n_threads
        By default :func:`kernels.threads.default_threads`, one for few units.
    library
        As :func:`random_words`.

    Returns
    -------
    NDArray
        Shape (n_rows, ceil(n / 32)), uint32; bit 1 is on, bits past n are zero.

    Raises
    ------
    TypeError
        If ``field`` is not float32.
    ValueError
        If a shape does not fit, or a number does not fit in its field of the counter.
    BackendUnavailable
        If the back end that was asked for is absent.

    Notes
    -----
    The sampled probability is within 2.5e-7 of the sigmoid, and a multiple of 2**-24. Below
    -17.33 (-25 log 2) the unit is always off, above 17 always on; NaN is off. A unit may differ
    from ``uniform < sigmoid(field)`` only where those two are within 1e-6 of each other.
    """
    draw = _Draw(_FIELDS, "field", seed, purpose, step, index)
    return draw(field, rows, out, n_threads, library)


def bernoulli_probabilities(
    probabilities: NDArray[np.float32],
    *,
    seed: int,
    purpose: Purpose,
    rows: int | ArrayLike = 0,
    step: int = 0,
    index: int = 0,
    out: NDArray[np.uint32] | None = None,
    n_threads: int | None = None,
    library: KernelLibrary | None = None,
) -> NDArray[np.uint32]:
    """Draw units that are on iff ``uniform < p``, exactly, and pack them.

    Parameters, result and errors are those of :func:`bernoulli` with probabilities instead of
    fields: at or below 0 and NaN are off, 1 and above are on.
    """
    draw = _Draw(_PROBABILITIES, "probabilities", seed, purpose, step, index)
    return draw(probabilities, rows, out, n_threads, library)


@dataclass(frozen=True)
class _Draw:
    """What is drawn, and its name but for the rows."""

    kind: int
    name: str
    """Of the argument, for messages."""
    seed: int
    purpose: Purpose
    step: int
    index: int

    def __call__(
        self,
        values: NDArray[np.float32],
        rows: int | ArrayLike,
        out: NDArray[np.uint32] | None,
        n_threads: int | None,
        library: KernelLibrary | None,
    ) -> NDArray[np.uint32]:
        row_numbers = check_address(self.seed, rows=rows, step=self.step, index=self.index)
        _check_values(self.name, values, row_numbers.size)
        shape = (values.shape[0], n_words(values.shape[1], CHANNEL_WORD))
        if out is None:
            out = np.empty(shape, CHANNEL_WORD)
        elif out.shape != shape or out.dtype != CHANNEL_WORD or not out.flags.c_contiguous:
            raise ValueError(
                f"out: expected C-contiguous uint32 of shape {shape}, got {out.dtype} of shape "
                f"{out.shape} with strides {out.strides}"
            )
        target = kernel_target(library)
        if target is None:
            out[...] = _REFERENCES[self.kind](
                *(values,),
                seed=self.seed,
                purpose=self.purpose,
                rows=rows,
                step=self.step,
                index=self.index,
            )
            return out
        if values.strides[1] != values.itemsize or values.strides[0] % values.itemsize:
            values = np.ascontiguousarray(values)
        stride, n = values.strides[0] // values.itemsize, values.shape[1]
        before = (self.seed & 0xFFFFFFFF, self.seed >> 32, int(self.purpose), self.index)
        run, code = target.library, target.code

        def draw(begin: int, end: int) -> None:
            some, their_rows, words = values[begin:end], row_numbers[begin:end], out[begin:end]
            run.call(
                "bsk_bernoulli",
                *(code, some, stride, their_rows, end - begin, n),
                *(*before, self.step, self.kind, words),
            )

        if library is not None or (n_threads is None and values.size < _FEW_UNITS):
            n_threads = 1
        run_ranges(draw, len(values), n_threads=n_threads, grain=_ROW_BLOCK)
        return out


def _check_float32(name: str, values: NDArray[np.float32]) -> None:
    if values.dtype != np.float32:
        raise TypeError(f"{name}: expected float32, got {values.dtype}; convert with astype")


def _check_values(name: str, values: NDArray[np.float32], n_rows: int) -> None:
    _check_float32(name, values)
    if values.ndim != 2 or values.shape[0] != n_rows:
        raise ValueError(
            f"{name}: expected shape ({n_rows}, n) for {n_rows} rows, got {values.shape}"
        )
    if values.shape[1] > _MAX_ELEMENTS:
        raise ValueError(f"{name}: expected below 2**34 units per row, got {values.shape[1]}")


_REFERENCES: Final = {
    _FIELDS: bernoulli_reference,
    _PROBABILITIES: bernoulli_probabilities_reference,
}
