"""Completion of images: known pixels are held, the rest is sampled from the machine."""

from typing import NamedTuple

import torch
from torch import Tensor

from rbm.models.layered import LayeredMachine
from rbm.samplers import clamped


class Completion(NamedTuple):
    """Completed images."""

    visible: Tensor
    """Shape (n_samples, n_visible), {0, 1}: known pixels as given, others the likelier value."""
    p_visible: Tensor
    """Shape (n_samples, n_visible): estimate of P(pixel = 1 | known); known pixels as given."""


def complete(
    model: LayeredMachine,
    visible: Tensor,
    known: Tensor,
    *,
    base_bias: Tensor,
    n_steps: int = 100,
    n_burn_in: int = 50,
    seed: int = 0,
) -> Completion:
    """Fill in the unknown pixels by clamped Gibbs sampling, one chain per image.

    Parameters
    ----------
    model
        Gives the conditionals.
    visible
        Shape (n_samples, n_visible), values in {0, 1}; read only where ``known``.
    known
        Mask of the pixels to keep, shape (n_visible,) or (n_samples, n_visible), bool.
    base_bias
        ``model.base_bias(train)``, shape (n_visible,): unknown pixels start as independent units.
    n_steps
        Sweeps whose conditionals P(v = 1 | h) are averaged.
    n_burn_in
        Sweeps before those.
    seed
        64-bit. An image's result depends on its position, not on the other images.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or ``n_steps`` is not positive.
    """
    _check(model, visible, known, base_bias, n_steps, n_burn_in)
    independent = model.independent(base_bias, visible.shape[0])
    state = clamped.init(model, visible, known, independent=independent, seed=seed)
    total = torch.zeros_like(state.gibbs.visible, dtype=torch.float64)
    for number in range(n_burn_in + n_steps):
        state, info = clamped.step(model, state, seed=seed)
        if number >= n_burn_in:
            total += info.p_visible
    given = visible.to(model.dtype)
    p_visible = torch.where(known, given, (total / n_steps).to(model.dtype))
    return Completion((p_visible >= 0.5).to(model.dtype), p_visible)


def wrong_pixels(completed: Tensor, truth: Tensor, known: Tensor) -> float:
    """Share of the unknown pixels that differ from the truth, in [0, 1].

    Parameters
    ----------
    completed, truth
        Shape (n_samples, n_visible), values in {0, 1}. The mean training image,
        expanded to all rows, is the trivial baseline.
    known
        Mask of the pixels that do not count, shape (n_visible,) or (n_samples, n_visible), bool.

    Raises
    ------
    ValueError
        If shapes differ or no pixel is unknown.
    """
    if completed.shape != truth.shape:
        raise ValueError(
            f"completed: expected shape {tuple(truth.shape)}, got {tuple(completed.shape)}"
        )
    unknown = ~known.expand(truth.shape)
    if not bool(unknown.any()):
        raise ValueError("known: expected at least one unknown pixel, got none")
    differs = (completed != truth.to(completed.dtype)) & unknown
    return differs.sum().item() / unknown.sum().item()


def upper_half_known(height: int, width: int) -> Tensor:
    """Mask that keeps the upper half of an image, shape (height * width,), bool, row by row."""
    return torch.arange(height * width) < (height // 2) * width


def _check(
    model: LayeredMachine,
    visible: Tensor,
    known: Tensor,
    base_bias: Tensor,
    n_steps: int,
    n_burn_in: int,
) -> None:
    n_visible = model.n_visible
    if visible.ndim != 2 or visible.shape[1] != n_visible:
        raise ValueError(
            f"visible: expected shape (n_samples, {n_visible}), got {tuple(visible.shape)}"
        )
    if known.dtype != torch.bool or known.shape not in ((n_visible,), visible.shape):
        raise ValueError(
            f"known: expected bool of shape ({n_visible},) or {tuple(visible.shape)}, "
            f"got {known.dtype} of {tuple(known.shape)}"
        )
    if base_bias.shape != (n_visible,):
        raise ValueError(f"base_bias: expected shape ({n_visible},), got {tuple(base_bias.shape)}")
    if n_steps < 1 or n_burn_in < 0:
        raise ValueError(
            f"n_steps, n_burn_in: expected at least 1 and 0, got {n_steps} and {n_burn_in}"
        )
