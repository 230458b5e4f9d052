"""Draws of units on CUDA: the same states as :mod:`kernels.sampling`, bit for bit.

A draw is named as in :mod:`kernels.philox`. The step may stand in a counter on the device: a
captured graph then draws anew whenever it is replayed after the counter was advanced.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.cuda_packing import words_of
from kernels.philox import Purpose, check_address

_NAMES: Final = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Type of fields -> ending of the kernel's name."""

_WARP_ROWS: Final = 8  # of sampler.cu
_WARP_UNITS: Final = 128
_BLOCK_WARPS: Final = 4


def bernoulli(
    launcher: Launcher,
    field: Tensor,
    *,
    seed: int,
    purpose: Purpose,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
    counter: Tensor | None = None,
    probabilities: Tensor | None = None,
) -> Tensor:
    r"""Draw units that are on with probability sigmoid(field), and pack them.

    .. math:: b_{re} = 1 \text{ if } u_{re} < \sigma(x_{re}) \text{ else } 0

    Parameters
    ----------
    launcher
        Where to run; ``field`` is there.
    field
        Shape (rows, n), float32 or bfloat16, contiguous: log odds of being on; NaN is off.
    seed, purpose, step, index
        The stream, as in :func:`kernels.random_words`.
    row_begin
        Global number of the first row.
    counter
        One 32-bit integer on the device; the step is ``step + counter`` modulo 2**32.
    probabilities
        Where to write sigmoid(field), float32 of the shape of ``field``, within 1e-6 of the exact
        one; not computed by default.

    Returns
    -------
    Tensor
        Shape (rows, ceil(n / 32)), int32 words.

    Raises
    ------
    TypeError, ValueError
        If a tensor is another one, or a number does not fit in its part of the counter.

    Notes
    -----
    Probabilities are 1 / (1 + e^-x) with the exponential that also decides the states, and the
    reciprocal by Newton's rule.
    """
    draw = _Draw(seed, purpose, step, index, row_begin, counter)
    if probabilities is None:
        return draw.of(launcher, "bernoulli", "field", field)
    if probabilities.dtype != torch.float32 or probabilities.shape != field.shape:
        raise ValueError(
            f"probabilities: expected float32 of shape {tuple(field.shape)}, "
            f"got {probabilities.dtype} of shape {tuple(probabilities.shape)}"
        )
    return draw.of(launcher, "bernoulli_and_probabilities", "field", field, probabilities)


def bernoulli_probabilities(
    launcher: Launcher,
    probabilities: Tensor,
    *,
    seed: int,
    purpose: Purpose,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
    counter: Tensor | None = None,
) -> Tensor:
    """Draw units that are on iff ``uniform < p``, exactly, and pack them.

    Parameters, result and errors are those of :func:`bernoulli` with probabilities instead of
    fields: at or below 0 and NaN are off, 1 and above are on.
    """
    draw = _Draw(seed, purpose, step, index, row_begin, counter)
    return draw.of(launcher, "bernoulli_of_probabilities", "probabilities", probabilities)


def random_words(
    launcher: Launcher,
    n_rows: int,
    n_elements: int,
    *,
    seed: int,
    purpose: Purpose,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
    counter: Tensor | None = None,
) -> Tensor:
    """Draw 32-bit words of one stream: :func:`kernels.random_words` on the device.

    Parameters
    ----------
    n_rows, n_elements
        Shape of the result.
    launcher, seed, purpose, step, index, row_begin, counter
        As :func:`bernoulli`.

    Returns
    -------
    Tensor
        Shape (n_rows, n_elements), int32 bit patterns.

    Raises
    ------
    TypeError, ValueError
        As :func:`bernoulli`.
    """
    words = torch.empty((n_rows, n_elements), dtype=torch.int32, device=launcher.device)
    draw = _Draw(seed, purpose, step, index, row_begin, counter)
    numbers = draw.numbers(n_rows)
    grid = _grid(n_rows, n_elements)
    launcher.launch("sampler", "random_words", grid, n_rows, n_elements, *numbers, words)
    return words


@dataclass(frozen=True)
class _Draw:
    """The name of a draw."""

    seed: int
    purpose: Purpose
    step: int
    index: int
    row_begin: int
    counter: Tensor | None

    def numbers(self, n_rows: int) -> tuple[int | Tensor | None, ...]:
        """Arguments of a kernel, in its order."""
        rows = (self.row_begin, self.row_begin + max(0, n_rows - 1))
        check_address(self.seed, rows=rows, step=self.step, index=self.index)
        if self.counter is not None and self.counter.numel() != 1:
            raise ValueError(
                f"counter: expected one integer, got shape {tuple(self.counter.shape)}"
            )
        stream = (self.seed, int(self.purpose), self.index, self.step)
        return (*stream, self.counter, self.row_begin)

    def of(
        self, launcher: Launcher, kernel: str, name: str, values: Tensor, *outputs: Tensor
    ) -> Tensor:
        """Words that are drawn of fields or probabilities."""
        if values.dtype not in _NAMES:
            raise TypeError(f"{name}: expected float32 or bfloat16, got {values.dtype}")
        if values.ndim != 2 or not values.is_contiguous():
            raise ValueError(
                f"{name}: expected a contiguous tensor of shape (rows, n), got shape "
                f"{tuple(values.shape)} with strides {values.stride()}; call contiguous()"
            )
        n_rows, n = values.shape
        words = values.new_empty((n_rows, words_of(n)), dtype=torch.int32)
        launcher.launch(
            "sampler",
            f"{kernel}_{_NAMES[values.dtype]}",
            _grid(n_rows, n),
            *(values, n_rows, n, *self.numbers(n_rows), words, *outputs),
        )
        return words


def _grid(n_rows: int, n: int) -> int:
    warps = -(-n_rows // _WARP_ROWS) * -(-n // _WARP_UNITS)
    return -(-warps // _BLOCK_WARPS)
