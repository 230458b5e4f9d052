"""Boltzmann machines: restricted, fully visible, transductive and quantum; knows no cluster."""

from rbm import models, quantum, samplers, tasks, units
from rbm.learning import PCDConfig, StepInfo, Trainer, fit, recommended_epochs
from rbm.likelihood import (
    LogLikelihood,
    LowerBound,
    UnreliableLogLikelihood,
    independent_log_likelihood,
    log_likelihood,
    reverse_log_likelihood,
)
from rbm.models import RBM, BoltzmannMachine, TBMConfig, TransductiveBoltzmannMachine, fit_tbm
from rbm.partition import (
    LogPartition,
    UnreliableLogPartition,
    ais_log_partition,
    exact_log_partition,
)
from rbm.quantum import QBMConfig, QuantumBoltzmannMachine

__all__ = [
    "RBM",
    "BoltzmannMachine",
    "LogLikelihood",
    "LogPartition",
    "LowerBound",
    "PCDConfig",
    "QBMConfig",
    "QuantumBoltzmannMachine",
    "StepInfo",
    "TBMConfig",
    "Trainer",
    "TransductiveBoltzmannMachine",
    "UnreliableLogLikelihood",
    "UnreliableLogPartition",
    "ais_log_partition",
    "exact_log_partition",
    "fit",
    "fit_tbm",
    "independent_log_likelihood",
    "log_likelihood",
    "models",
    "quantum",
    "recommended_epochs",
    "reverse_log_likelihood",
    "samplers",
    "tasks",
    "units",
]
