"""Gradient of the RBM's log-likelihood from states of the data and of the model."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gradient(NamedTuple):
    """Ascent direction of the mean log-likelihood."""

    weights: Tensor
    """Shape (n_visible, n_hidden)."""
    visible_bias: Tensor
    """Shape (n_visible,)."""
    hidden_bias: Tensor
    """Shape (n_hidden,)."""


def gradient(
    data: tuple[Tensor, Tensor], model: tuple[Tensor, Tensor], offsets: tuple[Tensor, Tensor]
) -> Gradient:
    r"""Centred gradient, expressed for the ordinary parameters.

    .. math::
        \Delta W = \langle (v-\mu)(h-\lambda)^\top\rangle_d
        - \langle (v-\mu)(h-\lambda)^\top\rangle_m

    .. math::
        \Delta a = \langle v\rangle_d - \langle v\rangle_m - \Delta W \lambda, \quad
        \Delta b = \langle h\rangle_d - \langle h\rangle_m - \Delta W^\top \mu

    Parameters
    ----------
    data, model
        Visible states and hidden probabilities, shapes (n_rows, n_visible), (n_rows, n_hidden).
    offsets
        mu, shape (n_visible,), and lambda, shape (n_hidden,); zeros give the plain gradient.

    References
    ----------
    .. [1] Melchior, Fischer, Wiskott (2016), How to center deep Boltzmann machines,
       arXiv 1311.1354.
    """
    (v_data, h_data), (v_model, h_model), (mu, lam) = data, model, offsets
    v_difference = v_data.mean(dim=0) - v_model.mean(dim=0)
    h_difference = h_data.mean(dim=0) - h_model.mean(dim=0)
    # The mu lambda' terms of data and model cancel, so the offsets cost two outer products.
    weights = v_data.T @ h_data / v_data.shape[0] - v_model.T @ h_model / v_model.shape[0]
    weights = weights - torch.outer(v_difference, lam) - torch.outer(mu, h_difference)
    return Gradient(weights, v_difference - weights @ lam, h_difference - weights.T @ mu)
