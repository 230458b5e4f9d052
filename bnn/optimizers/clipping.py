"""The constraint on latent weights: clipped after the step, never in the forward pass."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


@torch.no_grad()
def clip_weights(weights: Iterable[Tensor], clip: float = 1.0) -> None:
    r"""Clip latent weights in place [1]_.

    .. math:: w \leftarrow \min(\max(w, -c), c)

    Parameters
    ----------
    weights
        Any shapes, floating; ``latent_weights(net).values()`` of :mod:`bnn.metrics` for all of a
        network.
    clip
        The bound c, that of the quantizer's straight-through estimator: a latent weight beyond it
        would never receive a gradient again.

    Raises
    ------
    ValueError
        If ``clip`` is not positive.

    References
    ----------
    .. [1] Courbariaux, Bengio, David (2015), BinaryConnect, arXiv:1511.00363.
    """
    _check_clip(clip)
    for weight in weights:
        weight.clamp_(-clip, clip)


def clip_after_step(
    optimizer: Optimizer, weights: Iterable[Tensor], clip: float = 1.0
) -> RemovableHandle:
    """Make ``optimizer`` call :func:`clip_weights` at the end of every step.

    Parameters
    ----------
    optimizer
        Any ``torch.optim.Optimizer``. The constraint has no state and is not in its
        ``state_dict()``: who resumes calls this function again.
    weights, clip
        As for :func:`clip_weights`.

    Returns
    -------
    RemovableHandle
        ``handle.remove()`` takes the constraint off.

    Raises
    ------
    ValueError
        If there is no weight, or ``clip`` is not positive.
    """
    clipped = list(weights)
    if not clipped:
        raise ValueError("weights: expected one latent weight or more, got none")
    _check_clip(clip)

    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        clip_weights(clipped, clip)

    return optimizer.register_step_post_hook(hook)


def _check_clip(clip: float) -> None:
    if not clip > 0:
        raise ValueError(f"clip: expected clip > 0, got {clip}")
