r"""Annealing between independent units and a machine: log weights whose mean is Z / Z_0.

Layers of one parity are kept as states, the others are summed out:

.. math::
    \log p^*_\beta(x) = \sum_{kept} \left[\log b(x) + T(x)^\top c_\beta\right]
    + \sum_{summed} A(f_\beta(x))

with all fields times beta and the visible bias on the way from a^A to c_0. At beta = 0 the
units are independent and Z_0 is known.

References
----------
.. [1] Neal (2001), Annealed importance sampling.
.. [2] Salakhutdinov, Murray (2008), On the quantitative analysis of deep belief networks.
.. [3] Burda, Grosse, Salakhutdinov (2014), Accurate and conservative estimates of MRF
   log-likelihood using reverse annealing, arXiv 1412.8566.
.. [4] Gelman, Meng (1998), Simulating normalizing constants, section 4.2: the spacing of least
   variance is uniform in the length measured by the standard deviation of d log p* / d beta.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rbm.conditionals import Address
from rbm.models.layered import LayeredMachine
from rbm.samplers.gibbs import layer_address

_PILOT_CHAINS = 32
_PILOT_TEMPERATURES = 100
# The last of the 2^12 estimates that a layer's stream has room for; no run uses it as its own.
_PILOT_ESTIMATE = (1 << 12) - 1
# A path on which the pilot runs see no spread at all would have no direction to space by.
_LEAST_SPREAD = 1e-3

States = dict[int, Tensor]
"""States or fields by number of the layer."""


class AnnealedPath:
    """Distributions p_beta, known up to their constants, and a Gibbs move that keeps each of them.

    Parameters
    ----------
    machine
        At beta = 1.
    base_bias
        a^A, shape (n_visible,): fields of the independent visible units at beta = 0.
    keep
        Parity of the layers that are kept as states: 0 keeps the visible units (and every second
        hidden layer), 1 keeps the first hidden layer and sums the visible units out.

    Raises
    ------
    ValueError
        If the shape of ``base_bias`` does not fit.
    """

    def __init__(self, machine: LayeredMachine, base_bias: Tensor, *, keep: int = 0) -> None:
        if base_bias.shape != (machine.n_visible,):
            raise ValueError(
                f"base_bias: expected shape ({machine.n_visible},), got {tuple(base_bias.shape)}"
            )
        self.machine = machine
        self.base_bias = base_bias.to(machine.layer_biases[0])
        layers = range(len(machine.layer_sizes))
        self.kept = [layer for layer in layers if layer % 2 == keep]
        self.summed = [layer for layer in layers if layer % 2 != keep]

    @property
    def log_base_partition(self) -> float:
        """Log Z_0, nats, exact."""
        total = 0.0
        for layer, bias in enumerate(self.machine.layer_biases):
            start = self.base_bias if layer == 0 else torch.zeros_like(bias)
            total += self.machine.units[layer].log_normaliser(start.to(torch.float64)).item()
        return total

    def start(self, seed: int, chains: Tensor, estimate: int) -> States:
        """Exact samples at beta = 0, shape (n_chains, size) per kept layer."""
        states = {}
        for layer in self.kept:
            bias = self.machine.layer_biases[layer]
            field = (self.base_bias if layer == 0 else torch.zeros_like(bias)).expand(
                chains.shape[0], -1
            )
            address = _address(layer, seed, chains, 0, estimate)
            states[layer] = self.machine.units[layer].conditional(field).draw(address)
        return states

    def fields(self, kept: States) -> States:
        """Fields of the summed layers at beta = 1: the matrix products, shared by all weights."""
        return {layer: self.machine.field(layer, self._all(kept)) for layer in self.summed}

    def log_weight(self, beta: float, kept: States, fields: States) -> Tensor:
        """Log p*_beta, shape (n_chains,), nats, float64."""
        machine = self.machine
        total = torch.zeros((), dtype=torch.float64)
        for layer in self.kept:
            units = machine.units[layer]
            bias = self._on_the_way(beta, layer, machine.layer_biases[layer].to(torch.float64))
            states = kept[layer].to(torch.float64)
            own = units.statistics(states) @ bias + units.log_base(states)
            total = total.to(own.device) + own
        for layer in self.summed:
            field = self._on_the_way(beta, layer, fields[layer].to(torch.float64))
            total = total.to(field.device) + machine.units[layer].log_normaliser(field)
        return total

    def move(self, beta: float, fields: States, address: Address) -> States:
        """Draw the summed layers, then the kept ones given them; reversible, keeps p_beta.

        Parameters
        ----------
        beta
            Inverse temperature.
        fields
            Of the states to move from.
        address
            Seed, chains, number of the temperature and estimate; purpose is not read.
        """
        seed, _, chains, number, estimate = address
        summed: States = {}
        for layer in self.summed:
            field = self._on_the_way(beta, layer, fields[layer])
            conditional = self.machine.units[layer].conditional(field)
            summed[layer] = conditional.draw(_address(layer, seed, chains, number, estimate))
        kept: States = {}
        for layer in self.kept:
            field = self._on_the_way(beta, layer, self.machine.field(layer, self._all(summed)))
            conditional = self.machine.units[layer].conditional(field)
            kept[layer] = conditional.draw(_address(layer, seed, chains, number, estimate))
        return kept

    def _on_the_way(self, beta: float, layer: int, field: Tensor) -> Tensor:
        if layer:
            return beta * field
        return (1.0 - beta) * self.base_bias.to(field) + beta * field

    def _all(self, some: States) -> list[Tensor]:
        """One entry per layer; those that are not known are not read."""
        anything = next(iter(some.values()))
        return [some.get(layer, anything) for layer in range(len(self.machine.layer_sizes))]


def _address(layer: int, seed: int, chains: Tensor, number: int, estimate: int) -> Address:
    return layer_address(layer, seed, chains, number, estimate, annealed=True)


class Annealed(NamedTuple):
    """Result of annealing runs."""

    log_weights: Tensor
    """log w, shape (n_chains,), float64; the mean of w is Z / Z_0 in expectation."""
    states: States
    """Of the kept layers at the end: weighted samples of the machine."""


def linear_schedule(n_temperatures: int) -> list[float]:
    """0, 1/K, ..., 1 for K = ``n_temperatures``."""
    return [number / n_temperatures for number in range(n_temperatures + 1)]


def anneal(
    path: AnnealedPath, betas: Sequence[float], *, seed: int, chains: Tensor, estimate: int = 0
) -> Annealed:
    """Annealed importance sampling, one run per entry of ``chains``.

    Each run adds the change of log p* at its state, *then* moves by one Gibbs sweep at the new
    temperature. A run depends on its global number, not on the others: split them as you like.

    Parameters
    ----------
    path
        From independent units to the machine.
    betas
        From 0 to 1, increasing.
    seed
        64-bit.
    chains
        Global numbers of the runs, shape (n_chains,), int64.
    estimate
        Number of the estimate, below 4095: others draw from other streams.
    """
    _check_betas(betas)
    kept = path.start(seed, chains, estimate)
    log_weights = torch.zeros(chains.shape[0], dtype=torch.float64)
    for number in range(1, len(betas)):
        old, new = betas[number - 1], betas[number]
        fields = path.fields(kept)
        # The weight is complete before the move; weighting the moved state is the classic error.
        change = path.log_weight(new, kept, fields) - path.log_weight(old, kept, fields)
        log_weights = log_weights.to(change.device) + change
        address = layer_address(0, seed, chains, number, estimate, annealed=True)
        kept = path.move(new, fields, address)
    return Annealed(log_weights, kept)


def anneal_backwards(
    path: AnnealedPath,
    betas: Sequence[float],
    kept: States,
    *,
    seed: int,
    chains: Tensor,
    estimate: int = 0,
) -> Annealed:
    r"""Run from states at beta = 1 back to independent units.

    .. math:: \log w = \sum_{k=K}^{1} \log f_{k-1}(x_{k-1}) - \log f_k(x_{k-1}), \qquad
        x_{k-1} \sim T_k(\cdot \mid x_k), \quad x_K = \text{given}

    for the moves T_k, reversible with respect to f_k. Then f_K(v) w / Z_0 averages to the
    probability of v under the annealing run itself (RAISE). From exact samples of the machine,
    the mean of w is Z_0 / Z (reverse AIS), because a further move keeps them exact.

    Parameters
    ----------
    path, betas, seed, chains, estimate
        As of :func:`anneal`.
    kept
        States of the kept layers at beta = 1, one row per run.
    """
    _check_betas(betas)
    log_weights = torch.zeros(chains.shape[0], dtype=torch.float64)
    fields = path.fields(kept)
    for number in range(len(betas) - 1, 0, -1):
        address = layer_address(0, seed, chains, number, estimate, annealed=True)
        kept = path.move(betas[number], fields, address)
        fields = path.fields(kept)
        before = path.log_weight(betas[number - 1], kept, fields)
        change = before - path.log_weight(betas[number], kept, fields)
        log_weights = log_weights.to(change.device) + change
    return Annealed(log_weights, kept)


def adaptive_schedule(path: AnnealedPath, n_temperatures: int, *, seed: int) -> list[float]:
    """Temperatures that are close where log p* changes differently from run to run.

    32 pilot runs over 100 even steps measure the standard deviation of the change of log p* in
    each; the schedule has equal shares of their sum between neighbours (Gelman, Meng 1998).

    Returns
    -------
    list of float
        ``n_temperatures + 1`` values from 0 to 1.

    Raises
    ------
    ValueError
        If ``n_temperatures`` is not positive.
    """
    if n_temperatures < 1:
        raise ValueError(f"n_temperatures: expected at least 1, got {n_temperatures}")
    chains, pilot = torch.arange(_PILOT_CHAINS), linear_schedule(_PILOT_TEMPERATURES)
    kept = path.start(seed, chains, _PILOT_ESTIMATE)
    spread = []
    for number in range(1, len(pilot)):
        fields = path.fields(kept)
        change = path.log_weight(pilot[number], kept, fields) - path.log_weight(
            pilot[number - 1], kept, fields
        )
        spread.append(change.std().item() + _LEAST_SPREAD / len(pilot))
        address = layer_address(0, seed, chains, number, _PILOT_ESTIMATE, annealed=True)
        kept = path.move(pilot[number], fields, address)
    length = torch.tensor([0.0, *spread], dtype=torch.float64).cumsum(dim=0)
    targets = torch.linspace(0.0, length[-1].item(), n_temperatures + 1, dtype=torch.float64)
    above = torch.searchsorted(length, targets[1:-1], right=True).clamp(1, len(pilot) - 1)
    share = (targets[1:-1] - length[above - 1]) / (length[above] - length[above - 1])
    inner = (above - 1 + share) / (len(pilot) - 1)
    return [0.0, *inner.tolist(), 1.0]


def _check_betas(betas: Sequence[float]) -> None:
    rising = all(old < new for old, new in pairwise(betas))
    if len(betas) < 2 or betas[0] != 0.0 or betas[-1] != 1.0 or not rising:
        raise ValueError("betas: expected values rising from 0 to 1, got others")
