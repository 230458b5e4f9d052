r"""Fully visible quantum Boltzmann machine (transverse-field Ising), exact by diagonalisation.

.. math:: H = -\sum_i G_i X_i - \sum_i b_i Z_i - \sum_{i<j} w_{ij} Z_i Z_j, \qquad
    \rho = e^{-H} / \mathrm{Tr}\, e^{-H}, \qquad P(v) = \langle v | \rho | v \rangle

Site i is bit i of a state's number (LSB first) and Z_i has eigenvalue s_i = 2 * bit - 1: bit 1 is
Z = +1. (Most of the literature has Z = +1 for bit 0: its biases b have the other sign.)

References
----------
.. [1] Amin, Andriyash, Rolfe, Kulchytskyy, Melko (2018), Quantum Boltzmann machine, Phys. Rev. X
   8, 021050, arXiv 1601.02036.
"""

import torch
from torch import Tensor

from rbm.models.boltzmann import log_weights, spin_statistics

MAX_QUBITS = 12
"""Largest machine that is diagonalised: a dense matrix of 2**12 rows has 128 MiB."""


class QuantumBoltzmannMachine:
    """Fully visible quantum Boltzmann machine; everything in float64.

    Parameters
    ----------
    bias
        b, shape (n_qubits,).
    couplings
        w, shape (n_qubits, n_qubits); only the part above the diagonal is used.
    transverse_field
        G, shape (n_qubits,); zeros give the classical Boltzmann machine.

    Raises
    ------
    ValueError
        If shapes do not fit, or there are more than 12 qubits.
    """

    def __init__(self, bias: Tensor, couplings: Tensor, transverse_field: Tensor) -> None:
        n_qubits = bias.shape[0]
        if n_qubits > MAX_QUBITS:
            raise ValueError(f"bias: expected at most {MAX_QUBITS} qubits, got {n_qubits}")
        if couplings.shape != (n_qubits, n_qubits):
            raise ValueError(
                f"couplings: expected shape ({n_qubits}, {n_qubits}), got {tuple(couplings.shape)}"
            )
        if transverse_field.shape != (n_qubits,):
            raise ValueError(
                f"transverse_field: expected shape ({n_qubits},), "
                f"got {tuple(transverse_field.shape)}"
            )
        self.bias = bias.to(torch.float64)
        self.couplings = torch.triu(couplings.to(torch.float64), diagonal=1)
        self.transverse_field = transverse_field.to(torch.float64)

    @property
    def n_qubits(self) -> int:
        """Number of qubits."""
        return self.bias.shape[0]

    def hamiltonian(self) -> Tensor:
        """H in the basis of states, shape (2**n_qubits, 2**n_qubits), real symmetric."""
        states = torch.arange(1 << self.n_qubits)
        matrix = torch.diag(-log_weights(self.bias, self.couplings))
        for site in range(self.n_qubits):
            matrix[states, states ^ (1 << site)] = -self.transverse_field[site]
        return matrix

    def log_partition(self) -> float:
        """Log Tr e^-H, nats."""
        return torch.logsumexp(-torch.linalg.eigvalsh(self.hamiltonian()), dim=0).item()

    def density_matrix(self) -> Tensor:
        """rho, shape (2**n_qubits, 2**n_qubits)."""
        energies, vectors = torch.linalg.eigh(self.hamiltonian())
        density: Tensor = (vectors * torch.softmax(-energies, dim=0)) @ vectors.T
        return density

    def log_probabilities(self) -> Tensor:
        """Log P(v) of every state, shape (2**n_qubits,)."""
        return self.density_matrix().diagonal().log()

    def gradient(self, target: Tensor) -> tuple[Tensor, ...]:
        r"""Exact gradient of sum_v target(v) log P(v) with respect to ``parameters``.

        For an operator O = X_i, Z_i or Z_i Z_j it is Tr[M O] - Tr[rho O] with

        .. math:: M = U \Big(k \circ U^\top D U\Big) U^\top, \quad
            D_{vv} = \frac{target(v)}{\langle v|e^{-H}|v\rangle}, \quad
            k_{ij} = \frac{e^{-E_j} - e^{-E_i}}{E_i - E_j}

        (Duhamel's formula; U, E diagonalise H). M is the quantum positive phase: for G = 0 its
        diagonal is the target itself.

        Parameters
        ----------
        target
            Probabilities of all states, shape (2**n_qubits,).
        """
        energies, vectors = torch.linalg.eigh(self.hamiltonian())
        # A shift of E scales e^-H in M's numerator and denominator alike.
        energies = energies - energies[0]
        weights = torch.exp(-energies)
        exponential = (vectors * weights) @ vectors.T
        rotated = vectors.T @ (vectors * (target / exponential.diagonal())[:, None])
        positive = vectors @ (_duhamel_kernel(energies) * rotated) @ vectors.T
        difference = positive - exponential / weights.sum()
        states = torch.arange(1 << self.n_qubits)
        flips = [difference[states, states ^ (1 << i)].sum() for i in range(self.n_qubits)]
        return (*spin_statistics(difference.diagonal()), torch.stack(flips))

    def parameters(self) -> tuple[Tensor, ...]:
        """Bias, couplings, transverse field: the tensors themselves, to be updated in place."""
        return (self.bias, self.couplings, self.transverse_field)


def _duhamel_kernel(energies: Tensor) -> Tensor:
    """k_ij = (e^-E_j - e^-E_i) / (E_i - E_j), e^-E_i for equal energies; no cancellation."""
    gap = (energies[:, None] - energies[None, :]).abs()
    low = torch.minimum(energies[:, None], energies[None, :])
    # -expm1(-x) / x -> 1 for x -> 0; the substitute 1 keeps the unused branch finite.
    ratio = -torch.expm1(-gap) / torch.where(gap > 0.0, gap, 1.0)
    return torch.exp(-low) * torch.where(gap > 0.0, ratio, 1.0)
