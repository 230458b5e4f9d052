"""Pictures of a machine as arrays: samples ("fantasies") and filters."""

import torch
from torch import Tensor

from rbm.models.rbm import RBM
from rbm.samplers import gibbs
from rbm.samplers.gibbs import LayeredModel


def sample(
    model: LayeredModel, start: Tensor, *, n_steps: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Run Gibbs chains from ``start`` to samples of the machine.

    Parameters
    ----------
    model
        Gives the conditionals.
    start
        Shape (n_chains, n_visible), values in {0, 1}: chains of a PCD training (``Trainer.chains``,
        already close to the machine's distribution), data rows, or noise.
    n_steps
        Sweeps, at least 1.
    seed
        64-bit; a chain depends on its position in ``start``, not on the other chains.

    Returns
    -------
    visible, p_visible
        Shape (n_chains, n_visible) each: the states, and the probabilities they were drawn from
        (smoother to look at).

    Raises
    ------
    ValueError
        If ``n_steps`` is not positive.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps: expected at least 1, got {n_steps}")
    state = gibbs.init(model, start, seed=seed)
    for _ in range(n_steps):
        state, info = gibbs.step(model, state, seed=seed)
    return state.visible, info.p_visible


def filters(machine: RBM, height: int, width: int, *, n_filters: int | None = None) -> Tensor:
    """Incoming weights of the hidden units as images, those of the largest norm first.

    Parameters
    ----------
    machine
        With n_visible = height * width.
    height, width
        Of an image.
    n_filters
        How many; None means all.

    Returns
    -------
    Tensor
        Shape (n_filters, height, width).

    Raises
    ------
    ValueError
        If the size does not fit.
    """
    if height * width != machine.n_visible:
        raise ValueError(
            f"height, width: expected a product of {machine.n_visible} (n_visible), "
            f"got {height} x {width}"
        )
    order = torch.argsort(machine.weights.norm(dim=0), descending=True, stable=True)[:n_filters]
    return machine.weights.T[order].reshape(-1, height, width)
