"""Block Gibbs sampling of a two-layer machine that is known only through its conditionals.

One sweep draws the visible units given the hidden ones, then the hidden units given the visible
ones. A draw is addressed by (seed, chain, sweep, unit): it does not depend on how the chains are
split into calls, processes or machines.
"""

from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import torch_ops
from kernels.philox import Purpose
from kernels.sampling import bernoulli_probabilities

_UNIFORM_STEPS = 2.0**24


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
    """Global number of each chain, shape (n_chains,), int64, on the CPU; addresses the random
    numbers, and draws are fastest where numbers of neighbours follow each other."""
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
    p = p_on.detach()
    if p.dtype == torch.float64:
        # Uniforms are multiples of 2^-24: they are below p iff below p rounded up to one of those,
        # which float32 holds.
        p = (p.clamp(max=1.0) * _UNIFORM_STEPS).ceil() / _UNIFORM_STEPS
    draw = _draw_on_cpu if p.device.type == "cpu" else _draw_on_device
    words = draw(p.float().contiguous(), seed, purpose, chains.cpu().numpy(), step)
    return torch_ops.unpack(words, p_on.shape[-1]).to(p_on.dtype)


def _draw_on_cpu(
    p_on: Tensor, seed: int, purpose: Purpose, rows: NDArray[np.int64], step: int
) -> Tensor:
    """Packed states, int32 words; the chains in any order."""
    words = bernoulli_probabilities(p_on.numpy(), seed=seed, purpose=purpose, rows=rows, step=step)
    return torch.from_numpy(words.view(np.int32))


def _draw_on_device(
    p_on: Tensor, seed: int, purpose: Purpose, rows: NDArray[np.int64], step: int
) -> Tensor:
    """The same on the device of ``p_on``: one draw for every run of neighbouring chains."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    words = [
        torch_ops.bernoulli_probabilities(
            p_on[begin:end], seed=seed, purpose=purpose, step=step, row_begin=int(rows[begin])
        )
        for begin, end in pairwise([0, *breaks.tolist(), len(rows)])
        if begin < len(rows)
    ]
    return torch.cat(words) if words else torch_ops.pack(p_on)
