"""Block Gibbs sampling with known visible units held at their values."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rbm.conditionals import Address, Conditional
from rbm.samplers import gibbs
from rbm.samplers.gibbs import GibbsInfo, GibbsState, LayeredModel


class ClampedState(NamedTuple):
    """Chains together with what is held fixed."""

    gibbs: GibbsState
    """Free and known units alike."""
    known: Tensor
    """True where a unit is held, shape (n_chains, n_visible) or (n_visible,), bool."""


def init(
    model: LayeredModel,
    visible: Tensor,
    known: Tensor,
    *,
    independent: Conditional,
    seed: int,
    chains: Tensor | None = None,
) -> ClampedState:
    """Start from the known units; the unknown ones are drawn independently.

    Parameters
    ----------
    model
        Gives the conditionals.
    visible
        Shape (n_chains, n_visible); read only where ``known``.
    known
        Mask of the units to hold, shape (n_chains, n_visible) or (n_visible,), bool.
    independent
        What unknown units start from: ``machine.independent(bias, n_chains)``.
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,); 0, 1, 2, ... if None.
    """
    if chains is None:
        chains = torch.arange(visible.shape[0])
    free = gibbs.initial_visible(independent, seed=seed, chains=chains)
    start = torch.where(known, visible.to(free.dtype), free)
    return ClampedState(gibbs.init(model, start, seed=seed, chains=chains), known)


def step(model: LayeredModel, state: ClampedState, *, seed: int) -> tuple[ClampedState, GibbsInfo]:
    """One sweep over the unknown visible and all hidden units.

    Leaves p(v_unknown, h | v_known) invariant.
    """
    held = _HeldModel(model, state.gibbs.visible, state.known)
    new, info = gibbs.step(held, state.gibbs, seed=seed)
    return ClampedState(new, state.known), info


class _HeldModel(NamedTuple):
    """The model with its known visible units fixed."""

    model: LayeredModel
    visible: Tensor
    known: Tensor

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        return self.model.layer_sizes

    def given(self, layer: int, states: Sequence[Tensor]) -> Conditional:
        conditional = self.model.given(layer, states)
        return conditional if layer else _Held(conditional, self.visible, self.known)


class _Held(NamedTuple):
    """A conditional of which known units keep their values."""

    free: Conditional
    visible: Tensor
    known: Tensor

    @property
    def mean(self) -> Tensor:
        """Of the free units given the layer above; known units have one too, which nobody draws."""
        return self.free.mean

    def draw(self, address: Address) -> Tensor:
        return torch.where(self.known, self.visible, self.free.draw(address))

    def log_probability(self, states: Tensor) -> Tensor:
        return self.free.log_probability(states)
