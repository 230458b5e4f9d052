r"""Log partition function of a layered machine: exact by enumeration, and by annealing.

Sums are taken in float64 whatever the dtype of the machine; only the annealing's Gibbs sweeps use
the machine's own dtype. log Z is in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from rbm.annealing import AnnealedPath, adaptive_schedule, anneal, linear_schedule
from rbm.models.layered import LayeredMachine
from rbm.models.rbm import RBM

EXACT_MAX_STATES: Final = 1 << 20
"""Most states of the smaller layer that :func:`rbm.log_likelihood` enumerates unasked."""
_MOST_STATES: Final = 1 << 30
_STATES_PER_CHUNK: Final = 1 << 13
_N_SIGMA: Final = 3.0
# With fewer effective runs a few weights decide the mean, and its error bar means little.
_MIN_EFFECTIVE_RUNS: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPartition:
    """Estimate of log Z by annealed importance sampling, nats.

    :class:`UnreliableLogPartition` if its effective sample size is too small.
    """

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
    """Independent annealing runs, of all estimates together."""
    n_temperatures: int
    """Temperatures after the first, which is the base model."""
    by_estimate: tuple[float, ...]
    """log Z of each estimate alone: equal shares of the runs, with random numbers of their own."""

    @property
    def reliable(self) -> bool:
        """False if 3 s.e. reach the mean weight or the effective sample size is below 10."""
        return True

    def __str__(self) -> str:
        return (
            f"log Z = {self.log_partition:.3f} +- {self.stderr:.3f} nats "
            f"(AIS, {self.n_temperatures} temperatures, effective sample size "
            f"{self.effective_sample_size:.1f} of {self.n_chains})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreliableLogPartition(LogPartition):
    """An estimate that a few runs decide: its error bar means little. Anneal more slowly."""

    @property
    def reliable(self) -> bool:
        """False."""
        return False

    def __str__(self) -> str:
        # Zero-argument super() does not work in a class with slots that dataclass makes anew.
        return f"{LogPartition.__str__(self)}: NOT RELIABLE, use more temperatures or chains"


def exact_log_partition(machine: RBM) -> float:
    r"""Log Z by enumeration of the layer with fewer states: a streaming log-sum-exp over -F.

    .. math:: Z = \sum_h e^{b^\top h} \prod_i (1 + e^{a_i + W_{i:} h})

    Raises
    ------
    ValueError
        If no layer has at most 2^30 states.
    """
    model = machine.to(torch.float64)
    layer, n_states = smaller_layer(machine)
    if n_states is None or n_states > _MOST_STATES:
        count = "reals" if n_states is None else f"2^{math.log2(n_states):.0f}"
        raise ValueError(
            f"machine: expected a layer of at most 2^30 states to enumerate, got {count}; "
            "use ais_log_partition"
        )
    units, size = model.units[layer], model.layer_sizes[layer]
    free_energy = model.free_energy if layer == 0 else model.hidden_free_energy
    total = model.weights.new_full((), -math.inf)
    for start in range(0, n_states, _STATES_PER_CHUNK):
        stop = min(start + _STATES_PER_CHUNK, n_states)
        states = units.enumerate(size, start, stop).to(total.device)
        total = torch.logaddexp(total, torch.logsumexp(-free_energy(states), dim=0))
    return total.item()


def smaller_layer(machine: RBM) -> tuple[int, int | None]:
    """Return the layer with fewer states and their number; None if neither can be counted."""
    counts = [
        units.n_states(size) for units, size in zip(machine.units, machine.layer_sizes, strict=True)
    ]
    finite = {layer: count for layer, count in enumerate(counts) if count is not None}
    if not finite:
        return 1, None
    # Of equal layers the hidden one.
    layer = min(finite, key=lambda number: (finite[number], -number))
    return layer, finite[layer]


def ais_log_partition(
    machine: LayeredMachine,
    base_bias: Tensor,
    *,
    n_chains: int = 100,
    n_temperatures: int = 1000,
    n_estimates: int = 2,
    adaptive: bool = True,
    seed: int = 0,
) -> LogPartition:
    r"""Log Z by annealed importance sampling from an independent model to the machine.

    .. math::
        \log p^*_t(v) = ((1-t) a^A + t a)^\top v + \sum_j \log(1 + e^{t (b_j + W_{:j}^\top v)})

    for bits and one hidden layer; in general see :mod:`rbm.annealing`. Each run adds the change
    of log p* at its state, *then* moves to the new temperature's distribution by one Gibbs sweep.

    Parameters
    ----------
    machine
        The machine, any dtype, kind of units and depth.
    base_bias
        a^A, shape (n_visible,): fields of the base model's independent units, best those of the
        training data (``machine.base_bias(train)``); zeros are the uniform start.
    n_chains
        Independent runs of all estimates together, at least 2 per estimate.
    n_temperatures
        K.
    n_estimates
        Parts of the runs with random numbers of their own; each gives a value by itself.
    adaptive
        Space the temperatures by pilot runs; otherwise evenly.
    seed
        64-bit; a draw is addressed by (estimate, run, temperature number, unit).

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
    # A deep machine keeps its first hidden layer: more units are summed out exactly.
    path = AnnealedPath(machine, base_bias, keep=0 if len(machine.layer_sizes) == 2 else 1)
    if n_estimates < 1 or n_chains < 2 * n_estimates or n_temperatures < 1:
        raise ValueError(
            "n_chains, n_estimates, n_temperatures: expected at least 2 runs per estimate and 1 "
            f"temperature, got {n_chains}, {n_estimates} and {n_temperatures}"
        )
    betas = (
        adaptive_schedule(path, n_temperatures, seed=seed)
        if adaptive
        else linear_schedule(n_temperatures)
    )
    parts, floor = [], -math.inf
    for estimate, chains in enumerate(torch.arange(n_chains).tensor_split(n_estimates)):
        runs = anneal(path, betas, seed=seed, chains=chains, estimate=estimate)
        parts.append(runs.log_weights)
        last = path.log_weight(1.0, runs.states, path.fields(runs.states))
        floor = max(floor, last.max().item())
    return summarise(parts, path.log_base_partition, floor=floor, n_temperatures=n_temperatures)


def summarise(
    parts: Sequence[Tensor], log_base: float, *, floor: float, n_temperatures: int
) -> LogPartition:
    """Log Z from the log weights of annealing runs.

    Parameters
    ----------
    parts
        log w of each estimate, shape (n_chains,), float64.
    log_base
        log Z_0, nats.
    floor
        A true lower bound of log Z: log p* of any state, or -inf.
    n_temperatures
        Steps of the schedule.
    """
    log_weights = torch.cat(list(parts))
    n_chains = log_weights.shape[0]
    log_mean = _log_mean(log_weights)
    relative = torch.exp(log_weights - log_mean)
    stderr = relative.std().item() / math.sqrt(n_chains)
    effective = n_chains**2 / relative.square().sum().item()
    log_partition = log_base + log_mean
    spread = _N_SIGMA * stderr
    lower = log_partition + math.log1p(-spread) if spread < 1.0 else -math.inf
    is_reliable = spread < 1.0 and effective >= _MIN_EFFECTIVE_RUNS
    kind = LogPartition if is_reliable else UnreliableLogPartition
    return kind(
        log_partition=log_partition,
        stderr=stderr,
        lower=min(max(lower, floor), log_partition),
        upper=log_partition + math.log1p(spread),
        effective_sample_size=effective,
        variance_of_log_weights=log_weights.var().item(),
        n_chains=n_chains,
        n_temperatures=n_temperatures,
        by_estimate=tuple(log_base + _log_mean(part) for part in parts),
    )


def _log_mean(log_weights: Tensor) -> float:
    return torch.logsumexp(log_weights, dim=0).item() - math.log(log_weights.shape[0])
