"""A small network in the manner of QuickNet: convolution, ReLU, normalisation, shortcut."""

from torch import Tensor, nn

from bnn.layers import BatchNorm
from bnn.models.extent import Window, keep_extent
from bnn.models.precision import Precision
from bnn.models.residual import ResidualClassifier


class QuickBlock(nn.Module):
    r"""Transition if the width changes, then one binary convolution and its shortcut.

    .. math:: y = \operatorname{BN}(\operatorname{ReLU}(\operatorname{sign}(w) \star
              \operatorname{sign}(t))) + t

    with t the input, or, where channels change, ReLU, max-pool, int8 1x1 convolution and
    normalisation of it.

    Parameters
    ----------
    precision
        Of the network or its twin.
    n_in, n_out
        Channels.
    window
        Whose stride is that of the max-pool; the convolution keeps the extent.
    """

    def __init__(self, precision: Precision, n_in: int, n_out: int, window: Window) -> None:
        super().__init__()
        self.transition: nn.Module = nn.Identity()
        if n_in != n_out:
            pool = nn.Identity() if window.keeps_extent else nn.MaxPool2d(window.stride)
            pointwise = precision.int8_conv(n_in, n_out, keep_extent(window.output, 1))
            self.transition = nn.Sequential(nn.ReLU(), pool, pointwise)
        self.sign = precision.sign()
        self.conv = precision.bare_conv(n_out, n_out, keep_extent(window.output))
        self.relu = nn.ReLU()
        self.norm = BatchNorm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream, (N, n_in, H, W), to (N, n_out, *window.output)."""
        x = self.transition(x)
        y: Tensor = self.norm(self.relu(self.conv(self.sign(x)))) + x
        return y


class QuickNet(ResidualClassifier):
    """QuickNet-like network for small images.

    ``widths``: channels after each block of one binary 3x3 convolution; where the width changes, a
    transition halves the extent. The default has two blocks of 64 channels at 14x14 and one of 128
    at 7x7 for a 28x28 image. See :class:`~bnn.models.classifier.Classifier` for the parameters.

    Notes
    -----
    Differs from Larq's QuickNet: the stem is one int8 3x3 convolution instead of a strided and a
    depthwise one with a 1x1; the transition has no fixed blur between max-pool and 1x1 convolution,
    and that convolution is int8; padding is -1 instead of +1; signs clip their gradient at 1, not
    at 1.25. Larq describes the network with the compute engine, Bannink et al. (2020), Larq
    Compute Engine, arXiv:2011.09398.
    """

    default_widths = (64, 64, 128)

    def block(self, precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Build a :class:`QuickBlock`."""
        return QuickBlock(precision, n_in, n_out, window)
