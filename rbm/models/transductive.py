r"""Transductive Boltzmann machine: a log-linear model on the smallest sample space with the data.

.. math:: \log p(x) = \sum_{s \in B, s \subseteq x} \theta(s) - \psi(\theta), \qquad x \in S

B are the frequent itemsets of the data, S = {empty set} with B and the distinct data rows, so
log Z is a sum over S, exact; learning is convex. Rows outside S have no probability, by design.

References
----------
.. [1] Sugiyama, Tsuda, Nakahara (2018), Transductive Boltzmann machines, arXiv 1805.07938.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbm.models.poset import Masks, frequent_itemsets, zeta
from rbm.states import enumerate_bits, state_numbers

# Ridge of the Newton system; the Fisher matrix is singular in the limit at a boundary.
_RIDGE = 1e-12
_MAX_HALVINGS = 40
# Signs that the maximum lies at infinity: a huge parameter, or an outcome without probability.
_BOUNDARY_PARAMETER = 30.0
_BOUNDARY_PROBABILITY = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class TBMConfig:
    """How a transductive Boltzmann machine is built and fitted."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    min_support: float = 0.05
    """sigma: least share of rows in which the units of a parameter are on together."""
    max_order: int = 2
    """k: largest number of units of a parameter."""
    pseudo_count: float = 0.0
    """Rows added to the data, spread evenly over the sample space; keeps the maximum finite."""
    tolerance: float = 1e-10
    """Stop when no expectation differs from the data's by more."""
    max_iterations: int = 200
    """Newton steps at most."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_support <= 1.0:
            raise ValueError(f"min_support: expected 0 <= min_support <= 1, got {self.min_support}")
        if not 0.0 <= self.pseudo_count < math.inf:
            raise ValueError(f"pseudo_count: expected pseudo_count >= 0, got {self.pseudo_count}")
        if not self.tolerance > 0.0:
            raise ValueError(f"tolerance: expected tolerance > 0, got {self.tolerance}")
        for name in ("max_order", "max_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class TransductiveBoltzmannMachine:
    """Parameters and sample space; everything in float64."""

    n_visible: int
    """Number of units."""
    parameter_masks: Masks
    """B, shape (n_parameters,)."""
    outcome_masks: Masks
    """S, shape (n_outcomes,), ascending; the empty set is first."""
    theta: NDArray[np.float64]
    """Shape (n_parameters,), nats."""

    @property
    def log_partition(self) -> float:
        """psi(theta), nats."""
        return float(_log_sum_exp(self._scores()))

    def log_probabilities(self) -> Tensor:
        """Log p of each outcome in S, shape (n_outcomes,), float64."""
        scores = self._scores()
        return torch.from_numpy(scores - _log_sum_exp(scores))

    def log_prob(self, visible: Tensor) -> Tensor:
        """Log p(v) of rows that are in the sample space.

        Parameters
        ----------
        visible
            Shape (n_samples, n_visible), values in {0, 1}.

        Returns
        -------
        Tensor
            Shape (n_samples,), float64, nats.

        Raises
        ------
        ValueError
            If a row is not in the sample space.
        """
        masks = _row_masks(visible)
        position = np.searchsorted(self.outcome_masks, masks).clip(max=self.outcome_masks.size - 1)
        n_unknown = int((self.outcome_masks[position] != masks).sum())
        if n_unknown:
            raise ValueError(
                f"visible: expected rows of the sample space, got {n_unknown} others; "
                "a transductive machine must be fitted with them: fit_tbm(..., extend=rows)"
            )
        return self.log_probabilities()[torch.from_numpy(position)]

    def outcomes(self) -> Tensor:
        """S as bits, shape (n_outcomes, n_visible), float64, in the order of ``outcome_masks``."""
        sites = np.arange(self.n_visible)
        bits = (self.outcome_masks[:, None] >> sites) & 1
        return torch.from_numpy(bits.astype(np.float64))

    def _scores(self) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self.theta @ zeta(self.parameter_masks, self.outcome_masks)
        return scores


@dataclass(frozen=True, kw_only=True, slots=True)
class TBMFit:
    """A fitted machine and how good it is."""

    machine: TransductiveBoltzmannMachine
    """The fit."""
    kl: float
    """KL(data, machine), nats."""
    entropy: float
    """Of the empirical distribution, nats; the mean log-likelihood is -(entropy + kl)."""
    n_parameters: int
    """|B|."""
    n_outcomes: int
    """|S|."""
    n_iterations: int
    """Newton steps done."""
    is_converged: bool
    """All expectations within the tolerance."""
    is_boundary: bool
    """The maximum lies at infinity: an outcome loses all probability, theta diverges."""


def fit_tbm(visible: Tensor, config: TBMConfig, *, extend: Tensor | None = None) -> TBMFit:
    """Maximum likelihood fit by Newton's method on B chosen by frequency.

    Parameters
    ----------
    visible
        Training rows, shape (n_samples, n_visible), values in {0, 1}, at most 62 units.
    config
        Choice of B, and when to stop.
    extend
        More rows to put into the sample space before fitting, shape (n_rows, n_visible): those
        whose probability will be asked (the transductive setting).

    Raises
    ------
    ValueError
        If there are no rows, no frequent itemset, or the values are not 0 and 1.
    """
    masks, n_units = _row_masks(visible), visible.shape[1]
    bits = visible.to(torch.uint8).numpy()
    parameters, _ = frequent_itemsets(
        bits, min_support=config.min_support, max_order=config.max_order
    )
    if parameters.size == 0:
        raise ValueError(
            f"min_support: expected a unit that is on in {config.min_support:.3g} of the rows, "
            "got none; lower min_support"
        )
    more = masks[:0] if extend is None else _row_masks(extend)
    outcomes = sample_space(parameters, np.concatenate([masks, more]))
    data = np.zeros(outcomes.size)
    np.add.at(data, np.searchsorted(outcomes, masks), 1.0)
    target = data + config.pseudo_count / outcomes.size
    return _newton(n_units, parameters, outcomes, data / data.sum(), target / target.sum(), config)


def sample_space(parameters: Masks, rows: Masks) -> Masks:
    """S = {empty set}, parameters and rows, distinct and ascending."""
    return np.unique(np.concatenate([np.zeros(1, dtype=np.int64), parameters, rows]))


def all_states(n_visible: int) -> Tensor:
    """Rows to ``extend`` the sample space to the full power set: an ordinary Boltzmann machine."""
    return enumerate_bits(n_visible, dtype=torch.uint8)


def _newton(
    n_units: int,
    parameters: Masks,
    outcomes: Masks,
    data: NDArray[np.float64],
    target: NDArray[np.float64],
    config: TBMConfig,
) -> TBMFit:
    """Match eta on B: theta += G^-1 (eta_target - eta), halved until the likelihood rises."""
    features = zeta(parameters, outcomes)
    wanted = features @ target
    theta: NDArray[np.float64] = np.zeros(parameters.size)
    log_p, n_iterations = _log_probabilities(theta, features), 0
    while True:
        p = np.exp(log_p)
        residual = wanted - features @ p
        is_converged = bool(np.abs(residual).max() <= config.tolerance)
        if is_converged or n_iterations == config.max_iterations:
            break
        moved = _line_search(theta, _newton_direction(features, p, residual), features, target)
        if moved is None:  # the likelihood is flat to rounding: nothing is left to gain
            break
        theta, log_p = moved
        n_iterations += 1
    seen = data > 0.0
    entropy = -float(data[seen] @ np.log(data[seen]))
    return TBMFit(
        machine=TransductiveBoltzmannMachine(n_units, parameters, outcomes, theta),
        kl=-entropy - float(data[seen] @ log_p[seen]),
        entropy=entropy,
        n_parameters=parameters.size,
        n_outcomes=outcomes.size,
        n_iterations=n_iterations,
        is_converged=is_converged,
        is_boundary=bool(
            np.abs(theta).max() > _BOUNDARY_PARAMETER or p.min() < _BOUNDARY_PROBABILITY
        ),
    )


def _newton_direction(
    features: NDArray[np.float64], p: NDArray[np.float64], residual: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve G d = residual with the Fisher matrix G = cov_p(features) plus a ridge."""
    centred = features - (features @ p)[:, None]
    fisher = (centred * p) @ centred.T
    fisher[np.diag_indices_from(fisher)] += _RIDGE
    return np.asarray(np.linalg.solve(fisher, residual), dtype=np.float64)


def _line_search(
    theta: NDArray[np.float64],
    direction: NDArray[np.float64],
    features: NDArray[np.float64],
    target: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """First of the steps 1, 1/2, 1/4, ... that does not lower the likelihood; None if none."""
    old = float(target @ _log_probabilities(theta, features))
    for halving in range(_MAX_HALVINGS):
        candidate = theta + 0.5**halving * direction
        log_p = _log_probabilities(candidate, features)
        if float(target @ log_p) > old:
            return candidate, log_p
    return None


def _log_probabilities(
    theta: NDArray[np.float64], features: NDArray[np.float64]
) -> NDArray[np.float64]:
    scores = theta @ features
    log_p: NDArray[np.float64] = scores - _log_sum_exp(scores)
    return log_p


def _log_sum_exp(scores: NDArray[np.float64]) -> np.float64:
    largest = scores.max()
    total: np.float64 = largest + np.log(np.exp(scores - largest).sum())
    return total


def _row_masks(visible: Tensor) -> Masks:
    if visible.ndim != 2 or visible.shape[0] < 1:
        raise ValueError(f"visible: expected at least one row, got shape {tuple(visible.shape)}")
    masks: Masks = state_numbers(visible).numpy()
    return masks
