"""What every quantizer module says about itself, and how a trainer moves those that change."""

import torch
from torch import Tensor, nn


class Quantizer(nn.Module):
    """A step function with a pseudo-gradient, as a module: options and parameters in one place.

    A trainer calls :meth:`set_progress` once per epoch and :meth:`set_step` once per step on every
    quantizer of a network; most ignore both.
    """

    levels: tuple[float, ...] = (-1.0, 1.0)
    """All values of the output, up to a positive factor per output channel if ``is_scaled``."""
    is_scaled: bool = False
    """Whether the output is a level times a positive factor of its channel (the first axis)."""

    @property
    def n_bits(self) -> int:
        """Bits that hold one value."""
        return (len(self.levels) - 1).bit_length()

    def set_progress(self, progress: float) -> None:
        """Move the schedule, if there is one, to ``progress`` = epoch / epochs, in [0, 1]."""

    def set_step(self, step: int, row_begin: int = 0) -> None:
        """Say which step is next and which global row is the first, if anything is drawn."""


def channel_rows(weights: Tensor, *, n_least: int = 1) -> Tensor:
    """Weights as (C_out, n): a row of all that belongs to one output channel.

    Raises
    ------
    ValueError
        If there are fewer than two axes or than ``n_least`` weights in a row.
    """
    if weights.dim() < 2 or weights[0].numel() < n_least:
        raise ValueError(
            f"weights: expected shape (C_out, ...) with {n_least} or more weights of each channel, "
            f"got {tuple(weights.shape)}; reshape to (C_out, n)"
        )
    return weights.flatten(1)


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """View ``values``, shape (C,), so that it broadcasts along the first axis of ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def check_progress(progress: float) -> None:
    """Refuse what is not in [0, 1]."""
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected epoch / epochs in [0, 1], got {progress}")


def widened(x: Tensor) -> Tensor:
    """At least float32: statistics over a channel and steep slopes need it."""
    return x if x.dtype.itemsize >= 4 else x.to(torch.float32)
