"""Bi-Real Net: a residual network with one shortcut per binary convolution."""

from torch import Tensor, nn

from bnn.models.extent import Window
from bnn.models.precision import Precision
from bnn.models.residual import ResidualClassifier, pooled_shortcut


class BiRealBlock(nn.Module):
    r"""One binary convolution and its shortcut.

    .. math:: y = \operatorname{BN}(\operatorname{sign}(w) \star \operatorname{sign}(x)) + s(x)

    with s the identity, or average pool, int8 1x1 convolution and normalisation.

    Parameters
    ----------
    precision
        Of the network or its twin.
    n_in, n_out
        Channels.
    window
        Of the convolution.
    """

    def __init__(self, precision: Precision, n_in: int, n_out: int, window: Window) -> None:
        super().__init__()
        self.sign = precision.sign()
        self.conv = precision.binary_conv(n_in, n_out, window)
        self.shortcut = pooled_shortcut(precision, n_in, n_out, window)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream, (N, n_in, H, W), to (N, n_out, *window.output)."""
        y: Tensor = self.conv(self.sign(x)) + self.shortcut(x)
        return y


class BiRealResNet(ResidualClassifier):
    """Residual network of Bi-Real Net for small images.

    ``widths``: channels after each block of one binary 3x3 convolution; the default has two blocks
    of 64 channels at 14x14 and two of 128 at 7x7 for a 28x28 image. Where the width changes, the
    extent is halved. See :class:`~bnn.models.classifier.Classifier` for the parameters.

    Notes
    -----
    Differs from the paper: the stem is an int8 3x3 convolution, its pool depends on the extent, the
    1x1 convolutions of the shortcuts are int8, padding is -1, a ReLU stands before the global
    average pool, and the default pseudo-gradient is the clipped straight-through one, which saves
    one bit per activation (``quantizer="approx_sign"`` is the paper's). The paper's magnitude-aware
    weights are left out: normalisation follows each convolution and undoes a positive factor.

    References
    ----------
    .. [1] Liu et al. (2018), Bi-Real Net, arXiv:1808.00278.
    """

    default_widths = (64, 64, 128, 128)

    def block(self, precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Build a :class:`BiRealBlock`."""
        return BiRealBlock(precision, n_in, n_out, window)
