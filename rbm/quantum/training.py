"""Exact training of small fully visible machines, classical and quantum, on a known distribution.

Both see the same loop: Adam on the exact gradient of the log-likelihood with a rate that falls
linearly to 0. The classical machine is the quantum one without transverse field.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rbm.models.boltzmann import BoltzmannMachine
from rbm.quantum.machine import MAX_QUBITS, QuantumBoltzmannMachine
from rbm.tasks.densities import bernoulli_mixture

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class QBMConfig:
    """Comparison of a quantum and a classical machine on a Bernoulli mixture."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    n_qubits: int = 6
    """Qubits, or spins; 12 at most."""
    n_centres: int = 8
    """Centres of the mixture that is learned."""
    p_agree: float = 0.9
    """Probability that a unit agrees with its centre."""
    n_steps: int = 400
    """Updates of the quantum machine."""
    n_classical_steps: int = 800
    """Updates of the classical machine."""
    learning_rate: float = 0.05
    """Adam's, at the first update; falls linearly to 0."""
    initial_transverse_field: float = 0.5
    """G at the start; trained with the rest."""
    seed: int = 0
    """Of the centres, 64-bit."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_qubits <= MAX_QUBITS:
            raise ValueError(f"n_qubits: expected 1 to {MAX_QUBITS}, got {self.n_qubits}")
        for name in ("n_centres", "n_steps", "n_classical_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0.0 < self.p_agree < 1.0:
            raise ValueError(f"p_agree: expected 0 < p_agree < 1, got {self.p_agree}")
        for name in ("learning_rate", "initial_transverse_field"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {self.seed}")

    def target(self) -> Tensor:
        """Probabilities of all states of the mixture, shape (2**n_qubits,), float64."""
        return bernoulli_mixture(self.n_qubits, self.n_centres, self.p_agree, self.seed)


class ExactModel(Protocol):
    """A machine whose distribution and likelihood gradient are known exactly."""

    def parameters(self) -> tuple[Tensor, ...]:
        """Tensors to be updated in place."""

    def log_probabilities(self) -> Tensor:
        """Log p of all states."""

    def gradient(self, target: Tensor) -> tuple[Tensor, ...]:
        """Of the mean log-likelihood under ``target``, one tensor per parameter."""


Machine = TypeVar("Machine", bound=ExactModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactFit(Generic[Machine]):
    """A trained machine and its way there."""

    machine: Machine
    """The fit."""
    kl: float
    """KL(target, machine) at the end, nats."""
    kl_curve: tuple[float, ...]
    """KL before each update, nats."""


OnStep = Callable[[int, int, float], None]
"""Called before each update with (step, n_steps, KL in nats), step from 0."""


def fit_quantum(
    config: QBMConfig, *, on_step: OnStep | None = None
) -> ExactFit[QuantumBoltzmannMachine]:
    """Train a fully visible quantum machine with b = w = 0 and equal G at the start."""
    n = config.n_qubits
    field = torch.full((n,), config.initial_transverse_field, dtype=torch.float64)
    machine = QuantumBoltzmannMachine(torch.zeros(n), torch.zeros(n, n), field)
    rate = config.learning_rate
    return fit_exact(machine, config.target(), config.n_steps, rate, on_step=on_step)


def fit_classical(
    config: QBMConfig, *, on_step: OnStep | None = None
) -> ExactFit[BoltzmannMachine]:
    """Train the classical machine with the same graph, from zero."""
    machine = BoltzmannMachine(
        torch.zeros(config.n_qubits), torch.zeros(config.n_qubits, config.n_qubits)
    )
    rate = config.learning_rate
    return fit_exact(machine, config.target(), config.n_classical_steps, rate, on_step=on_step)


def fit_exact(
    machine: Machine,
    target: Tensor,
    n_steps: int,
    learning_rate: float,
    *,
    on_step: OnStep | None = None,
) -> ExactFit[Machine]:
    """Minimise KL(target, machine) by Adam on the exact gradient.

    Parameters
    ----------
    machine
        Changed in place.
    target
        Probabilities of all states, shape (2**n,), float64.
    n_steps
        Updates.
    learning_rate
        At the first update; falls linearly to 0.
    on_step
        Called before each update.

    Notes
    -----
    Nothing is random: equal arguments give equal bytes.
    """
    parameters = machine.parameters()
    means = [torch.zeros_like(parameter) for parameter in parameters]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    curve = []
    for step in range(n_steps):
        curve.append(kl_divergence(target, machine.log_probabilities()))
        if on_step is not None:
            on_step(step, n_steps, curve[-1])
        rate = learning_rate * (1.0 - step / n_steps)
        rate *= math.sqrt(1.0 - _BETA_2 ** (step + 1)) / (1.0 - _BETA_1 ** (step + 1))
        slopes = machine.gradient(target)
        for parameter, slope, mean, square in zip(parameters, slopes, means, squares, strict=True):
            mean.lerp_(slope, 1.0 - _BETA_1)
            square.lerp_(slope.square(), 1.0 - _BETA_2)
            parameter.addcdiv_(mean, square.sqrt() + _EPSILON, value=rate)
    kl = kl_divergence(target, machine.log_probabilities())
    return ExactFit(machine=machine, kl=kl, kl_curve=tuple(curve))


def kl_divergence(target: Tensor, log_probabilities: Tensor) -> float:
    """Sum target * (log target - log p), nats; states without target mass count nothing."""
    return (torch.xlogy(target, target) - target * log_probabilities).sum().item()
