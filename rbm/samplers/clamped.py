"""Block Gibbs sampling with known visible units held at their values."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.philox import Purpose
from rbm.samplers import gibbs
from rbm.samplers.gibbs import GibbsInfo, GibbsState, TwoLayerModel


class ClampedState(NamedTuple):
    """Chains together with what is held fixed."""

    gibbs: GibbsState
    """Free and known units alike."""
    known: Tensor
    """True where a unit is held, shape (n_chains, n_visible) or (n_visible,), bool."""


def init(
    model: TwoLayerModel,
    visible: Tensor,
    known: Tensor,
    *,
    p_on: Tensor,
    seed: int,
    chains: Tensor | None = None,
) -> ClampedState:
    """Start from the known units; the unknown ones are drawn independently.

    Parameters
    ----------
    model
        Gives the conditionals.
    visible
        Shape (n_chains, n_visible), values in {0, 1}; read only where ``known``.
    known
        Mask of the units to hold, shape (n_chains, n_visible) or (n_visible,), bool.
    p_on
        Starting probabilities of the unknown units, shape (n_visible,).
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,); 0, 1, 2, ... if None.
    """
    if chains is None:
        chains = torch.arange(visible.shape[0])
    free = gibbs.initial_visible(p_on, seed=seed, chains=chains)
    start = torch.where(known, visible.to(free.dtype), free)
    return ClampedState(gibbs.init(model, start, seed=seed, chains=chains), known)


def step(model: TwoLayerModel, state: ClampedState, *, seed: int) -> tuple[ClampedState, GibbsInfo]:
    """One sweep over the unknown visible and all hidden units.

    Leaves p(v_unknown, h | v_known) invariant.
    """
    old = state.gibbs
    p_visible = model.p_visible(old.hidden)
    drawn = gibbs.bernoulli(p_visible, seed, Purpose.GIBBS_VISIBLE, old.chains, old.sweep)
    visible = torch.where(state.known, old.visible, drawn)
    p_hidden = model.p_hidden(visible)
    hidden = gibbs.bernoulli(p_hidden, seed, Purpose.GIBBS_HIDDEN, old.chains, old.sweep)
    new = GibbsState(visible, hidden, old.chains, old.sweep + 1)
    return ClampedState(new, state.known), GibbsInfo(p_visible, p_hidden)
