"""Training by logical shards: the same bytes on any number of workers.

A batch is always split into the same number of logical shards. Each shard's forward and backward
pass is computed alone, with its own batch-normalisation statistics, into one flat vector
``[gradients | batch means and variances | loss | number correct]``; the vectors are summed in
shard order and every worker takes the same Adam step. Workers only decide who computes which
shard. Nothing here knows files or a cluster: who has more than one worker supplies ``gather``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnn.layers import BatchNorm, BinaryConv2d
from bnn.models import BinaryConvNet, check_images
from bnn.optimizers import Adam
from kernels import permutation

_BATCH = 128
_SMALL_BATCH = 64
_FEW_IMAGES = 10_000

Gather = Callable[[Tensor], Tensor]
"""From this worker's rows (n_local, P) to all rows (n_shards, P), in shard order, float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a network is trained; everything that its final bytes depend on but data and network."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    epochs: int | None = None
    """Passes over the training data; None: fewer, the more data there is."""
    batch_size: int | None = None
    """Images per step, a multiple of n_shards; None: 128, or 64 below 10,000 images."""
    n_shards: int = 2
    """Logical shards per batch: the largest useful number of workers. Part of the result."""
    learning_rate: float = 0.005
    """Peak rate of Adam, reached after the warm-up, from where it falls to 0 along a cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises linearly."""
    seed: int = 0
    """Of the order of the data."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
        if self.batch_size is not None and (
            self.batch_size % self.n_shards or self.batch_size < 2 * self.n_shards
        ):
            raise ValueError(
                f"batch_size: expected a multiple of n_shards = {self.n_shards} with two images "
                f"or more per shard, got {self.batch_size}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"warmup_fraction: expected 0 <= warmup_fraction < 1, got {self.warmup_fraction}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {self.seed}")

    def n_epochs(self, n_samples: int) -> int:
        """Passes over ``n_samples`` images: ``epochs``, or :func:`recommended_epochs`."""
        return recommended_epochs(n_samples) if self.epochs is None else self.epochs

    def images_per_step(self, n_samples: int) -> int:
        """Batch size for ``n_samples`` images, a multiple of ``n_shards``.

        Small data need more steps, not larger ones; data smaller than a batch are one batch.
        """
        wanted = self.batch_size or (_SMALL_BATCH if n_samples < _FEW_IMAGES else _BATCH)
        return min(wanted, n_samples) // self.n_shards * self.n_shards


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """What one step saw, before its update."""

    step: int
    """Number of the step, from 0."""
    epoch: int
    """Number of the pass over the data, from 0."""
    loss: float
    """Cross-entropy of the batch, nats per image."""
    accuracy: float
    """Share of the batch classified correctly, in training mode."""
    learning_rate: float
    """Rate that the update used."""


def recommended_epochs(n_samples: int) -> int:
    """Choose the number of passes over the data: fewer, the more data there is.

    About 120,000 image visits, but between 2 and 40 passes: 40 for 1,347 digits, 2 for the 60,000
    images of Fashion-MNIST, where the default network then gets 89 to 90 %.

    Raises
    ------
    ValueError
        If ``n_samples`` is not positive.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples: expected 1 or more, got {n_samples}")
    return min(40, max(2, round(120_000 / n_samples)))


class Trainer:
    r"""Trains a network step by step; every worker holds one and all stay equal.

    Step k of epoch e takes ``batch_size`` consecutive entries of
    ``permutation(seed, n_samples, epoch=e)``; shard s of it is the s-th of ``n_shards`` equal runs.
    The incomplete batch at the end of an epoch is left out (other images in every epoch); a data
    set smaller than a batch is one batch, cut to a multiple of ``n_shards``. The loss is
    cross-entropy, the optimizer Adam [1]_ without weight decay; latent weights are clipped to
    [-1, 1] after the step. Running statistics move, once per step, towards the mean over shards.

    For equal (network, configuration, data, torch build, instruction set, threads per worker) the
    parameters have the same bytes after the same steps, whatever ``n_workers`` is and wherever
    the run was interrupted and continued by :meth:`load_state`.

    Parameters
    ----------
    net
        Trained in place, on the device where its parameters are.
    config
        How.
    n_samples
        Size of the training data.
    rank, n_workers
        This worker computes the shards s with ``s % n_workers == rank``.
    gather
        Gets this worker's rows, shape (n_local, P), its shards in ascending order, and returns the
        rows of all shards, shape (n_shards, P), in shard order. May be None for a single worker.

    Raises
    ------
    ValueError
        If there are fewer than two samples per shard, a rank or a number of workers is impossible,
        or ``gather`` is missing.

    References
    ----------
    .. [1] Kingma, Ba (2015), Adam, arXiv:1412.6980.
    """

    def __init__(
        self,
        net: BinaryConvNet,
        config: TrainConfig,
        n_samples: int,
        *,
        rank: int = 0,
        n_workers: int = 1,
        gather: Gather | None = None,
    ) -> None:
        _check_workers(config, n_samples, rank, n_workers, gather)
        self.net = net
        self.config = config
        self.n_samples = n_samples
        self.step = 0
        """Steps taken so far."""
        self.batch_size = config.images_per_step(n_samples)
        """Images per step."""
        self.steps_per_epoch = n_samples // self.batch_size
        self.n_epochs = config.n_epochs(n_samples)
        """Passes over the data."""
        self.n_steps = self.n_epochs * self.steps_per_epoch
        """Steps of the whole training."""
        self._shards = range(rank, config.n_shards, n_workers)
        self._gather = gather
        self._parameters = list(net.parameters())
        self._norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
        self._device = self._parameters[0].device
        n_parameters = sum(parameter.numel() for parameter in self._parameters)
        self._adam = Adam(n_parameters, device=self._device)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def learning_rate(self, step: int) -> float:
        """Rate of step ``step``: linear warm-up to the peak, then half a cosine towards 0."""
        n_warmup = round(self.config.warmup_fraction * self.n_steps)
        if step < n_warmup:
            return self.config.learning_rate * (step + 1) / n_warmup
        progress = (step - n_warmup) / (self.n_steps - n_warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def train_step(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> StepInfo:
        """Take the next step.

        Parameters
        ----------
        images
            The whole training data, shape (n_samples, H, W, C), uint8. Only the rows of this
            worker's shards are read, so a read-only or memory-mapped array will do.
        labels
            Shape (n_samples,), integers in 0 ... n_classes - 1.

        Returns
        -------
        StepInfo
            Loss and accuracy of the whole batch, the same on every worker.

        Raises
        ------
        ValueError
            If the data are not those of ``n_samples``, or ``gather`` returned another shape.
        RuntimeError
            If the training is complete, or the loss is no longer finite.
        """
        if self.step >= self.n_steps:
            raise RuntimeError(f"step: all {self.n_steps} steps are done; raise epochs for more")
        self._check_data(images, labels)
        step, epoch = self.step, self.step // self.steps_per_epoch
        rate = self.learning_rate(step)
        self.net.train()
        rows = [self._shard_row(images[i], labels[i]) for i in map(self._indices, self._shards)]
        total = self._sum_in_order(torch.stack(rows))
        loss, n_correct = float(total[-2]) / self.config.n_shards, float(total[-1])
        if not math.isfinite(loss):
            raise RuntimeError(f"loss: not finite at step {step}; lower learning_rate ({rate:.3g})")
        self._update(total, rate)
        self.step += 1
        accuracy = n_correct / self.batch_size
        return StepInfo(step=step, epoch=epoch, loss=loss, accuracy=accuracy, learning_rate=rate)

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything that the next step depends on, as copies on the CPU, by name; and counters."""
        own = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        own["adam.first_moment"] = self._adam.first_moment
        own["adam.second_moment"] = self._adam.second_moment
        tensors = {name: value.to("cpu", copy=True) for name, value in own.items()}
        return tensors, {"step": self.step, **self._identity()}

    def load_state(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Continue from what :meth:`state` of an equal trainer returned.

        Raises
        ------
        ValueError
            If a name, a shape or a counter is not what this network, configuration and data have;
            nothing is changed then.
        """
        expected, own_counters = self.state()
        _check_counters(counters, {**own_counters, "step": self.n_steps})
        _check_tensors(tensors, expected)
        self.net.load_state_dict({name: tensors[f"net.{name}"] for name in self.net.state_dict()})
        self._adam.first_moment.copy_(tensors["adam.first_moment"])
        self._adam.second_moment.copy_(tensors["adam.second_moment"])
        self.step = counters["step"]

    def _identity(self) -> dict[str, int]:
        return {
            "epochs": self.n_epochs,
            "n_shards": self.config.n_shards,
            "seed": self.config.seed,
            "n_samples": self.n_samples,
            "batch_size": self.batch_size,
        }

    def _indices(self, shard: int) -> NDArray[np.int64]:
        """Global indices of the images of one shard of the current step."""
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(self.config.seed, self.n_samples, epoch=epoch))
        n_rows = self.batch_size // self.config.n_shards
        start = batch * self.batch_size + shard * n_rows
        return self._order[1][start : start + n_rows]

    def _shard_row(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Tensor:
        """``[gradients | batch means and variances | loss | number correct]`` of one shard."""
        targets = torch.from_numpy(labels.astype(np.int64)).to(self._device)
        logits = self.net(torch.from_numpy(images).to(self._device))
        loss = F.cross_entropy(logits, targets)
        gradients = torch.autograd.grad(loss, self._parameters)
        n_correct = (logits.detach().argmax(1) == targets).sum()
        parts = [gradient.reshape(-1) for gradient in gradients]
        for norm in self._norms:
            parts += [norm.batch_mean, norm.batch_var]
        return torch.cat([*parts, loss.detach().reshape(1), n_correct.reshape(1).float()])

    def _sum_in_order(self, local: Tensor) -> Tensor:
        """Sum over all shards, strictly in shard order: float addition is not associative."""
        rows = local if self._gather is None else self._gather(local)
        expected = (self.config.n_shards, local.shape[1])
        if tuple(rows.shape) != expected:
            raise ValueError(f"gather: expected rows of shape {expected}, got {tuple(rows.shape)}")
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        return total

    @torch.no_grad()
    def _update(self, total: Tensor, rate: float) -> None:
        """Adam on the mean gradient, latent clip, running statistics."""
        n_parameters = len(self._adam.first_moment)
        gradient, statistics = (total / self.config.n_shards).tensor_split([n_parameters])
        change = self._adam.change(gradient, self.step, rate)
        for parameter in self._parameters:
            part, change = change.tensor_split([parameter.numel()])
            parameter.add_(part.reshape(parameter.shape))
        for module in self.net.modules():
            if isinstance(module, BinaryConv2d):
                module.clip_latent()
        for norm in self._norms:
            mean, var, statistics = statistics.tensor_split([norm.n_channels, 2 * norm.n_channels])
            norm.update_running(mean, var)

    def _check_data(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        check_images(images, self.net.input_shape)
        if len(images) != self.n_samples or labels.shape != (self.n_samples,):
            raise ValueError(
                f"images, labels: expected the whole training data, {self.n_samples} of each, "
                f"got {len(images)} and {labels.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels: expected an integer dtype, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= self.net.n_classes:
            raise ValueError(
                f"labels: expected 0 ... {self.net.n_classes - 1}, "
                f"got {labels.min()} ... {labels.max()}"
            )


def fit(
    net: BinaryConvNet,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    config: TrainConfig | None = None,
) -> list[StepInfo]:
    """Train ``net`` in place from its first step to its last, on this thread.

    Parameters
    ----------
    net
        As built or as trained before; the optimizer starts afresh.
    images
        Shape (n_samples, H, W, C), uint8.
    labels
        Shape (n_samples,), integers in 0 ... n_classes - 1.
    config
        None for the defaults, which suit any amount of data.

    Returns
    -------
    list
        One record per step.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :class:`Trainer` and :meth:`Trainer.train_step`.
    """
    trainer = Trainer(net, config or TrainConfig(), len(images))
    return [trainer.train_step(images, labels) for _ in range(trainer.n_steps)]


def _check_workers(
    config: TrainConfig, n_samples: int, rank: int, n_workers: int, gather: Gather | None
) -> None:
    if n_samples < 2 * config.n_shards:
        raise ValueError(
            f"n_samples: expected {2 * config.n_shards} or more (two per shard), got {n_samples}"
        )
    if not 1 <= n_workers <= config.n_shards:
        raise ValueError(
            f"n_workers: expected 1 ... n_shards = {config.n_shards}, got {n_workers}; "
            "more workers would be idle"
        )
    if not 0 <= rank < n_workers:
        raise ValueError(f"rank: expected 0 ... {n_workers - 1}, got {rank}")
    if gather is None and n_workers > 1:
        raise ValueError(f"gather: expected a function for {n_workers} workers, got None")


def _check_counters(counters: dict[str, int], expected: dict[str, int]) -> None:
    """Compare with ``expected``, whose "step" is the last possible one."""
    if counters.keys() != expected.keys():
        raise ValueError(f"counters: expected {sorted(expected)}, got {sorted(counters)}")
    if not 0 <= counters["step"] <= expected["step"]:
        raise ValueError(f"step: expected 0 ... {expected['step']}, got {counters['step']}")
    for name, value in expected.items():
        if name != "step" and counters[name] != value:
            raise ValueError(
                f"{name}: expected {value}, got {counters[name]}; "
                "the state belongs to another configuration or to other data"
            )


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if tensors.keys() != expected.keys():
        different = sorted(tensors.keys() ^ expected.keys())
        raise ValueError(f"tensors: expected the names of this network, differing in {different}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ValueError(
                f"{name}: expected {wanted.dtype} {tuple(wanted.shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
