"""Log-likelihood of data under a machine: exact, or an interval with method and error bar."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rbm.annealing import AnnealedPath, adaptive_schedule, anneal_backwards
from rbm.models.rbm import RBM
from rbm.partition import (
    EXACT_MAX_STATES,
    LogPartition,
    ais_log_partition,
    exact_log_partition,
    smaller_layer,
)
from rbm.units import BERNOULLI, Units

_N_SIGMA = 3.0
_RUNS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLikelihood:
    """Mean log-likelihood of a data set, nats per row.

    :class:`UnreliableLogLikelihood` if it hangs on an unreliable estimate of log Z.
    """

    mean: float
    """Mean of log p(v) over the rows."""
    stderr: float
    """Root of the sum of squares of ``log_partition_stderr`` and ``sampling_stderr``."""
    log_partition_stderr: float
    """Part that comes from the estimate of log Z; 0 when exact."""
    sampling_stderr: float
    """Part that comes from the finite number of rows: std(log p) / sqrt(n_rows)."""
    lower: float
    """``mean`` with the upper 3-sigma bound of log Z; equal to ``mean`` when exact."""
    upper: float
    """``mean`` with the lower 3-sigma bound of log Z, at most 0."""
    method: Literal["exact", "ais"]
    """exact: the smaller layer is enumerated; ais: annealed importance sampling."""
    log_partition: float
    """log Z that was used, nats."""
    effective_sample_size: float | None
    """Of the annealing runs; None when exact."""
    n_chains: int | None
    """Annealing runs; None when exact."""
    n_temperatures: int | None
    """Annealing temperatures; None when exact."""

    @property
    def reliable(self) -> bool:
        """False if the estimate of log Z is not to be trusted."""
        return True

    def __str__(self) -> str:
        error = "" if self.method == "exact" else f" +- {self.log_partition_stderr:.3f} (log Z)"
        return f"{self.mean:.3f}{error} +- {self.sampling_stderr:.3f} (rows) nats, {self.method}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreliableLogLikelihood(LogLikelihood):
    """A value whose log Z a few annealing runs decide: its error bar means little."""

    @property
    def reliable(self) -> bool:
        """False."""
        return False

    def __str__(self) -> str:
        return f"{LogLikelihood.__str__(self)}: NOT RELIABLE, use more temperatures or chains"


def log_likelihood(
    machine: RBM,
    visible: Tensor,
    *,
    base_bias: Tensor | None = None,
    n_chains: int = 100,
    n_temperatures: int = 1000,
    seed: int = 0,
) -> LogLikelihood:
    """Mean log p(v) over the rows of ``visible``; exact when a layer has at most 2^20 states.

    Parameters
    ----------
    machine
        The machine, any dtype and kind of units.
    visible
        Shape (n_samples, n_visible), any dtype.
    base_bias
        Base model of the annealing, shape (n_visible,), best ``machine.base_bias(train)``; None
        takes that of ``visible``. Any choice estimates the same log Z.
    n_chains, n_temperatures, seed
        See :func:`rbm.ais_log_partition`; unused when exact.

    Raises
    ------
    ValueError
        If ``visible`` has no rows, does not fit the machine or has values its units do not take.

    Notes
    -----
    An estimate of log Z errs on the low side, so the log-likelihood errs on the high side;
    :func:`reverse_log_likelihood` errs on the other.
    """
    machine.check_visible(visible)
    log_weights = -machine.to(torch.float64).free_energy(visible)
    _, n_states = smaller_layer(machine)
    if n_states is not None and n_states <= EXACT_MAX_STATES:
        return _record(log_weights, exact_log_partition(machine))
    base = machine.base_bias(visible) if base_bias is None else base_bias
    estimate = ais_log_partition(
        machine, base, n_chains=n_chains, n_temperatures=n_temperatures, seed=seed
    )
    return _record(log_weights, estimate)


def _record(log_weights: Tensor, log_partition: float | LogPartition) -> LogLikelihood:
    mean = log_weights.mean().item()
    spread = log_weights.std(correction=0).item() / math.sqrt(log_weights.shape[0])
    if isinstance(log_partition, float):
        return LogLikelihood(
            mean=mean - log_partition,
            stderr=spread,
            log_partition_stderr=0.0,
            sampling_stderr=spread,
            lower=mean - log_partition,
            upper=min(mean - log_partition, 0.0),
            method="exact",
            log_partition=log_partition,
            effective_sample_size=None,
            n_chains=None,
            n_temperatures=None,
        )
    kind = LogLikelihood if log_partition.reliable else UnreliableLogLikelihood
    return kind(
        mean=mean - log_partition.log_partition,
        stderr=math.hypot(log_partition.stderr, spread),
        log_partition_stderr=log_partition.stderr,
        sampling_stderr=spread,
        lower=mean - log_partition.upper,
        upper=min(mean - log_partition.lower, 0.0),
        method="ais",
        log_partition=log_partition.log_partition,
        effective_sample_size=log_partition.effective_sample_size,
        n_chains=log_partition.n_chains,
        n_temperatures=log_partition.n_temperatures,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LowerBound:
    """Stochastic lower bound of the mean log-likelihood of a few rows, nats per row."""

    mean: float
    """Mean over the rows of the log of the mean weight."""
    stderr: float
    """From the spread of the weights of each row (delta method); the rows are given."""
    lower: float
    """``mean`` less 3 ``stderr``."""
    by_row: Tensor
    """Shape (n_rows,), float64."""
    n_chains: int
    """Annealing runs per row."""
    n_temperatures: int
    """Steps of the schedule."""


def reverse_log_likelihood(
    machine: RBM,
    visible: Tensor,
    *,
    base_bias: Tensor,
    n_chains: int = 10,
    n_temperatures: int = 1000,
    seed: int = 0,
) -> LowerBound:
    r"""RAISE: the probability of rows under the annealing run itself, which errs on the low side.

    .. math:: \log p(v) \gtrsim \log \frac{f_K(v)}{Z_0} + \log \frac{1}{M} \sum_m w_m(v)

    with weights of runs from v back to independent units; see
    :func:`rbm.annealing.anneal_backwards`. The mean of w is exact for the annealing run taken as a
    model, which approaches the machine as ``n_temperatures`` grows; on average over samples of
    the machine its log-likelihood cannot be above the machine's own.

    Parameters
    ----------
    machine
        The machine.
    visible
        A few hundred rows at most: every row costs ``n_chains`` whole annealing runs.
    base_bias
        As of :func:`log_likelihood`.
    n_chains
        Runs per row, at least 2.
    n_temperatures, seed
        As of :func:`log_likelihood`.

    Raises
    ------
    ValueError
        If ``visible`` does not fit the machine or there are fewer than two runs.

    References
    ----------
    .. [1] Burda, Grosse, Salakhutdinov (2014), arXiv 1412.8566.
    """
    machine.check_visible(visible)
    if n_chains < 2:
        raise ValueError(f"n_chains: expected at least 2, got {n_chains}")
    path = AnnealedPath(machine, base_bias)
    betas = adaptive_schedule(path, n_temperatures, seed=seed)
    rows = visible.to(machine.dtype).repeat_interleave(n_chains, dim=0)
    chains, pieces = torch.arange(rows.shape[0]), []
    for some, numbers in zip(
        torch.split(rows, _RUNS_AT_ONCE), torch.split(chains, _RUNS_AT_ONCE), strict=True
    ):
        runs = anneal_backwards(path, betas, {0: some}, seed=seed, chains=numbers)
        pieces.append(runs.log_weights)
    log_weights = torch.unflatten(torch.cat(pieces), 0, (-1, n_chains))
    log_mean = torch.logsumexp(log_weights, dim=1) - math.log(n_chains)
    relative = torch.exp(log_weights - log_mean[:, None])
    row_variance = relative.var(dim=1) / n_chains
    start = -machine.to(torch.float64).free_energy(visible) - path.log_base_partition
    by_row = start + log_mean
    stderr = (row_variance.sum().sqrt() / visible.shape[0]).item()
    return LowerBound(
        mean=by_row.mean().item(),
        stderr=stderr,
        lower=by_row.mean().item() - _N_SIGMA * stderr,
        by_row=by_row,
        n_chains=n_chains,
        n_temperatures=n_temperatures,
    )


def independent_log_likelihood(train: Tensor, test: Tensor, units: Units = BERNOULLI) -> float:
    """Mean log-likelihood of ``test`` under independent units fitted to ``train``.

    The floor that a machine has to beat. Shapes (n_samples, n_visible), nats per row.
    """
    field = units.base_field(train)
    states = test.to(torch.float64)
    own = units.statistics(states) @ field + units.log_base(states)
    return own.mean().item() - units.log_normaliser(field).item()
