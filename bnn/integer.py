r"""The integer network: the one exact meaning of a trained network, in integers only.

Every layer is an integer convolution, then an optional max-pool of its accumulators, then an
optional threshold per channel,

.. math:: \text{bit}_c = (\text{acc} \ge t_c) \oplus \text{flip}_c

This is the oracle for the C runtime on every target; :mod:`bnn.folding` makes it from a network.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnn.models import check_images

Kind = Literal["conv_u8", "conv_b1", "conv_b1_i8"]
"""Pixels by int8 weights, bits by bits, bits by int8 weights."""

_PIXEL_MAX = 255
_INT32_LIMIT = 1 << 31
_EXACT_DTYPES = ((torch.float32, 1 << 24), (torch.float64, 1 << 53))
"""Integers of smaller magnitude than the bound are exact in the dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerLayer:
    """One layer: convolution with stride 1, max-pool, threshold or bias."""

    name: str
    """What error messages and tables call it."""
    kind: Kind
    """Operands. Spatial padding is 0 for pixels and -1 for bits."""
    weights: NDArray[np.int8]
    """Shape (C_out, KH, KW, C_in): ±1, or int8 in [-127, 127]."""
    input_shape: tuple[int, int, int]
    """(H, W, C_in)."""
    padding: int = 0
    """Rows and columns added on every side."""
    pool: int = 1
    """Window and stride of the max-pool on accumulators; 1 is none."""
    threshold: NDArray[np.int32] | None = None
    """t, shape (C_out,); None if the layer returns accumulators."""
    flip: NDArray[np.bool_] | None = None
    """Which channels are inverted after the comparison, shape (C_out,)."""
    bias: NDArray[np.int32] | None = None
    """Added to the accumulators before anything else, shape (C_out,)."""

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(H, W, C_out) after the pool."""
        n_out, kernel_h, kernel_w, _ = self.weights.shape
        height, width, _ = self.input_shape
        rows = (height + 2 * self.padding - kernel_h + 1) // self.pool
        return rows, (width + 2 * self.padding - kernel_w + 1) // self.pool, n_out

    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Least and greatest accumulator of each channel on any input, each shape (C_out,)."""
        weights = self.weights.astype(np.int64).reshape(len(self.weights), -1)
        bias = 0 if self.bias is None else self.bias.astype(np.int64)
        if self.kind == "conv_u8":
            low = _PIXEL_MAX * np.minimum(weights, 0).sum(axis=1)
            high = _PIXEL_MAX * np.maximum(weights, 0).sum(axis=1)
        else:
            high = np.abs(weights).sum(axis=1)
            low = -high
        return low + bias, high + bias

    def magnitude(self) -> int:
        """Bound on the magnitude of every partial sum, in any order of summation."""
        weights = np.abs(self.weights.astype(np.int64)).reshape(len(self.weights), -1)
        bias = 0 if self.bias is None else np.abs(self.bias.astype(np.int64))
        factor = _PIXEL_MAX if self.kind == "conv_u8" else 1
        return int((factor * weights.sum(axis=1) + bias).max())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerNet:
    """A chain of integer layers from uint8 images to int32 logits.

    Evaluated with matrix products of integers held in floats. Every product and every partial sum
    is an integer of magnitude at most :meth:`IntegerLayer.magnitude`; where that is below 2^24
    (2^53) all of them are representable in float32 (float64), so no operation rounds, whatever the
    order of summation, fused multiply-add included: the result *is* the integer result.
    """

    layers: tuple[IntegerLayer, ...]
    """In order of evaluation; the last one has neither pool nor threshold."""
    output_scale: float = 1.0
    """Float logits are the integer logits times this; positive."""
    input_shape: tuple[int, int, int] = field(init=False)
    """(H, W, C)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", self.layers[0].input_shape)
        for layer in self.layers:
            _check_range(layer)

    @property
    def n_classes(self) -> int:
        """Length of the logits."""
        return len(self.layers[-1].weights)

    def __call__(
        self, images: NDArray[np.uint8], *, exact: bool = False, batch_size: int = 100
    ) -> NDArray[np.int32]:
        """Logits of a batch of images.

        Parameters
        ----------
        images
            Shape (N, H, W, C), uint8.
        exact
            Use int64 arithmetic throughout: the slow and literal meaning, equal to the default.
        batch_size
            Images at a time; bounds memory and changes nothing else.

        Returns
        -------
        NDArray
            Shape (N, n_classes), int32.

        Raises
        ------
        ValueError, TypeError
            If the images are not what the network was built for.
        """
        check_images(images, self.input_shape)
        logits = np.empty((len(images), self.n_classes), dtype=np.int32)
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            logits[start : start + batch_size] = self.activations(part, exact=exact)[-1]
        return logits

    def activations(
        self, images: NDArray[np.uint8], *, exact: bool = False
    ) -> list[NDArray[np.int32]]:
        """Compute the outputs of all layers: ±1 (N, H, W, C), then the logits (N, n_classes)."""
        check_images(images, self.input_shape)
        x = torch.from_numpy(images.astype(np.int32))
        outputs: list[NDArray[np.int32]] = []
        for layer in self.layers:
            x = _evaluate(layer, x, torch.int64 if exact else _exact_dtype(layer))
            outputs.append(x.numpy())
        outputs[-1] = outputs[-1].reshape(len(images), self.n_classes)
        return outputs


def _check_range(layer: IntegerLayer) -> None:
    if layer.magnitude() >= _INT32_LIMIT - 1:
        raise ValueError(
            f"{layer.name}: expected accumulators that fit int32, got up to {layer.magnitude()}; "
            "use a smaller input or fewer channels"
        )


def _exact_dtype(layer: IntegerLayer) -> torch.dtype:
    for dtype, bound in _EXACT_DTYPES:
        if layer.magnitude() < bound:
            return dtype
    raise ValueError(f"{layer.name}: sums up to {layer.magnitude()} are not exact in float64")


def _evaluate(layer: IntegerLayer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Map (N, H, W, C_in) to (N, H', W', C_out), int32, in the arithmetic of ``dtype``."""
    n_out, kernel_h, kernel_w, _ = layer.weights.shape
    border = 0 if layer.kind == "conv_u8" else -1
    x = F.pad(x.to(dtype), (0, 0, *(layer.padding,) * 4), value=border)
    weights = torch.from_numpy(layer.weights).to(dtype)
    rows, columns = x.shape[1] - kernel_h + 1, x.shape[2] - kernel_w + 1
    # Patches and a matrix product: no transform (Winograd, FFT) with fractions can slip in.
    taps = [(i, j) for i in range(kernel_h) for j in range(kernel_w)]
    patches = torch.cat([x[:, i : i + rows, j : j + columns] for i, j in taps], dim=-1)
    acc = patches @ weights.reshape(n_out, -1).T
    if layer.bias is not None:
        acc += torch.from_numpy(layer.bias).to(dtype)
    pool = layer.pool
    rows, columns = rows // pool, columns // pool
    acc = acc[:, : rows * pool, : columns * pool]
    acc = acc.reshape(len(x), rows, pool, columns, pool, n_out).amax(dim=(2, 4))
    if layer.threshold is None or layer.flip is None:
        return acc.to(torch.int32)
    reached = acc >= torch.from_numpy(layer.threshold).to(dtype)
    return (reached ^ torch.from_numpy(layer.flip)).to(torch.int32) * 2 - 1
