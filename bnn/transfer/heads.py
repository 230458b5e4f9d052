"""Heads: small real-valued classifiers trained on the features of a frozen network."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.quantizers import int8_scale, int8_weights
from bnn.transfer.codes import PackedCodes
from kernels import Purpose, permutation, uniform

Precision = Literal["fp32", "int8"]
"""Of the weights of a head as it ships; biases and scales are float32."""

Features = NDArray[np.float32] | PackedCodes
"""Shape (N, n_features), or codes that are unpacked batch by batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """How a head is built and trained."""

    n_hidden: int = 0
    """Units of one hidden layer with ReLU; 0 is a linear head, multinomial logistic regression."""
    epochs: int = 40
    """Passes over the features."""
    batch_size: int = 64
    """Samples per step; fewer samples are one batch."""
    learning_rate: float = 0.01
    """Of Adam at the start, from where it falls to 0 along a cosine."""
    weight_decay: float = 1e-3
    """Decoupled (AdamW), of standardised features' weights."""
    seed: int = 0
    """Of the order of samples and of hidden weights."""

    def __post_init__(self) -> None:
        for name, least in (("n_hidden", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                "learning_rate, weight_decay: expected a positive number and one not negative, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )


class Head(nn.Module):
    """Linear, or with one hidden layer of ReLU, from features to logits.

    Parameters
    ----------
    n_features, n_classes
        D and C.
    n_hidden
        0 for none.
    """

    def __init__(self, n_features: int, n_classes: int, n_hidden: int = 0) -> None:
        super().__init__()
        sizes = [n_features, *([n_hidden] if n_hidden else []), n_classes]
        # Zeros do not draw from torch's global generator, as nn.Linear would.
        self.weights = nn.ParameterList(torch.zeros(n_out, n_in) for n_in, n_out in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(n_out) for n_out in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, C), of ``x``, shape (N, D)."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(F.relu(x) if number else x, weight, bias)
        return x

    def n_bytes(self, precision: Precision = "fp32") -> int:
        """Bytes as it ships: weights in ``precision`` with a scale per output, biases float32."""
        n_weights = sum(int(weight.numel()) for weight in self.weights)
        n_biases = sum(int(bias.numel()) for bias in self.biases)
        return 4 * (n_weights + n_biases) if precision == "fp32" else n_weights + 8 * n_biases

    @torch.no_grad()
    def predict(self, features: Features, *, batch_size: int = 1024) -> NDArray[np.int64]:
        """Most probable class of each sample, shape (N,); ties go to the lowest index."""
        parts = [
            self(_rows(features, np.arange(begin, min(begin + batch_size, len(features)))))
            .numpy()
            .argmax(axis=1)
            for begin in range(0, len(features), batch_size)
        ]
        return np.concatenate(parts)


def train_head(
    features: Features,
    labels: NDArray[np.int64],
    n_classes: int,
    config: HeadConfig | None = None,
) -> Head:
    """Train a head on features, by cross-entropy; nothing else is touched.

    Features are standardised by their mean and deviation over the samples, and that is folded into
    the first weights at the end: so the same head serves pixels, real features and ±1.

    Parameters
    ----------
    features
        Shape (N, D), or packed codes, of which one batch at a time is unpacked.
    labels
        Shape (N,), integers in 0 ... n_classes - 1.
    n_classes
        2 or more.
    config
        How; the defaults are a logistic regression.

    Returns
    -------
    Head
        Equal arguments give equal bytes.

    Raises
    ------
    ValueError
        If there are no samples, not as many labels, or labels out of range.
    """
    config = config or HeadConfig()
    _check_labels(features, labels, n_classes)
    mean, scale = _standardisation(features)
    head = Head(len(mean), n_classes, config.n_hidden)
    _initialise(head, config)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    n, targets = len(labels), torch.from_numpy(labels.astype(np.int64))
    n_batches = -(-n // config.batch_size)
    for epoch in range(config.epochs):
        order = permutation(config.seed, n, epoch=epoch)
        for batch in range(n_batches):
            progress = (epoch * n_batches + batch) / (config.epochs * n_batches)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            rows = order[batch * config.batch_size : (batch + 1) * config.batch_size]
            logits = head((_rows(features, rows) - mean) / scale)
            loss = F.cross_entropy(logits, targets[torch.from_numpy(rows)])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        head.weights[0].div_(scale)
        head.biases[0].sub_(head.weights[0] @ mean)
    return head.requires_grad_(False)


@torch.no_grad()
def quantised(head: Head) -> Head:
    """Head with weights rounded to int8 at one scale per output, held as floats."""
    made = Head(head.weights[0].shape[1], len(head.biases[-1]), _n_hidden(head))
    made.load_state_dict(head.state_dict())
    for weight in made.weights:
        scale = int8_scale(weight, per_channel=True)
        weight.copy_(int8_weights(weight, scale) * scale)
    return made.requires_grad_(False)


def _n_hidden(head: Head) -> int:
    return head.weights[0].shape[0] if len(head.weights) > 1 else 0


def _rows(features: Features, rows: NDArray[np.int64]) -> Tensor:
    part = features.signs(rows) if isinstance(features, PackedCodes) else features[rows]
    return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))


def _standardisation(features: Features) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per feature; 1 for a feature that is constant."""
    total = square = np.float64(0)
    for begin in range(0, len(features), 1024):
        rows = np.arange(begin, min(begin + 1024, len(features)))
        part = _rows(features, rows).numpy().astype(np.float64)
        total = total + part.sum(axis=0)
        square = square + (part * part).sum(axis=0)
    mean = np.asarray(total / len(features))
    variance = np.maximum(np.asarray(square / len(features)) - mean * mean, 0.0)
    # Below the rounding of float32 features, a variance is none.
    scale = np.sqrt(np.where(variance > 1e-6 * (mean * mean + 1e-12), variance, 1.0))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


@torch.no_grad()
def _initialise(head: Head, config: HeadConfig) -> None:
    """A linear head starts at 0, its problem is convex; hidden weights break their symmetry."""
    if config.n_hidden:
        for number, weight in enumerate(head.weights):
            draws = uniform(config.seed, Purpose.INITIAL_WEIGHTS, weight.numel(), index=number)[0]
            limit = (6.0 / weight.shape[1]) ** 0.5
            weight.copy_((2 * torch.from_numpy(draws).reshape(weight.shape) - 1) * limit)


def _check_labels(features: Features, labels: NDArray[np.int64], n_classes: int) -> None:
    if not len(features) or labels.shape != (len(features),):
        raise ValueError(
            f"features, labels: expected one label per sample, got {len(features)} and "
            f"{labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"labels: expected 0 ... {n_classes - 1}, got {labels.min()} ... {labels.max()}; "
            "number the target classes from 0"
        )
