"""One description of a topology builds the binary network and its full-precision twin."""

from dataclasses import dataclass

from torch import nn

from bnn.layers import BinaryConv2d, ConvNorm, Int8Conv2d, Int8Head, RealConv2d, Sign
from bnn.models.extent import Extent, Window
from bnn.quantizers import QUANTIZERS, RPReLU, RSign


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """What a layer of a classifier is made of: bits and int8, or floats and ReLU.

    The twin's layers have parameters of the same shapes, except that activations have none.
    """

    full_precision: bool
    """Whether the twin is built."""
    quantizer: str
    """Pseudo-gradient of the signs, a key of ``QUANTIZERS``."""

    def int8_conv(self, n_in: int, n_out: int, window: Window, *, pool: int = 1) -> ConvNorm:
        """Int8 convolution, max-pool, normalisation: first layers and shortcuts."""
        return ConvNorm(self.bare_int8_conv(n_in, n_out, window), n_out, pool=pool)

    def bare_int8_conv(self, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Int8 convolution alone."""
        conv = RealConv2d if self.full_precision else Int8Conv2d
        return conv(
            n_in, n_out, kernel=window.kernel, stride=window.stride, padding=_number(window.padding)
        )

    def binary_conv(
        self, n_in: int, n_out: int, window: Window, *, groups: int = 1, pool: int = 1
    ) -> ConvNorm:
        """Binary convolution, max-pool, normalisation; ``groups=n_in`` is depthwise."""
        return ConvNorm(self.bare_conv(n_in, n_out, window, groups=groups), n_out, pool=pool)

    def bare_conv(self, n_in: int, n_out: int, window: Window, *, groups: int = 1) -> nn.Module:
        """Binary convolution alone."""
        conv = RealConv2d if self.full_precision else BinaryConv2d
        return conv(
            n_in,
            n_out,
            kernel=window.kernel,
            stride=window.stride,
            padding=_number(window.padding),
            groups=groups,
        )

    def sign(self) -> nn.Module:
        """Sign; ReLU in the twin."""
        return nn.ReLU() if self.full_precision else Sign(self.quantizer)

    def rsign(self, n_channels: int) -> nn.Module:
        """Sign with learned thresholds; ReLU in the twin."""
        if self.full_precision:
            return nn.ReLU()
        return RSign(n_channels, QUANTIZERS[self.quantizer])

    def prelu(self, n_channels: int) -> nn.Module:
        """PReLU with a slope per channel; ReLU in the twin."""
        return nn.ReLU() if self.full_precision else nn.PReLU(n_channels)

    def rprelu(self, n_channels: int) -> nn.Module:
        """PReLU with learned shifts; ReLU in the twin."""
        return nn.ReLU() if self.full_precision else RPReLU(n_channels)

    def head(self, n_in: int, n_classes: int, extent: Extent) -> nn.Module:
        """Int8 layer over all activations of an image."""
        if self.full_precision:
            return RealConv2d(n_in, n_classes, kernel=extent, bias=True)
        return Int8Head(n_in, n_classes, kernel=extent)


def _number(pair: Extent) -> int | Extent:
    """One number where both sides are equal."""
    return pair[0] if pair[0] == pair[1] else pair
