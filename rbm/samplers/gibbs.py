"""Block Gibbs sampling of a layered machine that is known only through its conditionals.

One sweep draws the even layers given the odd ones, then the odd layers given the even ones: with
one hidden layer the visible units, then the hidden units. A draw is addressed by (seed, chain,
sweep, unit): it does not depend on how the chains are split into calls, processes or machines.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kernels.philox import Purpose
from rbm.conditionals import Address, Conditional

_LAYER_SHIFT = 12


class LayeredModel(Protocol):
    """What a block Gibbs sampler needs: the distribution of a layer given its neighbours."""

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, visible first."""

    def given(self, layer: int, states: Sequence[Tensor]) -> Conditional:
        """Distribution of a layer; of ``states``, one per layer, only its neighbours are read."""


class GibbsState(NamedTuple):
    """What the chains carry from one sweep to the next."""

    layers: tuple[Tensor, ...]
    """States of every layer, visible first, shape (n_chains, size), dtype of the model."""
    chains: Tensor
    """Global number of each chain, shape (n_chains,), int64, on the CPU; addresses the random
    numbers, and draws are fastest where numbers of neighbours follow each other."""
    sweep: int
    """Number of the next sweep; addresses the random numbers."""

    @property
    def visible(self) -> Tensor:
        """States of the visible units, shape (n_chains, n_visible)."""
        return self.layers[0]

    @property
    def hidden(self) -> Tensor:
        """States of the first hidden layer, shape (n_chains, n_hidden)."""
        return self.layers[1]


class GibbsInfo(NamedTuple):
    """What the last sweep drew from; diagnostics and low-variance statistics."""

    conditionals: tuple[Conditional, ...]
    """Of every layer, at the moment it was drawn."""

    @property
    def p_visible(self) -> Tensor:
        """E[v | old h], for bits P(v = 1 | old h), shape (n_chains, n_visible)."""
        return self.conditionals[0].mean

    @property
    def p_hidden(self) -> Tensor:
        """E[h | new v], for bits P(h = 1 | new v), shape (n_chains, n_hidden)."""
        return self.conditionals[1].mean


def init(
    model: LayeredModel,
    visible: Tensor,
    *,
    seed: int,
    chains: Tensor | None = None,
    sweep: int = 0,
    replica: int = 0,
) -> GibbsState:
    """Start chains from visible states; hidden layers are drawn upwards, one after the other.

    Parameters
    ----------
    model
        Gives the conditionals.
    visible
        Shape (n_chains, n_visible).
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,); 0, 1, 2, ... if None.
    sweep
        Number of the sweep whose hidden draws are used; the next ``step`` has number ``sweep + 1``.
    replica
        Of tempering; addresses the random numbers.
    """
    if chains is None:
        chains = torch.arange(visible.shape[0])
    # A layer that has no state yet sends nothing to the one below.
    layers = [visible, *(visible.new_zeros(len(visible), n) for n in model.layer_sizes[1:])]
    for layer in range(1, len(layers)):
        address = layer_address(layer, seed, chains, sweep, replica)
        layers[layer] = model.given(layer, layers).draw(address)
    return GibbsState((visible.to(layers[1].dtype), *layers[1:]), chains, sweep + 1)


def step(
    model: LayeredModel, state: GibbsState, *, seed: int, replica: int = 0
) -> tuple[GibbsState, GibbsInfo]:
    """One sweep: even layers given the odd ones, then odd layers given the even ones.

    Leaves the joint distribution of the model invariant.
    """
    layers = list(state.layers)
    drawn_from: dict[int, Conditional] = {}
    for layer in [*range(0, len(layers), 2), *range(1, len(layers), 2)]:
        drawn_from[layer] = model.given(layer, layers)
        address = layer_address(layer, seed, state.chains, state.sweep, replica)
        layers[layer] = drawn_from[layer].draw(address)
    info = GibbsInfo(tuple(drawn_from[layer] for layer in range(len(layers))))
    return GibbsState(tuple(layers), state.chains, state.sweep + 1), info


def layer_address(
    layer: int, seed: int, chains: Tensor, sweep: int, replica: int = 0, *, annealed: bool = False
) -> Address:
    """Name of the numbers that a layer is drawn with; ``annealed`` for importance sampling.

    Visible units and hidden units have streams of their own; the first hidden layer is number 0.
    """
    if layer == 0:
        purpose = Purpose.AIS_VISIBLE if annealed else Purpose.GIBBS_VISIBLE
        return Address(seed, purpose, chains, sweep, replica)
    purpose = Purpose.AIS_HIDDEN if annealed else Purpose.GIBBS_HIDDEN
    return Address(seed, purpose, chains, sweep, (layer - 1) << _LAYER_SHIFT | replica)


def initial_visible(independent: Conditional, *, seed: int, chains: Tensor) -> Tensor:
    """Visible states for chains that have no data.

    Parameters
    ----------
    independent
        What they are drawn from, one row per chain: ``machine.independent(bias, n_chains)``.
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,).

    Returns
    -------
    Tensor
        Shape (n_chains, n_visible).
    """
    return independent.draw(Address(seed, Purpose.INITIAL_CHAINS, chains, 0))
