"""One training step after the other, the same bytes on any number of workers.

A batch is always split into the same number of logical shards. Each shard's forward and backward
pass is computed alone, with its own batch-normalisation statistics, into one row; the rows are
summed in shard order and every worker takes the same step. Nothing here knows files or a cluster:
who has more than one worker supplies ``gather``.
"""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnn.models import Classifier
from bnn.training.augmentation import augment
from bnn.training.averaging import WeightAverage
from bnn.training.budget import seconds_per_step, stand_in_images, steps_within
from bnn.training.checks import check_counters, check_data, check_tensors, check_workers
from bnn.training.config import TrainConfig
from bnn.training.diagnosis import (
    NotFiniteError,
    first_bad_output,
    first_bad_sum,
    is_finite,
)
from bnn.training.distillation import check_teacher, distillation_loss
from bnn.training.inventory import Inventory
from bnn.training.objectives import class_weights, objective
from bnn.training.parameter_update import ParameterUpdate
from bnn.training.schedules import scheduled_rate
from bnn.training.shards import (
    BatchOrder,
    BatchTotals,
    Gather,
    shard_row,
    sum_in_order,
    take_apart,
)
from bnn.training.step_info import StepInfo
from bnn.training.two_step import check_layers, real_weights, steps_with_real_weights


class Trainer:
    r"""Trains a network step by step; every worker holds one and all stay equal.

    Which images a step takes is said in :class:`~bnn.training.shards.BatchOrder`; a data set
    smaller than a batch is one batch, cut to a multiple of ``n_shards``. By default the loss is
    cross-entropy and the optimizer Adam [1]_ without weight decay; latent weights are clipped after
    the step. Running statistics move, once per step, towards the mean over shards. With
    ``real_weights_fraction`` each of the two parts has a schedule, moments and an average of its
    own [2]_; a network without binary weights is trained in one part.

    For equal (network, configuration, data, teacher, torch build, instruction set, threads per
    worker) the parameters have the same bytes after the same steps, whatever ``n_workers`` is and
    wherever the run was interrupted and continued by :meth:`load_state`. With ``minutes`` that
    holds for the number of steps that was found at the start: see :mod:`bnn.training.budget`.

    Parameters
    ----------
    net
        Trained in place, on the device where its parameters are; those without ``requires_grad``
        stay as they are.
    config
        How.
    n_samples
        Size of the training data.
    rank, n_workers
        This worker computes the shards s with ``s % n_workers == rank``.
    gather
        Gets this worker's rows, shape (n_local, P), its shards in ascending order, and returns the
        rows of all shards, shape (n_shards, P), in shard order. May be None for a single worker.
    teacher
        Trained network for the same images and classes, on the device of ``net``; needed if
        ``distillation_weight`` is positive. Put into evaluation mode, otherwise left as it is.

    Raises
    ------
    ValueError
        If there are fewer than two samples per shard, a rank or a number of workers is impossible,
        ``gather`` or ``teacher`` is missing, or a layer cannot have real weights but should.

    References
    ----------
    .. [1] Kingma, Ba (2015), Adam, arXiv:1412.6980.
    .. [2] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    """

    def __init__(
        self,
        net: Classifier,
        config: TrainConfig,
        n_samples: int,
        *,
        rank: int = 0,
        n_workers: int = 1,
        gather: Gather | None = None,
        teacher: Classifier | None = None,
    ) -> None:
        check_workers(config, n_samples, rank, n_workers, gather)
        check_teacher(teacher, config, net.input_shape, net.n_classes)
        self.net = net
        self.teacher = None if teacher is None else teacher.eval()
        self.config = config
        self.n_samples = n_samples
        self.step = 0
        """Steps taken so far."""
        self._batches = BatchOrder(config, n_samples)
        self.batch_size = self._batches.batch_size
        """Images per step."""
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._n_steps = self._planned_steps()
        self._rank, self._n_workers, self._gather = rank, n_workers, gather
        self._shards = range(rank, config.n_shards, n_workers)
        self._inventory = Inventory(net)
        if config.real_weights_fraction:
            check_layers(self._inventory.binary_layers)
        self._device = next(iter(self._inventory.parameters.values())).device
        self._update = ParameterUpdate(self._inventory.parameters, config)
        decay = config.averaging_decay
        self._average = WeightAverage(net, decay) if decay else None

    @property
    def n_steps(self) -> int:
        """Steps of the whole training.

        With ``minutes``, on the first access in a fresh trainer, all workers time a few steps
        together; who restores a state does so before.
        """
        if self._n_steps is None:
            self._n_steps = self._steps_in_budget()
        return self._n_steps

    @property
    def n_epochs(self) -> int:
        """Passes over the data, the last one perhaps a part."""
        return -(-self.n_steps // self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """Rate of step ``step``: linear warm-up to the peak, then the schedule."""
        begin, end = self._part(step)
        return scheduled_rate(self.config, self.config.learning_rate, step - begin, end - begin)

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
        NotFiniteError
            If a weight, the loss, a gradient or a statistic is not finite; nothing was changed, and
            the message, the same on every worker, names the first parameter or module.
        RuntimeError
            If the training is complete.
        """
        if self.step >= self.n_steps:
            raise RuntimeError(f"step: all {self.n_steps} steps are done; raise epochs for more")
        check_data(images, labels, self.net, self.n_samples)
        step, epoch = self.step, self.step // self.steps_per_epoch
        rate = self.learning_rate(step)
        total = self._total_row(images, labels)
        sums = take_apart(total, self._inventory.n_parameters)
        if not (is_finite(total) and self._weights_are_finite()):
            raise NotFiniteError(self._diagnosis(sums, images, rate))
        flips = self._move(sums, rate)
        self.step += 1
        latent = self._inventory.latent
        return StepInfo(
            step=step,
            epoch=epoch,
            loss=sums.loss / self.config.n_shards,
            accuracy=sums.n_correct / self.batch_size,
            learning_rate=rate,
            flip_ratio=sum(flips.values()) / max(self._inventory.n_latent, 1),
            flip_ratios={name: n / latent[name].numel() for name, n in flips.items()},
        )

    def trained_state(self) -> dict[str, Tensor]:
        """State of the network that evaluation and export are to use, as copies, by name.

        That is the average if there is one, else the network as it is; its names are those of
        ``net.state_dict()``.
        """
        source = self.net.state_dict() if self._average is None else self._average.tensors
        return {name: value.clone() for name, value in source.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything that the next step depends on, as copies on the CPU, by name; and counters."""
        tensors = {name: value.to("cpu", copy=True) for name, value in self._tensors().items()}
        return tensors, {"step": self.step, **self._identity()}

    def load_state(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Continue from what :meth:`state` of an equal trainer returned.

        Raises
        ------
        ValueError
            If a name, a shape or a counter is not what this network, configuration and data have;
            nothing is changed then.
        """
        n_steps = self._n_steps
        if n_steps is None:  # a budget of minutes: the state says what it came to
            n_steps = max(counters.get("n_steps", 1), 1)
        expected = {"step": n_steps, **self._identity(n_steps)}
        check_counters(counters, expected)
        check_tensors(tensors, self._tensors())
        self.net.load_state_dict({name: tensors[f"net.{name}"] for name in self.net.state_dict()})
        self._update.load(tensors)
        if self._average is not None:
            for name, value in self._average.tensors.items():
                value.copy_(tensors[f"average.{name}"])
        self.step, self._n_steps = counters["step"], n_steps

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of :meth:`state`, not copied."""
        found = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        found.update(self._update.tensors())
        if self._average is not None:
            found.update({f"average.{name}": x for name, x in self._average.tensors.items()})
        return found

    def _identity(self, n_steps: int | None = None) -> dict[str, int]:
        by_steps = self.config.steps is not None or self.config.minutes is not None
        n_steps = n_steps or self.n_steps
        length = {"n_steps": n_steps} if by_steps else {"epochs": n_steps // self.steps_per_epoch}
        return {
            **length,
            "n_shards": self.config.n_shards,
            "seed": self.config.seed,
            "n_samples": self.n_samples,
            "batch_size": self.batch_size,
        }

    def _planned_steps(self) -> int | None:
        if self.config.minutes is not None:
            return None
        epochs = self.config.n_epochs(self.n_samples)
        return self.config.steps or epochs * self.steps_per_epoch

    def _steps_in_budget(self) -> int:
        """Time steps of copies on noise; every worker comes to the same number."""
        assert self.config.minutes is not None
        share = self.config.real_weights_fraction if self._inventory.binary_layers else 0.0
        seconds = (1 - share) * self._probe(real_weights_fraction=0.0)
        if share:  # real weights have other kernels than bits
            seconds += share * self._probe(real_weights_fraction=0.9)
        return steps_within(self.config.minutes, seconds)

    def _probe(self, *, real_weights_fraction: float) -> float:
        """Seconds of a step at the beginning of a very long training."""
        probe = Trainer(
            copy.deepcopy(self.net),
            replace(
                self.config,
                minutes=None,
                steps=1 << 30,
                real_weights_fraction=real_weights_fraction,
            ),
            self.n_samples,
            rank=self._rank,
            n_workers=self._n_workers,
            gather=self._gather,
            teacher=self.teacher,
        )
        images = stand_in_images(self.n_samples, self.net.input_shape)
        labels = np.arange(self.n_samples) % self.net.n_classes
        return seconds_per_step(
            lambda: probe.train_step(images, labels), len(self._shards), self._gather
        )

    def _part(self, step: int) -> tuple[int, int]:
        """First step of the part that ``step`` belongs to, and of what follows."""
        fraction = self.config.real_weights_fraction if self._inventory.binary_layers else 0.0
        n_first = steps_with_real_weights(fraction, self.n_steps)
        return (0, n_first) if step < n_first else (n_first, self.n_steps)

    def _indices(self, shard: int) -> NDArray[np.int64]:
        """Global indices of the images of one shard of the current step."""
        return self._batches.indices(self.step, shard)

    def _total_row(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Tensor:
        """Sum of the rows of all shards of the current step."""
        self.net.train()
        weights = None
        if self.config.class_weights != "equal":
            weights = class_weights(labels, self.net.n_classes, self.config).to(self._device)
        self._inventory.set_progress(self.step // self.steps_per_epoch / self.n_epochs)
        has_real_weights = self._part(self.step)[1] < self.n_steps
        with real_weights(self._inventory.binary_layers) if has_real_weights else nullcontext():
            rows = [self._shard_row(shard, images, labels, weights) for shard in self._shards]
        return sum_in_order(torch.stack(rows), self.config.n_shards, self._gather)

    def _shard_row(
        self,
        shard: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        weights: Tensor | None,
    ) -> Tensor:
        """What one shard contributes: see :func:`~bnn.training.shards.shard_row`."""
        self._inventory.set_step(self.step, row_begin=shard * self._batches.rows_per_shard)
        batch = self._batch(shard, images)
        targets = torch.from_numpy(labels[self._indices(shard)].astype(np.int64)).to(self._device)
        logits = self.net(batch)
        loss = self._loss(batch, logits, targets, weights)
        gradients = torch.autograd.grad(
            loss, list(self._inventory.parameters.values()), materialize_grads=True
        )
        n_correct = (logits.detach().argmax(1) == targets).sum()
        return shard_row(gradients, list(self._inventory.norms.values()), loss, n_correct)

    def _batch(self, shard: int, images: NDArray[np.uint8]) -> Tensor:
        """The images of one shard, augmented, on the device."""
        samples, epoch = self._indices(shard), self.step // self.steps_per_epoch
        batch = augment(images[samples], samples, epoch=epoch, config=self.config)
        return torch.from_numpy(batch).to(self._device)

    def _loss(
        self, batch: Tensor, logits: Tensor, targets: Tensor, weights: Tensor | None
    ) -> Tensor:
        share = self.config.distillation_weight
        if self.teacher is None:
            return objective(logits, targets, self.config, weights)
        with torch.no_grad():
            teacher_logits = self.teacher(batch)
        taught = distillation_loss(logits, teacher_logits, self.config.distillation_temperature)
        if share == 1:
            return taught
        return share * taught + (1 - share) * objective(logits, targets, self.config, weights)

    @torch.no_grad()
    def _move(self, sums: BatchTotals, rate: float) -> dict[str, int]:
        """Update parameters, clip, running statistics, average; number of flips by name."""
        begin, _ = self._part(self.step)
        if self.step == begin > 0:
            self._update.reset()
        was_positive = [weight >= 0 for weight in self._inventory.latent.values()]
        share = rate / self.config.learning_rate
        gradient = sums.gradients / self.config.n_shards
        self._update.apply(gradient, step=self.step - begin, rate=rate, share=share)
        self._inventory.clip_latent()
        statistics = sums.statistics / self.config.n_shards
        for norm in self._inventory.norms.values():
            mean, var, statistics = statistics.tensor_split([norm.n_channels, 2 * norm.n_channels])
            norm.update_running(mean, var)
        if self._average is not None:
            self._average.update(self.net, self.step - begin)
        return self._count_flips(was_positive)

    def _count_flips(self, was_positive: list[Tensor]) -> dict[str, int]:
        """Signs that changed, by name; one transfer from the device for all."""
        latent = self._inventory.latent
        if not latent:
            return {}
        pairs = zip(was_positive, latent.values(), strict=True)
        counts = torch.stack([torch.count_nonzero(old != (weight >= 0)) for old, weight in pairs])
        return {name: int(n) for name, n in zip(latent, counts, strict=True)}

    def _weights_are_finite(self) -> bool:
        return is_finite(torch.nn.utils.get_total_norm(self._inventory.parameters.values()))

    def _diagnosis(self, sums: BatchTotals, images: NDArray[np.uint8], rate: float) -> str:
        """Say what is not finite, and where first."""
        what, where = first_bad_sum(sums, self._inventory)
        if not math.isfinite(sums.loss):
            if what != "weights":  # a bad loss makes all gradients bad: look where it comes from
                shards = range(self.config.n_shards)  # of all workers, who say the same then
                found = (first_bad_output(self.net, self._batch(s, images)) for s in shards)
                where = next(filter(None, found), "none of the modules as they are evaluated")
            what = "loss"
        return (
            f"{what}: not finite at step {self.step}; lower learning_rate ({rate:.3g}); "
            f"first in {where}"
        )
