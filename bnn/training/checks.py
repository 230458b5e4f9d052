"""What a trainer refuses: workers, data and saved states that do not belong to it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bnn.models import Classifier, check_images
from bnn.training.config import TrainConfig
from bnn.training.shards import Gather


def check_workers(
    config: TrainConfig, n_samples: int, rank: int, n_workers: int, gather: Gather | None
) -> None:
    """Refuse too few samples, impossible workers, or several of them without ``gather``.

    Raises
    ------
    ValueError
        If so.
    """
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


def check_data(
    images: NDArray[np.uint8], labels: NDArray[np.int64], net: Classifier, n_samples: int
) -> None:
    """Refuse data that are not all ``n_samples`` images and class numbers of ``net``.

    Raises
    ------
    TypeError, ValueError
        If a dtype, or a shape or range, is another.
    """
    check_images(images, net.input_shape)
    if len(images) != n_samples or labels.shape != (n_samples,):
        raise ValueError(
            f"images, labels: expected the whole training data, {n_samples} of each, "
            f"got {len(images)} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels: expected an integer dtype, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= net.n_classes:
        raise ValueError(
            f"labels: expected 0 ... {net.n_classes - 1}, got {labels.min()} ... {labels.max()}"
        )


def check_counters(counters: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Compare with ``expected``, whose "step" is the last possible one.

    Raises
    ------
    ValueError
        Naming the counter that differs.
    """
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


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and dtypes.

    Raises
    ------
    ValueError
        Naming the tensors that differ.
    """
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
