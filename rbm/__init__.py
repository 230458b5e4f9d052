"""Boltzmann machines: restricted, fully visible, transductive and quantum; knows no cluster."""

from rbm import models, quantum, samplers, tasks
from rbm.learning import PCDConfig, StepInfo, Trainer, fit, recommended_epochs
from rbm.models import RBM, BoltzmannMachine, TBMConfig, TransductiveBoltzmannMachine, fit_tbm
from rbm.partition import (
    LogLikelihood,
    LogPartition,
    ais_log_partition,
    base_rate_bias,
    exact_log_partition,
    independent_log_likelihood,
    log_likelihood,
)
from rbm.quantum import QBMConfig, QuantumBoltzmannMachine

__all__ = [
    "RBM",
    "BoltzmannMachine",
    "LogLikelihood",
    "LogPartition",
    "PCDConfig",
    "QBMConfig",
    "QuantumBoltzmannMachine",
    "StepInfo",
    "TBMConfig",
    "Trainer",
    "TransductiveBoltzmannMachine",
    "ais_log_partition",
    "base_rate_bias",
    "exact_log_partition",
    "fit",
    "fit_tbm",
    "independent_log_likelihood",
    "log_likelihood",
    "models",
    "quantum",
    "recommended_epochs",
    "samplers",
    "tasks",
]
