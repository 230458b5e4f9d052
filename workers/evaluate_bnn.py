"""How good the classifier is: beside its full-precision twin, its integers, and a trivial floor."""

import math
import warnings
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

import bnn
from bnn.models import Classifier
from kernels.philox import permutation
from workers.context import Outcome, RunContext
from workers.storage import Json
from workers.train_bnn import published_network

_MAX_FLOOR_ROWS = 20_000  # more rows change the floor by less than its error and cost minutes
_FLOOR_ITERATIONS = 60


def evaluate_bnn(context: RunContext) -> Outcome:
    """Test accuracies of network, integer network and twin, and how often the first two agree."""
    images, labels = context.data.test_images, context.data.test_labels
    net = published_network(context, "train_bnn")
    evaluation = bnn.evaluate(net, images, labels)
    twin = bnn.evaluate(published_network(context, "train_twin"), images, labels)
    agreement = bnn.agreement(net, bnn.integerize(net), images)
    integer_accuracy = float(np.mean(agreement.integer_logits.argmax(axis=1) == labels))
    accuracy = evaluation.accuracy
    values: dict[str, Json] = {
        "test_accuracy": accuracy,
        "test_accuracy_stderr": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "integer_accuracy": integer_accuracy,
        "twin_accuracy": twin.accuracy,
        "majority_accuracy": _majority_accuracy(context),
        "class_agreement": agreement.class_agreement,
        "n_bits": agreement.n_bits,
        "bit_mismatches": agreement.n_bit_mismatches,
    }
    n_classes = len(context.data.label_names)
    tensors = {
        "confusion": torch.from_numpy(confusion(labels, evaluation.predictions, n_classes)),
        "integer_logits": torch.from_numpy(agreement.integer_logits),
    }
    return Outcome({**values, **_size(net)}, tensors)


def fit_floor(context: RunContext) -> Outcome:
    """Test accuracy of logistic regression on the pixels: what a network has to beat."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    data = context.data
    rows = permutation(0, len(data.train_labels), epoch=0)[:_MAX_FLOOR_ROWS]
    model = LogisticRegression(max_iter=_FLOOR_ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        # Stopped early on purpose: the last tenths of a per cent cost most of the time.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_flat(data.train_images[rows]), data.train_labels[rows])
    accuracy = float(model.score(_flat(data.test_images), data.test_labels))
    method = f"logistic regression on {len(rows):,} rows, {_FLOOR_ITERATIONS} iterations at most"
    return Outcome({"floor_accuracy": accuracy, "floor_method": method})


def confusion(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Count of (true class, predicted class), shape (n_classes, n_classes)."""
    counts = np.bincount(labels * n_classes + predictions, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def _size(net: Classifier) -> dict[str, Json]:
    summary = bnn.summary(net)
    layers: list[Json] = [
        {**asdict(layer), "output_shape": list(layer.output_shape)} for layer in summary.layers
    ]
    return {
        "n_binary_weights": sum(r.n_weights for r in summary.layers if r.weight_bits == 1),
        "packed_bytes": summary.packed_bytes,
        "float_bytes": summary.float_bytes,
        "layers": layers,
    }


def _majority_accuracy(context: RunContext) -> float:
    """Accuracy of always answering the training set's most frequent class."""
    majority = np.bincount(context.data.train_labels).argmax()
    return float(np.mean(context.data.test_labels == majority))


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
