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
from kernels.philox import permutation

Gather = Callable[[Tensor], Tensor]
"""From this worker's rows (n_local, P) to all rows (n_shards, P), in shard order, float32."""

_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a network is trained; everything that its final bytes depend on but data and network."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    epochs: int = 4
    """Passes over the training data."""
    batch_size: int = 128
    """Images per step; smaller data sets are one batch. A multiple of n_shards."""
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
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.batch_size % self.n_shards or self.batch_size < 2 * self.n_shards:
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
