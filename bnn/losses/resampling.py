"""Which samples an epoch visits when classes are unequal, and the logits this biases.

Indices are drawn by Philox from (seed, epoch), stream "data order": over-, under- and
weighted sampling of one epoch are the same list on any number of ranks, of which a rank takes every
``n_ranks``-th. Resample the training set only, after the split.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bnn.losses.cross_entropy import effective_numbers
from kernels import Purpose, permutation, random_words

_WEIGHTED, _UNDER, _OVER = 1, 2, 3
"""Index of the stream per method; 0 is the plain order of the data."""


def inverse_probabilities(labels: ArrayLike, *, power: float = 1.0) -> NDArray[np.float64]:
    r"""Probability of each sample, :math:`\propto n_y^{-p}`.

    Parameters
    ----------
    labels
        Class numbers, shape (N,).
    power
        1 balances the classes, 0.5 does so by half in the logarithm, 0 leaves them.

    Returns
    -------
    NDArray
        Shape (N,), sums to 1.
    """
    inverse, counts = _classes(labels)
    weights = counts.astype(np.float64)[inverse] ** -power
    return np.asarray(weights / weights.sum())


def progressive_probabilities(
    labels: ArrayLike, *, epoch: int, n_epochs: int
) -> NDArray[np.float64]:
    r"""From instance-balanced to class-balanced: :math:`(1 - e/E)\,p^{inst} + (e/E)\,p^{class}`.

    Parameters
    ----------
    labels
        Class numbers, shape (N,).
    epoch, n_epochs
        e and E, 0 <= e <= E.
    """
    if not 0 <= epoch <= n_epochs or n_epochs < 1:
        raise ValueError(f"epoch: expected 0 <= epoch <= n_epochs = {n_epochs}, got {epoch}")
    balanced = inverse_probabilities(labels)
    share = epoch / n_epochs
    return (1 - share) / balanced.size + share * balanced


def effective_probabilities(labels: ArrayLike, *, beta: float = 0.999) -> NDArray[np.float64]:
    r"""Probability of each sample :math:`\propto 1 / E_{n_y}`; see ``effective_numbers``."""
    inverse, counts = _classes(labels)
    numbers = effective_numbers(torch.from_numpy(counts), beta).numpy()
    weights = 1 / numbers[inverse]
    return np.asarray(weights / weights.sum())


def multilabel_probabilities(targets: ArrayLike) -> NDArray[np.float64]:
    r"""Probability of each sample :math:`\propto \max_{c: y_c = 1} 1 / n_c`.

    Samples without a positive label count as one more class. Look at the :func:`marginals` of what
    is drawn: labels that occur together cannot all be balanced.

    Parameters
    ----------
    targets
        Shape (N, C), in {0, 1}.
    """
    on = _multilabel(targets)
    with_none = np.concatenate([on, ~on.any(1, keepdims=True)], axis=1)
    weights = (with_none / np.maximum(with_none.sum(0), 1)).max(1)
    return np.asarray(weights / weights.sum())


def label_sets(targets: ArrayLike) -> NDArray[np.int64]:
    """Number of each sample's label set, shape (N,): multi-label data as classes (powerset)."""
    _, inverse = np.unique(_multilabel(targets), axis=0, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64)


def marginals(targets: ArrayLike, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of positives per label among the samples drawn, shape (C,)."""
    return np.asarray(_multilabel(targets)[indices].mean(0))


def draw(
    probabilities: NDArray[np.float64],
    n_draws: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    n_ranks: int = 1,
) -> NDArray[np.int64]:
    """Draw samples with replacement.

    Parameters
    ----------
    probabilities
        Shape (N,), finite, not negative, with a positive sum.
    n_draws
        Draws of all ranks together.
    seed, epoch
        Name the draw.
    rank, n_ranks
        The part of the list that is returned: positions rank, rank + n_ranks, ...

    Returns
    -------
    NDArray
        Indices in [0, N), int64, in the order of drawing.

    Notes
    -----
    By inversion, with 53 bits per draw (words 2k and 2k + 1): 24 would favour some of many samples.
    """
    valid = probabilities.ndim == 1 and np.isfinite(probabilities).all()
    if not valid or probabilities.sum() <= 0 or probabilities.min() < 0:
        raise ValueError(
            f"probabilities: expected shape (N,), finite values >= 0 with a positive sum, got "
            f"shape {probabilities.shape} and sum {probabilities.sum():g}"
        )
    words = random_words(seed, Purpose.DATA_ORDER, 2 * n_draws, step=epoch, index=_WEIGHTED)[0]
    high, low = (words[i::2].astype(np.float64) for i in range(2))
    uniforms = (np.floor(high / 32) * 2.0**26 + np.floor(low / 64)) * 2.0**-53
    cumulative = np.cumsum(probabilities)
    indices = np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")
    # A product may round up to the sum itself; the last sample with a probability takes it.
    last = int(np.flatnonzero(probabilities)[-1])
    return _part(np.minimum(indices, last), rank, n_ranks)


def undersample(
    labels: ArrayLike, *, seed: int, epoch: int, rank: int = 0, n_ranks: int = 1
) -> NDArray[np.int64]:
    """As many samples of each class as the rarest has, none twice, others in the next epoch.

    A class is walked through in a random order, a new one each time round: after
    ceil(n_c / n_min) epochs every sample of it was used.

    Parameters
    ----------
    labels
        Class numbers, shape (N,).
    seed, epoch, rank, n_ranks
        As in :func:`draw`.

    Returns
    -------
    NDArray
        Indices of C * n_min samples in random order, of which a rank gets its part.
    """
    inverse, counts = _classes(labels)
    smallest = int(counts.min())
    chosen = []
    for number, count in enumerate(counts.tolist()):
        lap, block = divmod(epoch, -(-count // smallest))
        order = _shuffled(np.flatnonzero(inverse == number), seed, lap, number, _UNDER)
        start = min(block * smallest, count - smallest)
        chosen.append(order[start : start + smallest])
    return _mixed(chosen, seed, epoch, rank, n_ranks)


def oversample(
    labels: ArrayLike, *, seed: int, epoch: int, rank: int = 0, n_ranks: int = 1
) -> NDArray[np.int64]:
    """As many samples of each class as the commonest has: whole repeats and a random remainder.

    Parameters and result are those of :func:`undersample`, with C * n_max indices.
    """
    inverse, counts = _classes(labels)
    largest = int(counts.max())
    chosen = []
    for number, count in enumerate(counts.tolist()):
        members = np.flatnonzero(inverse == number)
        repeats, n_more = divmod(largest, count)
        more = _shuffled(members, seed, epoch, number, _OVER)[:n_more]
        chosen.extend([np.tile(members, repeats), more])
    return _mixed(chosen, seed, epoch, rank, n_ranks)


def corrected_logits(logits: Tensor, *, sampled_prior: float, true_prior: float) -> Tensor:
    r"""Logits for the true prior from those of a model trained on resampled data.

    .. math:: z - \ln \frac{\pi' / (1 - \pi')}{\pi / (1 - \pi)}

    Parameters
    ----------
    logits
        Any shape.
    sampled_prior, true_prior
        Share of positives in what was trained on, and in the world; inside (0, 1).
    """
    for name, prior in (("sampled_prior", sampled_prior), ("true_prior", true_prior)):
        if not 0 < prior < 1:
            raise ValueError(f"{name}: expected 0 < {name} < 1, got {prior}")
    odds = [math.log(p) - math.log1p(-p) for p in (sampled_prior, true_prior)]
    return logits - (odds[0] - odds[1])


def _classes(labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iub":
        raise ValueError(
            f"labels: expected class numbers, shape (N,), N > 0, got {array.dtype} of shape "
            f"{array.shape}; label_sets turns (N, C) into class numbers"
        )
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    return inverse.astype(np.int64), counts.astype(np.int64)


def _multilabel(targets: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(targets)
    if array.ndim != 2 or array.size == 0 or not np.isin(array, (0, 1)).all():
        raise ValueError(f"targets: expected shape (N, C), values in {{0, 1}}, got {array.shape}")
    return array.astype(bool)


def _shuffled(
    members: NDArray[np.int64], seed: int, step: int, number: int, index: int
) -> NDArray[np.int64]:
    stream = random_words(
        seed, Purpose.DATA_ORDER, members.size, rows=number, step=step, index=index
    )
    return members[np.argsort(stream[0], kind="stable")]


def _mixed(
    chosen: list[NDArray[np.int64]], seed: int, epoch: int, rank: int, n_ranks: int
) -> NDArray[np.int64]:
    indices = np.concatenate(chosen)
    return _part(indices[permutation(seed, indices.size, epoch=epoch)], rank, n_ranks)


def _part(indices: NDArray[np.int64], rank: int, n_ranks: int) -> NDArray[np.int64]:
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank: expected 0 <= rank < n_ranks = {n_ranks}, got {rank}")
    return indices[rank::n_ranks].astype(np.int64)
