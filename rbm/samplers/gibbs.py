"""Block Gibbs sampling of a two-layer machine that is known only through its conditionals.

One sweep draws the visible units given the hidden ones, then the hidden units given the visible
ones. A draw is addressed by (seed, chain, sweep, unit): it does not depend on how the chains are
split into calls, processes or machines.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from kernels.philox import Purpose, uniform

# Numbers per call of the generator, in whole chains: its working set then stays in the cache, which
# is about twice as fast as one call for 128 chains of 784 units; the numbers are the same.
_NUMBERS_PER_DRAW = 25_000


class TwoLayerModel(Protocol):
    """What a block Gibbs sampler needs: p(hidden | visible) and p(visible | hidden)."""

    @property
    def n_visible(self) -> int:
        """Number of visible units."""

    @property
    def n_hidden(self) -> int:
        """Number of hidden units."""

    def p_hidden(self, visible: Tensor) -> Tensor:
        """P(h_j = 1 | v), shape (n_chains, n_hidden)."""

    def p_visible(self, hidden: Tensor) -> Tensor:
        """P(v_i = 1 | h), shape (n_chains, n_visible)."""


class GibbsState(NamedTuple):
    """What the chains carry from one sweep to the next."""

    visible: Tensor
    """Shape (n_chains, n_visible), values in {0, 1}, dtype of the model."""
    hidden: Tensor
    """Shape (n_chains, n_hidden)."""
    chains: Tensor
    """Global number of each chain, shape (n_chains,), int64; addresses the random numbers."""
    sweep: int
    """Number of the next sweep; addresses the random numbers."""


class GibbsInfo(NamedTuple):
    """What the last sweep drew from; diagnostics and low-variance statistics."""

    p_visible: Tensor
    """P(v = 1 | old h), shape (n_chains, n_visible)."""
    p_hidden: Tensor
    """P(h = 1 | new v), shape (n_chains, n_hidden)."""


def init(
    model: TwoLayerModel,
    visible: Tensor,
    *,
    seed: int,
    chains: Tensor | None = None,
    sweep: int = 0,
) -> GibbsState:
    """Start chains from visible states; the hidden states are drawn given them.

    Parameters
    ----------
    model
        Gives the conditionals.
    visible
        Shape (n_chains, n_visible), values in {0, 1}.
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,); 0, 1, 2, ... if None.
    sweep
        Number of the sweep whose hidden draw is used; the next ``step`` has number ``sweep + 1``.
    """
    if chains is None:
        chains = torch.arange(visible.shape[0])
    p_hidden = model.p_hidden(visible)
    hidden = bernoulli(p_hidden, seed, Purpose.GIBBS_HIDDEN, chains, sweep)
    return GibbsState(visible.to(p_hidden.dtype), hidden, chains, sweep + 1)


def step(model: TwoLayerModel, state: GibbsState, *, seed: int) -> tuple[GibbsState, GibbsInfo]:
    """One sweep: v given h, then h given v. Leaves p(v, h) of the model invariant."""
    p_visible = model.p_visible(state.hidden)
    visible = bernoulli(p_visible, seed, Purpose.GIBBS_VISIBLE, state.chains, state.sweep)
    p_hidden = model.p_hidden(visible)
    hidden = bernoulli(p_hidden, seed, Purpose.GIBBS_HIDDEN, state.chains, state.sweep)
    new_state = GibbsState(visible, hidden, state.chains, state.sweep + 1)
    return new_state, GibbsInfo(p_visible, p_hidden)


def initial_visible(p_on: Tensor, *, seed: int, chains: Tensor) -> Tensor:
    """Independent visible units, on with probability ``p_on``, for chains that have no data.

    Parameters
    ----------
    p_on
        Shape (n_visible,), for instance the base rates of the training data.
    seed
        64-bit.
    chains
        Global chain numbers, shape (n_chains,).

    Returns
    -------
    Tensor
        Shape (n_chains, n_visible), dtype of ``p_on``.
    """
    p_rows = p_on.expand(chains.shape[0], -1)
    return bernoulli(p_rows, seed, Purpose.INITIAL_CHAINS, chains, 0)


def bernoulli(p_on: Tensor, seed: int, purpose: Purpose, chains: Tensor, step: int) -> Tensor:
    """Units that are on iff their uniform number is below ``p_on``: shape and dtype of ``p_on``."""
    rows = chains.numpy()
    n_units = p_on.shape[-1]
    draws = np.empty((rows.size, n_units), dtype=np.float32)
    n_per_draw = max(1, _NUMBERS_PER_DRAW // n_units)
    for start in range(0, rows.size, n_per_draw):
        block = slice(start, start + n_per_draw)
        draws[block] = uniform(seed, purpose, n_units, rows=rows[block], step=step)
    return (torch.from_numpy(draws).to(p_on.device) < p_on).to(p_on.dtype)
