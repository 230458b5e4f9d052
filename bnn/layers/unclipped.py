"""The warning that latent weights leave their clip, which says what happens then."""

import warnings
from typing import Protocol, cast

import torch
from torch import nn


class UnclippedWarning(UserWarning):
    """Latent weights are beyond the clip of their quantizer: nobody clips them."""


class Clipped(Protocol):
    """What has latent weights and says how far they may go: the binary layers."""

    latent_weight: nn.Parameter

    @property
    def latent_limit(self) -> float:
        """Bound of the latent weights."""

    @property
    def latent_drifts(self) -> bool:
        """Whether a latent weight beyond the bound still gets a gradient."""


@torch.no_grad()
def n_beyond(layer: Clipped) -> int:
    """Count the latent weights of a layer that are beyond its clip."""
    return int(torch.count_nonzero(layer.latent_weight.abs() > layer.latent_limit))


def warn(layer: Clipped, name: str, n: int) -> None:
    """Say of the layer called ``name`` what becomes of its ``n`` latent weights beyond the clip."""
    fate = (
        "nothing brings them back, they drift without bound and hardly flip"
        if layer.latent_drifts
        else "they receive no gradient again and keep their sign for good"
    )
    warnings.warn(
        f"{name}: {n} of {layer.latent_weight.numel()} latent weights are beyond "
        f"±{layer.latent_limit:g}: {fate}; call clip_latent() of every layer after each step, or "
        "bnn.optimizers.clip_after_step(optimizer, weights) once",
        UnclippedWarning,
        stacklevel=3,
    )


def warn_about_unclipped(net: nn.Module) -> list[str]:
    """Look at all latent weights of a network now, and warn by name of layers without a clip.

    Nobody has to call it: in training mode a binary layer looks itself at its passes 1, 2, 4, 8,
    ... and warns once (:meth:`bnn.layers.BinaryLayer.inspect`), but it does not know the name that
    it has in a network. Under :func:`bnn.fit`, which clips after every step, neither warns.

    Parameters
    ----------
    net
        Any module.

    Returns
    -------
    list of str
        Names of the layers that were warned of.
    """
    names = []
    for name, module in net.named_modules():
        if not hasattr(module, "latent_limit"):
            continue
        layer = cast(Clipped, module)
        n = n_beyond(layer)
        if n:
            warn(layer, f"{name}: {type(module).__name__}" if name else type(module).__name__, n)
            names.append(name)
    return names
