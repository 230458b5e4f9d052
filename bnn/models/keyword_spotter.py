"""Keyword spotting: binary convolutions along the frames of a log-mel spectrogram."""

from torch import Tensor, nn

from bnn.models.classifier import Classifier
from bnn.models.extent import Window, halve_extent, keep_extent
from bnn.models.precision import Precision
from bnn.models.residual import average_pool, pooled_shortcut

_TAPS = 5


class MemoryBlock(nn.Module):
    r"""Memory along the frames, then a mix of the channels, each with its shortcut.

    .. math:: y = \operatorname{PReLU}(\operatorname{BN}(d \star \operatorname{sign}(x)) + s(x)),
              \qquad z = \operatorname{PReLU}(\operatorname{BN}(w \star \operatorname{sign}(y)) +
              r(y))

    d depthwise along the frames, w a 1x1 convolution, both binary; s the identity or an average
    pool, r the identity or an int8 1x1 convolution and normalisation.

    Parameters
    ----------
    precision
        Of the network or its twin.
    n_in, n_out
        Channels.
    window
        Of the memory.
    """

    def __init__(self, precision: Precision, n_in: int, n_out: int, window: Window) -> None:
        super().__init__()
        pointwise = keep_extent(window.output, 1)
        self.memory_sign = precision.sign()
        self.memory = precision.binary_conv(n_in, n_in, window, groups=n_in)
        self.memory_shortcut = average_pool(window)
        self.memory_activation = precision.prelu(n_in)
        self.mix_sign = precision.sign()
        self.mix = precision.binary_conv(n_in, n_out, pointwise)
        self.mix_shortcut = pooled_shortcut(precision, n_in, n_out, pointwise)
        self.mix_activation = precision.prelu(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream, (N, n_in, 1, T), to (N, n_out, 1, T')."""
        y = self.memory_activation(self.memory(self.memory_sign(x)) + self.memory_shortcut(x))
        z: Tensor = self.mix_activation(self.mix(self.mix_sign(y)) + self.mix_shortcut(y))
        return z


class KeywordSpotter(Classifier):
    """Classifier of spectrograms (1, T, F): T frames as columns, F bands as channels.

    ``widths``: channels after each block; the stem, an int8 convolution over 5 frames and all
    bands, has those of the first. Where the width changes, the number of frames is halved if it is
    4 or more. The default has two blocks at 32 frames, three of 128 channels at 16 and one of 256
    at 8. A global average pool and an int8 head end the network. See
    :class:`~bnn.models.classifier.Classifier` for the parameters.

    Raises
    ------
    ValueError
        If the input has more than one row.

    Notes
    -----
    Inspired by BiFSMN, of which it has the blocks (depthwise memory of 5 frames, then a mix of
    channels, a shortcut around each). Differs from it: one stem along the frames instead of two 5x5
    convolutions; a mix is one 1x1 convolution instead of an expanding and a contracting one; a
    global average pool before the head instead of flattening; int8 instead of real stem and head;
    no weight means or scales (normalisation follows); no sub-depth execution, no wavelet
    distillation. A convolution along the frames is written as one of images with one row.

    References
    ----------
    .. [1] Qin et al. (2022), BiFSMN, arXiv:2202.06483.
    """

    default_widths = (64, 64, 128, 128, 128, 256)

    def build(self, precision: Precision) -> None:
        """Build the stem, the blocks and the head."""
        height, width, n_in = self.input_shape
        if height != 1:
            raise ValueError(
                f"input_shape: expected (1, T, F), frames as columns and bands as channels, got "
                f"{self.input_shape}; transpose the spectrograms"
            )
        extent, n_out = (height, width), self.widths[0]
        self.stem = precision.int8_conv(n_in, n_out, keep_extent(extent, _TAPS))
        self.stem_activation = precision.prelu(n_out)
        self.blocks = nn.ModuleList()
        n_in = n_out
        for n_out in self.widths:
            shrink = keep_extent if n_out == n_in else halve_extent
            window = shrink(extent, _TAPS)
            self.blocks.append(MemoryBlock(precision, n_in, n_out, window))
            extent, n_in = window.output, n_out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = precision.head(n_in, self.n_classes, (1, 1))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        x = self.stem_activation(self.stem(x))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.pool(x))
        return logits.flatten(1)
