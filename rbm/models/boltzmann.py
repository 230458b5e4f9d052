r"""Fully visible Boltzmann machine (Ising model), exact by enumeration of all 2^n states.

.. math:: \log p(s) = \sum_i b_i s_i + \sum_{i<j} w_{ij} s_i s_j - \log Z, \qquad s_i = \pm 1

Spins are s = 2 * bit - 1, states are numbered as in :mod:`rbm.states`; float64 throughout.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rbm.states import enumerate_spins

MAX_EXACT_SPINS = 20
"""Largest machine that is enumerated: 2**20 states."""


class SpinStatistics(NamedTuple):
    """First and second moments of spins; also the gradient with respect to bias and couplings."""

    spins: Tensor
    """Shape (n_spins,): <s_i>."""
    products: Tensor
    """Shape (n_spins, n_spins): <s_i s_j> above the diagonal, 0 elsewhere."""


class BoltzmannMachine:
    """Fully visible Boltzmann machine over spins.

    Parameters
    ----------
    bias
        Shape (n_spins,).
    couplings
        Shape (n_spins, n_spins); only the part above the diagonal is used.

    Raises
    ------
    ValueError
        If shapes do not fit, or there are more than 20 spins.
    """

    def __init__(self, bias: Tensor, couplings: Tensor) -> None:
        n_spins = bias.shape[0]
        if couplings.shape != (n_spins, n_spins):
            raise ValueError(
                f"couplings: expected shape ({n_spins}, {n_spins}), got {tuple(couplings.shape)}"
            )
        if n_spins > MAX_EXACT_SPINS:
            raise ValueError(f"bias: expected at most {MAX_EXACT_SPINS} spins, got {n_spins}")
        self.bias = bias.to(torch.float64)
        self.couplings = torch.triu(couplings.to(torch.float64), diagonal=1)

    @property
    def n_spins(self) -> int:
        """Number of spins."""
        return self.bias.shape[0]

    def log_weights(self) -> Tensor:
        """Exponent (minus the energy) of every state, shape (2**n_spins,), nats."""
        return log_weights(self.bias, self.couplings)

    def log_partition(self) -> float:
        """Log Z, nats."""
        return torch.logsumexp(self.log_weights(), dim=0).item()

    def log_probabilities(self) -> Tensor:
        """Log p of every state, shape (2**n_spins,)."""
        return torch.log_softmax(self.log_weights(), dim=0)

    def gradient(self, target: Tensor) -> tuple[Tensor, ...]:
        r"""Gradient of sum_s target(s) log p(s) with respect to ``parameters``.

        .. math:: \langle s_i \rangle_{target} - \langle s_i \rangle_p, \quad
            \langle s_i s_j \rangle_{target} - \langle s_i s_j \rangle_p

        Parameters
        ----------
        target
            Probabilities of all states, shape (2**n_spins,).
        """
        # Moments are linear in the distribution, so the two phases are one call.
        return spin_statistics(target - self.log_probabilities().exp())

    def parameters(self) -> tuple[Tensor, ...]:
        """Bias and couplings: the tensors themselves, to be updated in place."""
        return (self.bias, self.couplings)


def log_weights(bias: Tensor, couplings: Tensor) -> Tensor:
    """Sum_i b_i s_i + sum_{i<j} w_ij s_i s_j of every state, shape (2**n_spins,)."""
    spins = enumerate_spins(bias.shape[0])
    return spins @ bias + ((spins @ torch.triu(couplings, diagonal=1)) * spins).sum(dim=1)


def spin_statistics(weights: Tensor) -> SpinStatistics:
    """Sum s_i and s_i s_j over all states with the given weights, shape (2**n_spins,).

    For a probability distribution these are the moments.
    """
    n_spins = weights.shape[0].bit_length() - 1
    spins = enumerate_spins(n_spins)
    products = spins.T @ (spins * weights[:, None])
    return SpinStatistics(weights @ spins, torch.triu(products, diagonal=1))


def from_bit_parameters(bias: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""Spin parameters of :math:`\exp(b^\top x + \sum_{i<j} w_{ij} x_i x_j)` with x in {0, 1}.

    Parameters
    ----------
    bias
        Shape (n_spins,).
    weights
        Shape (n_spins, n_spins); only the part above the diagonal is used.

    Returns
    -------
    bias, couplings, constant
        So that the two exponents differ by ``constant``: log Z (bits) = log Z (spins) + constant.
    """
    upper = torch.triu(weights, diagonal=1)
    spin_bias = bias / 2.0 + (upper.sum(dim=0) + upper.sum(dim=1)) / 4.0
    return spin_bias, upper / 4.0, (bias.sum() / 2.0 + upper.sum() / 4.0).item()


def to_bit_parameters(bias: Tensor, couplings: Tensor) -> tuple[Tensor, Tensor, float]:
    """Inverse of :func:`from_bit_parameters`; log Z (spins) = log Z (bits) + constant."""
    upper = torch.triu(couplings, diagonal=1)
    bit_bias = 2.0 * (bias - upper.sum(dim=0) - upper.sum(dim=1))
    return bit_bias, 4.0 * upper, (upper.sum() - bias.sum()).item()
