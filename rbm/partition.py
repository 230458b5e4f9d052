r"""Log partition function and log-likelihood of a Bernoulli RBM: exact, and by AIS.

Sums are taken in float64 whatever the dtype of the machine; only the annealing's Gibbs sweeps use
the machine's own dtype. log Z is in nats.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernels.philox import Purpose
from rbm.models.rbm import RBM, softplus
from rbm.samplers.gibbs import bernoulli
from rbm.states import enumerate_bits

EXACT_MAX_UNITS = 20
"""Largest smaller layer that :func:`log_likelihood` enumerates; 2**20 states."""
_STATES_PER_CHUNK = 1 << 13
_N_SIGMA = 3.0
# With fewer effective runs a few weights decide the mean, and its error bar means little.
_MIN_EFFECTIVE_RUNS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPartition:
    """Estimate of log Z by annealed importance sampling, nats."""

    log_partition: float
    """log of the mean weight; its expectation is below log Z (Jensen), by about variance / 2."""
    stderr: float
    """Standard error of ``log_partition``: spread of the weights (delta method)."""
    lower: float
    """log(mean - 3 s.e.) of the weights, or the largest -F(v) seen (a true bound) if greater."""
    upper: float
    """log(mean + 3 s.e.) of the weights."""
    effective_sample_size: float
    """(sum w)^2 / sum w^2 between 1 and ``n_chains``."""
    variance_of_log_weights: float
    """Sample variance of log w, nats squared."""
    n_chains: int
    """Independent annealing runs."""
    n_temperatures: int
    """Temperatures after the first, which is the base model."""
    reliable: bool
    """False if 3 s.e. reach the mean weight or the effective sample size is below 10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLikelihood:
    """Mean log-likelihood of a data set, nats per row."""

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
    reliable: bool
    """False if the estimate of log Z is not to be trusted."""


def exact_log_partition(machine: RBM) -> float:
    r"""Log Z by enumeration of the smaller layer: a streaming log-sum-exp over -F.

    .. math:: Z = \sum_h e^{b^\top h} \prod_i (1 + e^{a_i + W_{i:} h})

    Raises
    ------
    ValueError
        If the smaller layer has more than 30 units.
    """
    model = machine.to(torch.float64)
    n_units = min(model.n_visible, model.n_hidden)
    if n_units > 30:
        raise ValueError(
            f"machine: expected a layer of at most 30 units to enumerate, got {n_units}; "
            "use ais_log_partition"
        )
    free_energy = (
        model.hidden_free_energy if model.n_hidden <= model.n_visible else model.free_energy
    )
    total = model.weights.new_full((), -math.inf)
    for start in range(0, 1 << n_units, _STATES_PER_CHUNK):
        stop = min(start + _STATES_PER_CHUNK, 1 << n_units)
        states = enumerate_bits(n_units, start, stop).to(total.device)
        total = torch.logaddexp(total, torch.logsumexp(-free_energy(states), dim=0))
    return total.item()


def ais_log_partition(
    machine: RBM,
    base_bias: Tensor,
    *,
    n_chains: int = 100,
    n_temperatures: int = 1000,
    seed: int = 0,
) -> LogPartition:
    r"""Log Z by annealed importance sampling from an independent model to the machine.

    .. math::
        \log p^*_t(v) = ((1-t) a^A + t a)^\top v + \sum_j \log(1 + e^{t (b_j + W_{:j}^\top v)})

    with t = 0, 1/K, ..., 1. Each run adds the change of log p* at its state, *then* moves to the
    new temperature's distribution by one Gibbs sweep.

    Parameters
    ----------
    machine
        The machine, any dtype.
    base_bias
        a^A, shape (n_visible,): logits of the base model's independent units, best those of the
        training data (:func:`base_rate_bias`); zeros are the uniform start.
    n_chains
        Independent runs, at least 2.
    n_temperatures
        K.
    seed
        64-bit; a draw is addressed by (run, temperature number, unit).

    Raises
    ------
    ValueError
        If the shape of ``base_bias`` or a count does not fit.

    Notes
    -----
    On a machine with many modes the weights differ by which mode a run fell into; more temperatures
    and more runs both help, slowly. Resampling the runs on the way gained too little to be kept.

    References
    ----------
    .. [1] Salakhutdinov, Murray (2008), On the quantitative analysis of deep belief networks.
    .. [2] Neal (2001), Annealed importance sampling.
    """
    if base_bias.shape != (machine.n_visible,):
        raise ValueError(
            f"base_bias: expected shape ({machine.n_visible},), got {tuple(base_bias.shape)}"
        )
    if n_chains < 2 or n_temperatures < 1:
        raise ValueError(
            "n_chains, n_temperatures: expected at least 2 and 1, "
            f"got {n_chains} and {n_temperatures}"
        )
    base = base_bias.to(machine.dtype)
    log_base = softplus(base.to(torch.float64)).sum().item() + machine.n_hidden * math.log(2.0)
    log_weights, visible = _anneal(machine, base, n_chains, n_temperatures, seed)
    floor = (-machine.to(torch.float64).free_energy(visible)).max().item()
    return _summarise(log_weights, log_base, floor, n_temperatures)


def _anneal(
    model: RBM, base: Tensor, n_chains: int, n_temperatures: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Log weights of the runs and their visible states at the last temperature."""
    chains = torch.arange(n_chains)
    bias_change = model.visible_bias.to(torch.float64) - base.to(torch.float64)
    p_base = torch.sigmoid(base).expand(n_chains, -1)
    visible = bernoulli(p_base, seed, Purpose.AIS_VISIBLE, chains, 0)
    log_weights = torch.zeros(n_chains, dtype=torch.float64, device=visible.device)
    for number in range(1, n_temperatures + 1):
        old, new = (number - 1) / n_temperatures, number / n_temperatures
        field = model.hidden_field(visible)
        wide = field.to(torch.float64)
        log_weights += (new - old) * (visible.to(torch.float64) @ bias_change)
        log_weights += (softplus(new * wide) - softplus(old * wide)).sum(dim=-1)
        # The weight is complete before the move; weighting the moved state is the classic error.
        p_hidden = torch.sigmoid(new * field)
        hidden = bernoulli(p_hidden, seed, Purpose.AIS_HIDDEN, chains, number)
        p_visible = torch.sigmoid((1.0 - new) * base + new * model.visible_field(hidden))
        visible = bernoulli(p_visible, seed, Purpose.AIS_VISIBLE, chains, number)
    return log_weights, visible


def _summarise(
    log_weights: Tensor, log_base: float, floor: float, n_temperatures: int
) -> LogPartition:
    n_chains = log_weights.shape[0]
    log_mean = torch.logsumexp(log_weights, dim=0).item() - math.log(n_chains)
    relative = torch.exp(log_weights - log_mean)
    stderr = relative.std().item() / math.sqrt(n_chains)
    effective = n_chains**2 / relative.square().sum().item()
    log_partition = log_base + log_mean
    spread = _N_SIGMA * stderr
    lower = log_partition + math.log1p(-spread) if spread < 1.0 else -math.inf
    return LogPartition(
        log_partition=log_partition,
        stderr=stderr,
        lower=min(max(lower, floor), log_partition),
        upper=log_partition + math.log1p(spread),
        effective_sample_size=effective,
        variance_of_log_weights=log_weights.var().item(),
        n_chains=n_chains,
        n_temperatures=n_temperatures,
        reliable=spread < 1.0 and effective >= _MIN_EFFECTIVE_RUNS,
    )


def base_rate_bias(visible: Tensor) -> Tensor:
    """Logits of the base rates, smoothed by one count each way: log((count + 1) / (N - count + 1)).

    Parameters
    ----------
    visible
        Shape (n_samples, n_visible), values in {0, 1}, any dtype.

    Returns
    -------
    Tensor
        Shape (n_visible,), float64.
    """
    count = visible.sum(dim=0, dtype=torch.float64)
    return torch.log((count + 1.0) / (visible.shape[0] - count + 1.0))


def log_likelihood(
    machine: RBM,
    visible: Tensor,
    *,
    base_bias: Tensor | None = None,
    n_chains: int = 100,
    n_temperatures: int = 1000,
    seed: int = 0,
) -> LogLikelihood:
    """Mean log p(v) over the rows of ``visible``; exact when a layer has at most 20 units.

    Parameters
    ----------
    machine
        The machine, any dtype.
    visible
        Shape (n_samples, n_visible), values in {0, 1}, any dtype.
    base_bias
        Base model of the annealing, shape (n_visible,), best ``base_rate_bias(train)``; None
        takes the base rates of ``visible``. Any choice estimates the same log Z.
    n_chains, n_temperatures, seed
        See :func:`ais_log_partition`; unused when exact.

    Raises
    ------
    ValueError
        If ``visible`` has no rows or does not fit the machine.

    Notes
    -----
    An estimate of log Z errs on the low side, so the log-likelihood errs on the high side.
    """
    if visible.ndim != 2 or visible.shape[0] < 1:
        raise ValueError(f"visible: expected at least one row, got shape {tuple(visible.shape)}")
    unnormalised = -machine.to(torch.float64).free_energy(visible)
    estimate = None
    if min(machine.n_visible, machine.n_hidden) <= EXACT_MAX_UNITS:
        log_partition = lower = upper = exact_log_partition(machine)
    else:
        base = base_rate_bias(visible) if base_bias is None else base_bias
        estimate = ais_log_partition(
            machine, base, n_chains=n_chains, n_temperatures=n_temperatures, seed=seed
        )
        log_partition, lower, upper = estimate.log_partition, estimate.lower, estimate.upper
    mean = unnormalised.mean().item()
    spread = unnormalised.std(correction=0).item() / math.sqrt(visible.shape[0])
    stderr = estimate.stderr if estimate else 0.0
    return LogLikelihood(
        mean=mean - log_partition,
        stderr=math.hypot(stderr, spread),
        log_partition_stderr=stderr,
        sampling_stderr=spread,
        lower=mean - upper,
        upper=min(mean - lower, 0.0),
        method="ais" if estimate else "exact",
        log_partition=log_partition,
        effective_sample_size=estimate.effective_sample_size if estimate else None,
        n_chains=estimate.n_chains if estimate else None,
        n_temperatures=estimate.n_temperatures if estimate else None,
        reliable=estimate.reliable if estimate else True,
    )


def independent_log_likelihood(train: Tensor, test: Tensor) -> float:
    """Mean log-likelihood of ``test`` under independent units with the base rates of ``train``.

    The floor that a machine has to beat. Shapes (n_samples, n_visible), values in {0, 1};
    nats per row.
    """
    bias = base_rate_bias(train)
    return (test.to(torch.float64) @ bias).mean().item() - softplus(bias).sum().item()
