"""Logical shards: how a batch is split, what a shard's row holds, how rows become one.

A row is ``[gradients | batch means and variances | loss | number correct]``, one flat float32
vector. It depends on its shard alone; workers only decide who computes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnn.layers import BatchNorm
from bnn.training.config import TrainConfig
from kernels import permutation

Gather = Callable[[Tensor], Tensor]
"""From this worker's rows (n_local, P) to all rows (n_shards, P), in shard order, float32."""


class BatchOrder:
    """Which images are in which shard of which step.

    Step k of epoch e takes ``batch_size`` consecutive entries of
    ``permutation(seed, n_samples, epoch=e)``; shard s of it is the s-th of ``n_shards`` equal runs.
    The incomplete batch at the end of an epoch is left out (other images in every epoch).

    Parameters
    ----------
    config
        Gives the batch size, the number of shards and the seed.
    n_samples
        Size of the training data.
    """

    def __init__(self, config: TrainConfig, n_samples: int) -> None:
        self.batch_size = config.images_per_step(n_samples)
        self.rows_per_shard = self.batch_size // config.n_shards
        self.steps_per_epoch = n_samples // self.batch_size
        self._seed = config.seed
        self._n_samples = n_samples
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, step: int, shard: int) -> NDArray[np.int64]:
        """Numbers of the images of one shard of one step, shape (rows_per_shard,)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(self._seed, self._n_samples, epoch=epoch))
        start = batch * self.batch_size + shard * self.rows_per_shard
        return self._order[1][start : start + self.rows_per_shard]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTotals:
    """Sums over the rows of all shards, taken apart."""

    gradients: Tensor
    """Shape (P,)."""
    statistics: Tensor
    """Mean and variance of every batch normalisation in turn, shape (S,)."""
    loss: float
    """Of the shards' means."""
    n_correct: float
    """Images."""


def shard_row(
    gradients: Sequence[Tensor], norms: Sequence[BatchNorm], loss: Tensor, n_correct: Tensor
) -> Tensor:
    """Put what a shard has found into one row."""
    parts = [gradient.reshape(-1) for gradient in gradients]
    for norm in norms:
        parts += [norm.batch_mean, norm.batch_var]
    return torch.cat([*parts, loss.detach().reshape(1), n_correct.reshape(1).float()])


def sum_in_order(local: Tensor, n_shards: int, gather: Gather | None) -> Tensor:
    """Sum over all shards, strictly in shard order: float addition is not associative.

    Raises
    ------
    ValueError
        If ``gather`` returned another shape than (n_shards, P).
    """
    rows = local if gather is None else gather(local)
    expected = (n_shards, local.shape[1])
    if tuple(rows.shape) != expected:
        raise ValueError(f"gather: expected rows of shape {expected}, got {tuple(rows.shape)}")
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def take_apart(total: Tensor, n_parameters: int) -> BatchTotals:
    """Split the sum of the rows."""
    gradients, statistics, rest = total.tensor_split([n_parameters, len(total) - 2])
    loss, n_correct = (float(value) for value in rest)
    return BatchTotals(gradients=gradients, statistics=statistics, loss=loss, n_correct=n_correct)
