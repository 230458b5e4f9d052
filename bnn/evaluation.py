"""Logits, accuracy, and agreement with the integer network, in evaluation mode."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnn.integer import IntegerNet
from bnn.models import BinaryConvNet


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How well a network does on one data set."""

    n_samples: int
    """Images evaluated."""
    accuracy: float
    """Share classified correctly."""
    loss: float
    """Cross-entropy in nats per image."""
    predictions: NDArray[np.int64]
    """Most probable class of each image, shape (n_samples,); ties go to the lowest index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Comparison of a float network with its integer network on the same images."""

    n_images: int
    """Images compared."""
    class_agreement: float
    """Share of images with the same predicted class (the lowest index among equals)."""
    n_bits: int
    """Activation bits compared, over all stages and images."""
    n_bit_mismatches: int
    """Bits that differ. A float tie at a threshold flips one, and what follows from it."""
    integer_logits: NDArray[np.int32]
    """Outputs of the integer network, shape (n_images, n_classes), by-product of the comparison."""


def predict_logits(
    net: BinaryConvNet, images: NDArray[np.uint8], batch_size: int = 500
) -> NDArray[np.float32]:
    """Logits of a trained network.

    Parameters
    ----------
    net
        Used with its running statistics; its training mode is left as it was.
    images
        Shape (N, H, W, C), uint8.
    batch_size
        Images at a time; bounds memory and changes nothing else.

    Returns
    -------
    NDArray
        Shape (N, n_classes), float32.

    Raises
    ------
    ValueError, TypeError
        If the images are not what the network was built for, or ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            parts = [
                net(_on_device_of(net, images[start : start + batch_size])).cpu().numpy()
                for start in range(0, max(len(images), 1), batch_size)
            ]
    finally:
        net.train(was_training)
    return np.concatenate(parts)


def evaluate(
    net: BinaryConvNet,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int = 500,
) -> Evaluation:
    """Accuracy, loss and predictions of a trained network on labelled images.

    Parameters
    ----------
    net, images, batch_size
        As for :func:`predict_logits`.
    labels
        Shape (N,), integers in 0 ... n_classes - 1.

    Raises
    ------
    ValueError, TypeError
        As :func:`predict_logits`; if there are no images, or not as many labels.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"images, labels: expected equal numbers above 0, got {len(images)} and {len(labels)}"
        )
    logits = predict_logits(net, images, batch_size)
    predictions = logits.argmax(axis=1)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels.astype(np.int64)))
    return Evaluation(
        n_samples=len(images),
        accuracy=float(np.mean(predictions == labels)),
        loss=float(loss),
        predictions=predictions.astype(np.int64),
    )


def agreement(
    net: BinaryConvNet,
    integer_net: IntegerNet,
    images: NDArray[np.uint8],
    batch_size: int = 500,
) -> Agreement:
    """Compare every activation bit and every predicted class of the two networks.

    Parameters
    ----------
    net
        Used in evaluation mode; its training mode is left as it was.
    integer_net
        ``integerize(net)``.
    images
        Shape (N, H, W, C), uint8, N > 0.
    batch_size
        Images at a time.

    Raises
    ------
    ValueError, TypeError
        If there are no images, or not of the right shape or dtype.
    """
    if len(images) == 0:
        raise ValueError("images: expected one or more, got none")
    was_training = net.training
    net.eval()
    n_same = n_bits = n_mismatches = 0
    logits = []
    try:
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            integers = integer_net.activations(part)
            logits.append(integers[-1])
            with torch.no_grad():
                floats = net.activations(_on_device_of(net, part))
                classes = net.logits_of(floats[-1]).cpu().numpy().argmax(axis=1)
            n_same += int((classes == integers[-1].argmax(axis=1)).sum())
            for float_bits, integer_bits in zip(floats, integers, strict=False):
                n_bits += integer_bits.size
                mapped = float_bits.permute(0, 2, 3, 1).cpu().numpy()
                n_mismatches += int((mapped != integer_bits).sum())
    finally:
        net.train(was_training)
    return Agreement(
        n_images=len(images),
        class_agreement=n_same / len(images),
        n_bits=n_bits,
        n_bit_mismatches=n_mismatches,
        integer_logits=np.concatenate(logits),
    )


def _on_device_of(net: BinaryConvNet, images: NDArray[np.uint8]) -> Tensor:
    # A copy: torch warns about read-only memory, which mapped arrays are.
    return torch.from_numpy(images.copy()).to(next(net.parameters()).device)
