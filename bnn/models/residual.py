"""Networks with a real-valued stream: what they have in common.

The stream is normalised once per block and never binarised itself: every block adds to it what a
binary convolution of its signs says. Shipped, it is an int32 tensor.
"""

from typing import ClassVar

from torch import Tensor, nn

from bnn.models.classifier import Classifier
from bnn.models.extent import Window, halve_extent, keep_extent, stem_pool
from bnn.models.precision import Precision


class ResidualClassifier(Classifier):
    """Int8 stem, blocks that add to a stream, global average pool, int8 head.

    A ReLU stands before the pool unless the blocks end in an activation of their own.
    ``widths`` are the channels after each block; the stem has those of the first. Where the width
    changes, the block halves every side of 4 or more. An image of 16 x 16 or more is pooled
    by 2 after the stem. A subclass says what a block is.
    """

    blocks_activate: ClassVar[bool] = False
    """Whether a block's output is an activation's."""

    def build(self, precision: Precision) -> None:
        """Build the stem, the blocks and the head."""
        height, width, n_in = self.input_shape
        extent, n_out = (height, width), self.widths[0]
        pool = stem_pool(extent)
        self.stem = precision.int8_conv(n_in, n_out, keep_extent(extent), pool=pool)
        extent, n_in = (height // pool, width // pool), n_out
        self.blocks = nn.ModuleList()
        for n_out in self.widths:
            window = keep_extent(extent) if n_out == n_in else halve_extent(extent)
            self.blocks.append(self.block(precision, n_in, n_out, window))
            extent, n_in = window.output, n_out
        self.activation = nn.Identity() if self.blocks_activate else nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = precision.head(n_in, self.n_classes, (1, 1))

    def block(self, precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Build a block from ``n_in`` to ``n_out`` channels; its 3x3 convolution has ``window``."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.pool(self.activation(x)))
        return logits.flatten(1)


def pooled_shortcut(precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
    """Bring the stream to a block's output: average pool, int8 1x1 convolution, normalisation."""
    if n_in == n_out:
        return average_pool(window)
    pointwise = precision.int8_conv(n_in, n_out, keep_extent(window.output, 1))
    return pointwise if window.keeps_extent else nn.Sequential(average_pool(window), pointwise)


def average_pool(window: Window) -> nn.Module:
    """Average pool with the stride of ``window``; the identity if that keeps the extent."""
    return nn.Identity() if window.keeps_extent else nn.AvgPool2d(window.stride)
