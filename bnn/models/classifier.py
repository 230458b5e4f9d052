"""What every classifier of the library is: pixels in, logits out, one constructor signature.

``logits`` is made of modules and of operators that have an exact integer form, so a trained
network can be traced and lowered node by node.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.layers import PIXEL_UNIT, channels_last
from bnn.models.initial import initialise
from bnn.models.precision import Precision
from bnn.quantizers import QUANTIZERS


class Classifier(nn.Module):
    """Image classifier with one-bit weights and activations, or its real-valued twin.

    A subclass says what its widths mean and gives ``default_widths``, :meth:`build` and
    :meth:`logits`.

    Parameters
    ----------
    input_shape
        (H, W, C) of the uint8 images; a table of F columns is (1, 1, F).
    n_classes
        2 or more.
    widths
        Channels of the layers; None is ``default_widths``. Multiples of 32 fill the words of the
        kernels.
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

    default_widths: ClassVar[tuple[int, ...]]
    """Widths for 28x28 images that train on a CPU."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        full_precision: bool = False,
        quantizer: str = "ste_sign",
    ) -> None:
        super().__init__()
        widths = self.default_widths if widths is None else widths
        check_architecture(input_shape, n_classes, widths, quantizer)
        self.input_shape = (input_shape[0], input_shape[1], input_shape[2])
        self.n_classes = n_classes
        self.widths = tuple(widths)
        self.full_precision = full_precision
        self.quantizer = quantizer
        self.build(Precision(full_precision=full_precision, quantizer=quantizer))
        initialise(self, seed)

    def build(self, precision: Precision) -> None:
        """Build the layers for ``input_shape``, ``n_classes`` and ``widths``; called once."""
        raise NotImplementedError

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
        return self.logits(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """Check ``images``, (N, H, W, C), and scale them: (N, C, H, W), channels-last, in [0, 1).

        A pixel p becomes p * ``PIXEL_UNIT``, exactly.
        """
        check_images(images, self.input_shape)
        return channels_last(images.permute(0, 3, 1, 2).to(torch.float32) * PIXEL_UNIT)

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`; traceable by torch.fx."""
        raise NotImplementedError


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


def check_architecture(
    input_shape: Sequence[int], n_classes: int, widths: Sequence[int], quantizer: str
) -> None:
    """Refuse what no classifier can be built from.

    Raises
    ------
    ValueError
        Naming the argument.
    """
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
