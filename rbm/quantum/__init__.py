"""Quantum Boltzmann machines, exact for few qubits."""

from rbm.quantum.machine import QuantumBoltzmannMachine
from rbm.quantum.training import (
    ExactFit,
    QBMConfig,
    fit_classical,
    fit_exact,
    fit_quantum,
    kl_divergence,
)

__all__ = [
    "ExactFit",
    "QBMConfig",
    "QuantumBoltzmannMachine",
    "fit_classical",
    "fit_exact",
    "fit_quantum",
    "kl_divergence",
]
