r"""Direct Binary Embedding: a layer whose outputs become binary without a quantisation loss.

A unit is :math:`a = \tanh(\max(0, u))` while training and the bit :math:`c = [a \ge \tfrac12]`
afterwards, which is :math:`u \ge \operatorname{artanh} \tfrac12`. Codes are in {0, 1}, bit 1 is on.
The layer's formula is from memory; its loss is :mod:`bnn.losses.dbe_joint`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.layers import BatchNorm
from kernels import Purpose, uniform
from kernels.matmul import Panels, matmul

CODE_THRESHOLD = math.atanh(0.5)
"""u from which on a bit is 1: 0.549306."""


class DirectBinaryEmbedding(nn.Module):
    r"""Dense layer, batch normalisation and a saturating unit; its thresholded output is a code.

    .. math:: u = \operatorname{BN}(W h), \qquad a = \tanh(\max(0, u)) \in [0, 1), \qquad
              \frac{\partial a}{\partial u} = (1 - a^2) [u > 0]

    Parameters
    ----------
    n_in
        Features of h.
    n_bits
        Length of the code: 16-64 for retrieval, 256 and more for features.
    seed
        Of the initial weights (Philox, stream number 0).

    Notes
    -----
    A bias of the dense layer would be undone by the normalisation, so there is none. Half of the
    units are exactly 0 and training saturates the others; there is no straight-through estimator.
    A classifier trained on ``a`` gives other logits on the code: evaluate both, or fit it again.

    References
    ----------
    .. [1] Liu, Rahimpour, Taalimi, Qi (2017), End-to-end binary representation learning via direct
       binary embedding, arXiv:1703.04960.
    """

    def __init__(self, n_in: int, n_bits: int, *, seed: int = 0) -> None:
        super().__init__()
        draws = uniform(seed, Purpose.INITIAL_WEIGHTS, n_bits * n_in)
        unit_variance = math.sqrt(3.0 / n_in)
        weights = (2 * torch.from_numpy(draws[0]) - 1).mul_(unit_variance)
        self.weight = nn.Parameter(weights.reshape(n_bits, n_in))
        self.norm = BatchNorm(n_bits)

    def pre_activation(self, features: Tensor) -> Tensor:
        """Normalised fields u, shape (N, n_bits), of ``features``, shape (N, n_in)."""
        fields: Tensor = self.norm(features @ self.weight.T)
        return fields

    def forward(self, features: Tensor) -> Tensor:
        """Activations a, shape (N, n_bits), values in [0, 1)."""
        return embedding_activation(self.pre_activation(features))

    @torch.no_grad()
    def code(self, features: Tensor) -> Tensor:
        """Codes c, shape (N, n_bits), values in {0, 1}, dtype of the activations."""
        return embedding_code(self.pre_activation(features))


def embedding_activation(fields: Tensor) -> Tensor:
    r"""Quasi-binary unit :math:`a = \tanh(\max(0, u))`, any shape; 0 and flat for u <= 0."""
    return torch.tanh(torch.relu(fields))


def embedding_code(fields: Tensor) -> Tensor:
    """Bits of the fields u: 1 where ``u >= CODE_THRESHOLD``, else 0; any shape, no gradient."""
    return (fields.detach() >= CODE_THRESHOLD).to(fields.dtype)


def head_on_signs(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    r"""Linear head on ±1 that gives the logits of a head on {0, 1} codes.

    .. math:: W c + b = \tfrac12 W s + (b + \tfrac12 W 1), \qquad s = 2c - 1

    Parameters
    ----------
    weight
        W, shape (n_classes, n_bits).
    bias
        b, shape (n_classes,).

    Returns
    -------
    tuple
        Weight and bias of the head on signs.
    """
    return weight / 2, bias + weight.sum(dim=1) / 2


def hamming_distances(
    queries: NDArray[np.uint64], database: NDArray[np.uint64], n_bits: int
) -> NDArray[np.int32]:
    """Number of bits in which packed codes differ, shape (n_queries, n_database), exact.

    Parameters
    ----------
    queries, database
        Shape (n, ceil(n_bits / 64)): ``kernels.pack`` of boolean codes.
    n_bits
        Length of the codes.
    """
    agreement = matmul(queries, Panels.of(database, n_bits))
    return (n_bits - agreement) // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeStatistics:
    """How binary and how informative the units of an embedding are, over a set of samples."""

    quantization_error: float
    """Mean of |a - c|, in [0, 0.5]."""
    bit_balance: Tensor
    """Share of samples with the bit on, shape (n_bits,)."""
    bit_entropy: Tensor
    """Of each bit, shape (n_bits,), in bits."""
    bit_correlation: float
    """Mean |Pearson correlation| over pairs of bits; pairs with a constant bit count as 0."""


def code_statistics(activations: Tensor) -> CodeStatistics:
    """Diagnose an embedding by its activations.

    Parameters
    ----------
    activations
        a, shape (N, n_bits), from :func:`embedding_activation`.
    """
    a = activations.detach().double()
    c = (a >= 0.5).double()
    balance = c.mean(dim=0)
    entropy = -(torch.xlogy(balance, balance) + torch.xlogy(1 - balance, 1 - balance))
    centred = c - balance
    norms = centred.norm(dim=0)
    centred = centred / torch.where(norms > 0, norms, torch.ones_like(norms))
    pairs = (centred.T @ centred).abs()
    n_bits = len(balance)
    off_diagonal = pairs.sum() - pairs.diagonal().sum()
    return CodeStatistics(
        quantization_error=float((a - c).abs().mean()),
        bit_balance=balance,
        bit_entropy=entropy / math.log(2),
        bit_correlation=float(off_diagonal / max(n_bits * (n_bits - 1), 1)),
    )


def quantization_penalty(activations: Tensor) -> Tensor:
    r"""Optional regulariser, not the paper's: mean of :math:`(a - c)^2`, shape (), c a constant."""
    code = (activations.detach() >= 0.5).to(activations.dtype)
    return (activations - code).square().mean()
