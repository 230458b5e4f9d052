"""Binary convolutional networks and their full-precision twins.

Stage = convolution, max-pool, batch normalisation, sign (pooling before the sign loses less than
an OR of bits after it). The first convolution is int8 on pixels, the head int8 on ±1, everything
between is binary: so the trained network is an integer network, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.layers import (
    PIXEL_UNIT,
    BatchNorm,
    BinaryConv2d,
    Int8Conv2d,
    Int8Head,
    RealConv2d,
    channels_last,
)
from bnn.quantizers import QUANTIZERS
from kernels import Purpose, uniform

_LATENT_LIMIT = 0.03
"""Latent weights start uniform in ±_LATENT_LIMIT: near enough to 0 that a weight can change sign
within the first hundred steps, whatever the width of the layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageGeometry:
    """Window sizes of one stage, derived from the extent of its input."""

    kernel: int
    """Height and width of the convolution's window."""
    padding: int
    """Rows and columns added on every side, so that the convolution keeps the extent."""
    pool: int
    """Window and stride of the max-pool; 1 is none."""


def stage_geometry(height: int, width: int) -> StageGeometry:
    """Choose the windows of a stage: 3x3 and pool by 2 where the input is large enough for them.

    Parameters
    ----------
    height, width
        Extent of the stage's input.

    Returns
    -------
    StageGeometry
        Kernel 3 with padding 1 if the smaller side is 3 or more, else kernel 1; pool 2 if the
        smaller side is 4 or more, else none. A table, (1, 1, F), so gets dense layers.
    """
    smaller = min(height, width)
    kernel = 3 if smaller >= 3 else 1
    return StageGeometry(kernel=kernel, padding=kernel // 2, pool=2 if smaller >= 4 else 1)


class Stage(nn.Module):
    """Convolution, max-pool, batch normalisation, activation.

    Parameters
    ----------
    conv
        Any of the convolutions of :mod:`bnn.layers`.
    n_channels
        Output channels of ``conv``.
    pool
        Window and stride of the max-pool, incomplete windows dropped; 1 is none.
    quantizer
        Key of ``QUANTIZERS`` for the activation, or "relu".
    """

    def __init__(self, conv: nn.Module, n_channels: int, *, pool: int, quantizer: str) -> None:
        super().__init__()
        self.conv = conv
        self.pool = pool
        self.norm = BatchNorm(n_channels)
        self.activation = F.relu if quantizer == "relu" else QUANTIZERS[quantizer]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H // pool, W // pool)."""
        y: Tensor = self.conv(x)
        if self.pool > 1:
            y = F.max_pool2d(y, self.pool)
        result: Tensor = self.activation(self.norm(y))
        return result


class BinaryConvNet(nn.Module):
    """Convolutional classifier with one-bit weights and activations, or its real-valued twin.

    Parameters
    ----------
    input_shape
        (H, W, C) of the uint8 images; a table of F columns is (1, 1, F).
    n_classes
        2 or more.
    widths
        Output channels of the stages. Multiples of 32 fill the words of the kernels.
    seed
        Of the initial weights (Philox, one stream per parameter number).
    full_precision
        Build the twin: same topology, real weights, ReLU instead of sign, zero padding.
    quantizer
        Pseudo-gradient of the activations, a key of ``QUANTIZERS``; unused by the twin.

    Raises
    ------
    ValueError
        If a shape, a width, the number of classes or the quantizer is not possible.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        widths: Sequence[int] = (32, 64, 128),
        seed: int = 0,
        full_precision: bool = False,
        quantizer: str = "ste_sign",
    ) -> None:
        super().__init__()
        _check_architecture(input_shape, n_classes, widths, quantizer)
        self.input_shape = tuple(input_shape)
        self.n_classes = n_classes
        self.widths = tuple(widths)
        self.full_precision = full_precision
        height, width, n_in = input_shape
        self.stages = nn.ModuleList()
        for n_out in widths:
            geometry = stage_geometry(height, width)
            conv = _make_conv(n_in, n_out, geometry, full_precision, first=not self.stages)
            activation = "relu" if full_precision else quantizer
            self.stages.append(Stage(conv, n_out, pool=geometry.pool, quantizer=activation))
            height, width, n_in = height // geometry.pool, width // geometry.pool, n_out
        self.head: nn.Module = (
            RealConv2d(n_in, n_classes, kernel=(height, width), bias=True)
            if full_precision
            else Int8Head(n_in, n_classes, kernel=(height, width))
        )
        _initialise(self, seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        images
            Shape (N, H, W, C), uint8.

        Returns
        -------
        Tensor
            Shape (N, n_classes), float32.

        Raises
        ------
        ValueError, TypeError
            If the images are not what the network was built for.
        """
        return self.logits_of(self.activations(images)[-1])

    def activations(self, images: Tensor) -> list[Tensor]:
        """Compute the outputs of all stages for ``images``, (N, H, W, C), each (N, C, H, W)."""
        check_images(images, self.input_shape)
        x = channels_last(images.permute(0, 3, 1, 2).to(torch.float32) * PIXEL_UNIT)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def logits_of(self, activations: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the last stage's output."""
        logits: Tensor = self.head(activations)
        return logits.flatten(1)


def check_images(images: Tensor | NDArray[np.uint8], input_shape: tuple[int, ...]) -> None:
    """Refuse images that are not uint8 of shape (N, H, W, C) for ``input_shape`` = (H, W, C).

    Raises
    ------
    TypeError
        If the dtype is not uint8.
    ValueError
        If the shape does not fit.
    """
    if images.dtype not in (torch.uint8, np.uint8):
        raise TypeError(
            f"images: expected dtype uint8, got {images.dtype}; scale pixels to 0..255 and convert"
        )
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"images: expected shape (N, {', '.join(map(str, input_shape))}), "
            f"got {tuple(images.shape)}; reshape to (N, H, W, C)"
        )


def _make_conv(
    n_in: int, n_out: int, geometry: StageGeometry, full_precision: bool, first: bool
) -> nn.Module:
    kernel, padding = geometry.kernel, geometry.padding
    if full_precision:
        return RealConv2d(n_in, n_out, kernel=(kernel, kernel), padding=padding)
    layer = Int8Conv2d if first else BinaryConv2d
    return layer(n_in, n_out, kernel=kernel, padding=padding)


@torch.no_grad()
def _initialise(net: BinaryConvNet, seed: int) -> None:
    """Fill the kernels with uniform draws; biases and normalisations keep their zeros and ones."""
    for number, parameter in enumerate(net.parameters()):
        if parameter.dim() != 4:
            continue
        words = uniform(seed, Purpose.INITIAL_WEIGHTS, parameter.numel(), index=number)[0]
        fan_in = parameter[0].numel()
        # He's variance 2 / fan_in suits ReLU; the head and the int8 layer only need O(1) outputs.
        limit = (6.0 / fan_in) ** 0.5
        draws = torch.from_numpy(words).reshape(parameter.shape)
        parameter.copy_((2 * draws - 1) * limit)
    for module in net.modules():
        if isinstance(module, BinaryConv2d):
            fan_in = module.latent_weight[0].numel()
            module.latent_weight.mul_(_LATENT_LIMIT / (6.0 / fan_in) ** 0.5)


def _check_architecture(
    input_shape: Sequence[int], n_classes: int, widths: Sequence[int], quantizer: str
) -> None:
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(
            f"input_shape: expected three positive numbers (H, W, C), got {tuple(input_shape)}; "
            "a table of F columns is (1, 1, F)"
        )
    if n_classes < 2:
        raise ValueError(f"n_classes: expected 2 or more, got {n_classes}")
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected one or more positive numbers, got {tuple(widths)}")
    if quantizer not in QUANTIZERS:
        raise ValueError(f"quantizer: expected one of {sorted(QUANTIZERS)}, got {quantizer!r}")
