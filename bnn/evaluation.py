"""Logits, accuracy, and agreement with the integer network, in evaluation mode."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from bnn.integer import IntegerNet, Output
from bnn.layers import PIXEL_UNIT, channels_last
from bnn.lowering import trace
from bnn.models.classifier import check_images


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
class LayerAgreement:
    """Comparison of one tensor of the float network with the operation that stands for it."""

    name: str
    """Layer."""
    node: str
    """Node of the traced network."""
    unit: float
    """Float value of one unit of the integers; 1 for bits."""
    is_bits: bool
    """Whether the tensor is ±1."""
    n_values: int
    """Values compared, over all images."""
    n_mismatches: int
    """Bits that differ; of integers those that are more than half a unit off."""
    largest: float
    """Largest difference in units."""
    rms: float
    """Root of the mean squared difference, in units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Comparison of a float network with its integer network on the same images."""

    n_images: int
    """Images compared."""
    class_agreement: float
    """Share of images with the same predicted class (the lowest index among equals)."""
    n_bits: int
    """Activation bits compared, over all layers and images."""
    n_bit_mismatches: int
    """Bits that differ. A float tie at a threshold flips one, and what follows from it; behind a
    residual stream so does its rounding."""
    integer_logits: NDArray[np.int32]
    """Outputs of the integer network, shape (n_images, n_classes), by-product of the comparison."""
    layers: tuple[LayerAgreement, ...]
    """In order of evaluation; the last are the logits."""
    float_accuracy: float | None = None
    """Share classified correctly by the float network, if labels were given."""
    integer_accuracy: float | None = None
    """Share classified correctly by the integer network, if labels were given."""

    def __str__(self) -> str:
        """Table of the layers, then the classes."""
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':{width}}  values      unit       differ     largest    rms"]
        for layer in self.layers:
            unit = "bit" if layer.is_bits else f"{layer.unit:.3g}"
            lines.append(
                f"{layer.name:{width}}  {layer.n_values:<10}  {unit:<9}  {layer.n_mismatches:<9}  "
                f"{layer.largest:<9.3g}  {layer.rms:.3g}"
            )
        lines.append(f"same class: {self.class_agreement:.2%} of {self.n_images} images")
        if self.float_accuracy is not None and self.integer_accuracy is not None:
            lines.append(
                f"accuracy: {self.float_accuracy:.2%} in floats, "
                f"{self.integer_accuracy:.2%} in integers"
            )
        return "\n".join(lines)


def predict_logits(
    net: nn.Module, images: NDArray[np.uint8], batch_size: int = 500
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
    net: nn.Module,
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
    net: nn.Module,
    integer_net: IntegerNet,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    batch_size: int = 500,
) -> Agreement:
    """Compare the two networks layer by layer, and their predicted classes.

    Parameters
    ----------
    net
        Used in evaluation mode; its training mode is left as it was.
    integer_net
        ``integerize(net)``.
    images
        Shape (N, H, W, C), uint8, N > 0.
    labels
        Shape (N,); with them both accuracies are reported.
    batch_size
        Images at a time.

    Raises
    ------
    ValueError, TypeError
        If there are no images, or not of the right shape or dtype, or not as many labels.
    """
    if len(images) == 0:
        raise ValueError("images: expected one or more, got none")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"labels: expected {len(images)}, one per image, got {len(labels)}")
    check_images(images, integer_net.input_shape)
    comparison = _Comparison(net, integer_net)
    was_training = net.training
    net.eval()
    try:
        for start in range(0, len(images), batch_size):
            comparison.add(images[start : start + batch_size])
    finally:
        net.train(was_training)
    floats = np.concatenate(comparison.float_classes)
    logits = np.concatenate(comparison.integer_logits)
    integers = logits.argmax(axis=1)
    layers = tuple(found.result() for found in comparison.layers)
    return Agreement(
        n_images=len(images),
        class_agreement=float(np.mean(floats == integers)),
        n_bits=sum(layer.n_values for layer in layers if layer.is_bits),
        n_bit_mismatches=sum(layer.n_mismatches for layer in layers if layer.is_bits),
        integer_logits=logits,
        layers=layers,
        float_accuracy=None if labels is None else float(np.mean(floats == labels)),
        integer_accuracy=None if labels is None else float(np.mean(integers == labels)),
    )


class _Comparison:
    """Runs both networks on batches and collects what differs."""

    def __init__(self, net: nn.Module, integer_net: IntegerNet) -> None:
        self.integer_net = integer_net
        graph = trace(net)
        self.device = next(net.parameters()).device
        self.interpreter = _Recorder(fx.GraphModule(net, graph), garbage_collect_values=False)
        self.layers = [
            _Difference(name, output, number)
            for number, (name, output) in enumerate(
                zip(integer_net.names, integer_net.outputs, strict=True)
            )
            if output is not None
        ]
        self.integer_logits: list[NDArray[np.int32]] = []
        self.float_classes: list[NDArray[np.int64]] = []

    def add(self, images: NDArray[np.uint8]) -> None:
        """Compare both networks on one batch."""
        integers = self.integer_net.activations(images)
        self.integer_logits.append(integers[-1])
        pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) * PIXEL_UNIT
        with torch.no_grad():
            logits = self.interpreter.run(channels_last(pixels.to(self.device)))
        self.float_classes.append(logits.cpu().numpy().argmax(axis=1))
        for layer in self.layers:
            layer.add(self.interpreter.found[layer.output.node], integers[layer.number])


class _Recorder(fx.Interpreter):
    """Keeps the output of every node."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.found: dict[str, Tensor] = {}
        return super().run(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.found[n.name] = result
        return result


class _Difference:
    """Sums over the batches of one layer."""

    def __init__(self, name: str, output: Output, number: int) -> None:
        self.name, self.output, self.number = name, output, number
        self.n_values = self.n_mismatches = 0
        self.largest = self.squares = 0.0
        self.is_bits = output.is_bits

    def add(self, floats: Tensor, integers: NDArray[np.int32]) -> None:
        """Compare one batch: floats as torch has them, integers (N, H, W, C) or (N, n_classes)."""
        values = floats.cpu().double().numpy() / self.output.unit
        difference = np.abs(_as_images(values, integers.shape) - integers)
        self.n_values += difference.size
        self.n_mismatches += int((difference > 0.5).sum())
        self.largest = max(self.largest, float(difference.max()))
        self.squares += float((difference**2).sum())

    def result(self) -> LayerAgreement:
        """What all batches say."""
        return LayerAgreement(
            name=self.name,
            node=self.output.node,
            unit=self.output.unit,
            is_bits=self.is_bits,
            n_values=self.n_values,
            n_mismatches=self.n_mismatches,
            largest=self.largest,
            rms=(self.squares / self.n_values) ** 0.5,
        )


def _as_images(values: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values (N, C, H, W), (N, C, L) or (N, C H W) in the order of integers (N, H, W, C)."""
    if len(shape) == 2:
        return values.reshape(shape)
    n, height, width, n_channels = shape
    return values.reshape(n, n_channels, height, width).transpose(0, 2, 3, 1)


def _on_device_of(net: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    # A copy: torch warns about read-only memory, which mapped arrays are.
    return torch.from_numpy(images.copy()).to(next(net.parameters()).device)
