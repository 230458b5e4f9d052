"""Boltzmann machines: parameters, energy and conditionals of one family per module."""

from rbm.models.boltzmann import BoltzmannMachine, from_bit_parameters, to_bit_parameters
from rbm.models.rbm import RBM
from rbm.models.transductive import (
    TBMConfig,
    TBMFit,
    TransductiveBoltzmannMachine,
    all_states,
    fit_tbm,
)

__all__ = [
    "RBM",
    "BoltzmannMachine",
    "TBMConfig",
    "TBMFit",
    "TransductiveBoltzmannMachine",
    "all_states",
    "fit_tbm",
    "from_bit_parameters",
    "to_bit_parameters",
]
