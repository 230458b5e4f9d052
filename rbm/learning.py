r"""Training a Bernoulli RBM by (persistent) contrastive divergence with the centred gradient.

The gradient of the mean log-likelihood is :math:`\langle v h^\top\rangle_{data} - \langle v
h^\top\rangle_{model}`; the second mean comes from Gibbs chains. PCD keeps ``n_chains`` chains for
the whole training, CD-k restarts them from each batch. Everything random is addressed by the seed
and counters, so a training that is stopped and resumed ends with the same bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from kernels.philox import Purpose, permutation, uniform
from rbm.gradients import Gradient, gradient
from rbm.models.rbm import RBM
from rbm.samplers import gibbs
from rbm.samplers.gibbs import GibbsState
from rbm.units import BERNOULLI, SPIN, softplus

# Updates that the epoch rule aims at, and the least number of passes over the data.
_N_UPDATES = 6_000
_MIN_EPOCHS = 10
_PSEUDO_LIKELIHOOD_INDEX = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PCDConfig:
    """How an RBM is trained."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    method: Literal["pcd", "cd"] = "pcd"
    """pcd: chains persist through training (Tieleman 2008); cd: chains restart from each batch."""
    n_chains: int = 128
    """Persistent chains; unused by cd, which has one chain per row of the batch."""
    n_steps: int = 1
    """Gibbs sweeps per update."""
    learning_rate: float = 0.1
    """At the first update; falls linearly to 0 at the end."""
    batch_size: int = 128
    """Rows per update; a larger value than the number of rows means all of them."""
    epochs: int | None = None
    """Passes over the data; None: as many as make 6,000 updates, and at least 10."""
    centred: bool = True
    """Use the centred gradient (data mean and running hidden mean as offsets)."""
    base_rate_start: bool = True
    """Set the visible bias to the logit of the data's base rates before the first update."""
    weight_decay: float = 0.0
    """L2 penalty on the weights, multiplied by the learning rate."""
    hidden_offset_rate: float = 0.01
    """Rate of the running mean of p(h | data) that centres the hidden units."""
    seed: int = 0
    """Of data order and chains, 64-bit."""

    def __post_init__(self) -> None:
        for name in ("n_chains", "n_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.method not in ("pcd", "cd"):
            raise ValueError(f"method: expected pcd or cd, got {self.method}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1 or None, got {self.epochs}")
        if not (0.0 < self.learning_rate < math.inf):
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected weight_decay >= 0, got {self.weight_decay}")
        if not 0.0 <= self.hidden_offset_rate <= 1.0:
            raise ValueError(
                f"hidden_offset_rate: expected 0 <= rate <= 1, got {self.hidden_offset_rate}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {self.seed}")

    def n_epochs(self, n_samples: int) -> int:
        """Return the passes over ``n_samples`` rows: ``epochs``, or what the rule says instead."""
        if self.epochs is not None:
            return self.epochs
        return recommended_epochs(n_samples, self.batch_size)

    def steps_per_epoch(self, n_samples: int) -> int:
        """Full batches in ``n_samples`` rows; the rows left over differ from epoch to epoch."""
        return max(1, n_samples // self.batch_size)


def recommended_epochs(n_samples: int, batch_size: int = 128) -> int:
    """Return the passes over the data that make about 6,000 updates, at least 10.

    600 for 1,347 digits and 13 for the 60,000 images of Fashion-MNIST in batches of 128: what an
    RBM needs is the number of updates in which its chains follow it, not of passes over the data.

    Raises
    ------
    ValueError
        If a number is not positive.
    """
    if n_samples < 1 or batch_size < 1:
        raise ValueError(
            f"n_samples, batch_size: expected at least 1, got {n_samples} and {batch_size}"
        )
    return max(_MIN_EPOCHS, math.ceil(_N_UPDATES / max(1, n_samples // batch_size)))


class StepInfo(NamedTuple):
    """What one update saw, before the change."""

    step: int
    """Number of the update, from 0."""
    epoch: int
    """Number of the pass over the data, from 0."""
    learning_rate: float
    """Of this update."""
    pseudo_log_likelihood: float | None
    """Stochastic estimate on the batch, nats per row: n_visible * log p(v_i | v_rest), random i;
    None for units that are neither bits nor spins."""
    free_energy_gap: float
    """Mean F(chains) - mean F(batch), nats; far from 0 for long means chains that do not follow."""


class Trainer:
    """Training of one machine, one update per call, resumable after any of them.

    Parameters
    ----------
    machine
        Changed in place: its parameter tensors are updated, on the device where they are.
    config
        How to train.
    n_samples
        Rows of the training set.

    Raises
    ------
    ValueError
        If there are no rows.
    """

    def __init__(self, machine: RBM, config: PCDConfig, n_samples: int) -> None:
        if n_samples < 1:
            raise ValueError(f"n_samples: expected at least 1, got {n_samples}")
        self.machine = machine
        self.config = config
        self.n_samples = n_samples
        self.steps_per_epoch = config.steps_per_epoch(n_samples)
        self.n_steps = self.steps_per_epoch * config.n_epochs(n_samples)
        self._step = 0
        self._visible_offset = torch.zeros_like(machine.visible_bias)
        self._hidden_offset = torch.zeros_like(machine.hidden_bias)
        if config.centred:
            without_field = machine.units[1].conditional(self._hidden_offset).mean
            self._hidden_offset = machine.units[1].statistics(without_field)
        n_chains = config.n_chains
        if config.method == "cd":
            n_chains = min(config.batch_size, n_samples)
        self._chains = GibbsState(
            tuple(machine.weights.new_zeros(n_chains, size) for size in machine.layer_sizes),
            torch.arange(n_chains),
            0,
        )
        self._order = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def step(self) -> int:
        """Updates done."""
        return self._step

    @property
    def chains(self) -> GibbsState:
        """The chains as the last update left them; samples of the model ("fantasies") with pcd."""
        return self._chains

    def train_step(self, visible: Tensor) -> StepInfo:
        """Do the next update.

        Parameters
        ----------
        visible
            The whole training set, shape (n_samples, n_visible), values in {0, 1}, any dtype and
            device. The rows of this update are chosen by (seed, epoch).

        Raises
        ------
        ValueError
            If the shape is not that of the training set.
        RuntimeError
            If all ``n_steps`` updates are done.
        """
        self._check(visible)
        if self._step == 0:
            self._start(visible)
        rate = self.config.learning_rate * (1.0 - self._step / self.n_steps)
        batch = self._batch(visible)
        field = self.machine.hidden_field(batch)
        data = self._statistics(batch, self.machine.units[1].conditional(field).mean)
        self._chains, hidden_model = self._negative_phase(batch)
        model = self._statistics(self._chains.visible, hidden_model)
        info = self._info(batch, field, self._chains.visible, rate)
        if self.config.centred:
            self._hidden_offset.lerp_(data[1].mean(dim=0), self.config.hidden_offset_rate)
        offsets = (self._visible_offset, self._hidden_offset)
        self._update(gradient(data, model, offsets), rate)
        self._step += 1
        return info

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything that a resumed training needs: tensors (copies on the CPU) and counters."""
        tensors = {
            "weights": self.machine.weights,
            "visible_bias": self.machine.visible_bias,
            "hidden_bias": self.machine.hidden_bias,
            "visible_offset": self._visible_offset,
            "hidden_offset": self._hidden_offset,
            "chain_visible": self._chains.visible,
            "chain_hidden": self._chains.hidden,
        }
        numbers = {"step": self._step, "sweep": self._chains.sweep, **self._identity()}
        return {name: t.to("cpu", copy=True) for name, t in tensors.items()}, numbers

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Continue from what ``state`` gave, with the same configuration and data.

        Raises
        ------
        ValueError
            If a name, shape, dtype or number is not what this configuration and data have;
            nothing is changed then.
        """
        expected, expected_numbers = self.state()
        for kind, got, want in (
            ("tensors", set(tensors), set(expected)),
            ("numbers", set(numbers), set(expected_numbers)),
        ):
            if got != want:
                raise ValueError(f"{kind}: expected the names {sorted(want)}, got {sorted(got)}")
        for name, value in self._identity().items():
            if numbers[name] != value:
                raise ValueError(
                    f"{name}: expected {value}, got {numbers[name]}; "
                    "the state belongs to another configuration or other data"
                )
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, expected[name])
        if not 0 <= numbers["step"] <= self.n_steps:
            raise ValueError(f"step: expected 0 to {self.n_steps}, got {numbers['step']}")
        self._step = numbers["step"]
        self.machine.weights.copy_(tensors["weights"])
        self.machine.visible_bias.copy_(tensors["visible_bias"])
        self.machine.hidden_bias.copy_(tensors["hidden_bias"])
        self._visible_offset, self._hidden_offset, visible, hidden = (
            tensors[name].to(self.machine.weights.device, copy=True)
            for name in ("visible_offset", "hidden_offset", "chain_visible", "chain_hidden")
        )
        chains = torch.arange(visible.shape[0])
        self._chains = GibbsState((visible, hidden), chains, numbers["sweep"])

    def _identity(self) -> dict[str, int]:
        """Counters that must agree between the training that stopped and the one that goes on."""
        config = self.config
        return {
            "n_samples": self.n_samples,
            "n_steps": self.n_steps,
            "batch_size": config.batch_size,
            "seed": config.seed,
        }

    def _check(self, visible: Tensor) -> None:
        if self._step >= self.n_steps:
            raise RuntimeError(f"train_step: all {self.n_steps} updates are done")
        expected = (self.n_samples, self.machine.n_visible)
        if tuple(visible.shape) != expected:
            raise ValueError(f"visible: expected shape {expected}, got {tuple(visible.shape)}")

    def _start(self, visible: Tensor) -> None:
        """Take base rates and offsets from the data, and draw the first chains."""
        machine, rows = self.machine, visible.to(self.machine.weights)
        machine.check_visible(rows)
        bias = machine.base_bias(rows)
        if self.config.base_rate_start:
            machine.visible_bias.copy_(bias)
        if self.config.centred:
            self._visible_offset = machine.units[0].statistics(rows).mean(dim=0)
        seed, chains = self.config.seed, self._chains.chains
        independent = machine.independent(bias, len(chains))
        start = gibbs.initial_visible(independent, seed=seed, chains=chains)
        self._chains = gibbs.init(machine, start, seed=seed, chains=chains)

    def _batch(self, visible: Tensor) -> Tensor:
        epoch, position = divmod(self._step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = permutation(self.config.seed, self.n_samples, epoch=epoch)
            self._order = (epoch, torch.from_numpy(order).to(visible.device))
        start = position * self.config.batch_size
        rows = self._order[1][start : start + self.config.batch_size]
        return visible[rows].to(self.machine.weights)

    def _negative_phase(self, batch: Tensor) -> tuple[GibbsState, Tensor]:
        """Advance the chains; return them and p(h | v) of their visible states."""
        seed, state = self.config.seed, self._chains
        if self.config.method == "cd":
            state = gibbs.init(self.machine, batch, seed=seed, sweep=state.sweep)
        for _ in range(self.config.n_steps):
            state, sweep_info = gibbs.step(self.machine, state, seed=seed)
        return state, sweep_info.p_hidden

    def _statistics(self, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """T(v) and T(h); T is linear, so that of a mean is the mean of T."""
        units = self.machine.units
        return units[0].statistics(visible), units[1].statistics(hidden)

    def _update(self, direction: Gradient, rate: float) -> None:
        machine = self.machine
        if self.config.weight_decay:
            machine.weights.mul_(1.0 - rate * self.config.weight_decay)
        machine.weights.add_(direction.weights, alpha=rate)
        machine.visible_bias.add_(direction.visible_bias, alpha=rate)
        machine.hidden_bias.add_(direction.hidden_bias, alpha=rate)

    def _info(self, batch: Tensor, field: Tensor, chain_visible: Tensor, rate: float) -> StepInfo:
        """Measure what costs no matrix product beyond one over the chains."""
        machine = self.machine
        own = machine.units[0].statistics(batch) @ machine.visible_bias
        summed_out = machine.units[1].log_normaliser(field)
        data_energy = -own - summed_out - machine.units[0].log_base(batch)
        gap = machine.free_energy(chain_visible).mean() - data_energy.mean()
        epoch = self._step // self.steps_per_epoch
        pseudo = self._pseudo_log_likelihood(batch, field, summed_out)
        return StepInfo(self._step, epoch, rate, pseudo, gap.item())

    def _pseudo_log_likelihood(
        self, batch: Tensor, field: Tensor, summed_out: Tensor
    ) -> float | None:
        """Flip one random unit per row; only the terms of that unit change."""
        machine = self.machine
        if machine.units[0] not in (BERNOULLI, SPIN):
            return None
        draws = uniform(
            self.config.seed,
            Purpose.DIAGNOSTICS,
            batch.shape[0],
            rows=self._step,
            index=_PSEUDO_LIKELIHOOD_INDEX,
        )
        unit = (torch.from_numpy(draws[0]).to(batch.device) * machine.n_visible).long()
        value = batch.gather(1, unit[:, None])
        flip = 1.0 - 2.0 * value if machine.units[0] is BERNOULLI else -2.0 * value
        flipped_part = machine.units[1].log_normaliser(field + flip * machine.weights[unit])
        # F(flipped) - F(v)
        rise = summed_out - flipped_part - flip[:, 0] * machine.visible_bias[unit]
        return (-machine.n_visible * softplus(-rise).mean()).item()


def _check_tensor(name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
        raise ValueError(
            f"{name}: expected shape {tuple(expected.shape)} and {expected.dtype}, "
            f"got {tuple(tensor.shape)} and {tensor.dtype}"
        )


def fit(
    machine: RBM,
    visible: Tensor,
    config: PCDConfig,
    *,
    on_epoch: Callable[[StepInfo], None] | None = None,
) -> list[StepInfo]:
    """Train ``machine`` in place on all of ``visible``.

    Parameters
    ----------
    machine
        Changed in place.
    visible
        Shape (n_samples, n_visible), values in {0, 1}, any dtype.
    config
        How to train.
    on_epoch
        Called with the last update of each epoch.

    Returns
    -------
    list of StepInfo
        The last update of each epoch.
    """
    trainer = Trainer(machine, config, visible.shape[0])
    history = []
    while trainer.step < trainer.n_steps:
        info = trainer.train_step(visible)
        if trainer.step % trainer.steps_per_epoch == 0:
            history.append(info)
            if on_epoch is not None:
                on_epoch(info)
    return history


def reconstruction_error(machine: RBM, visible: Tensor) -> float:
    """Mean squared error per unit of E[v | p(h | v)]: catches divergence, is not an objective."""
    reconstruction = machine.p_visible(machine.p_hidden(visible))
    return (visible.to(machine.dtype) - reconstruction).square().mean().item()
