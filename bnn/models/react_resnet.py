"""A residual network with ReActNet's activations: learned thresholds of sign and PReLU."""

from torch import Tensor, nn

from bnn.models.extent import Window
from bnn.models.precision import Precision
from bnn.models.residual import ResidualClassifier, pooled_shortcut


class ReActBlock(nn.Module):
    r"""One binary convolution between a learned sign and a learned PReLU, and its shortcut.

    .. math:: y = \operatorname{RPReLU}(\operatorname{BN}(\operatorname{sign}(w) \star
              \operatorname{RSign}(x)) + s(x))

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
        self.sign = precision.rsign(n_in)
        self.conv = precision.binary_conv(n_in, n_out, window)
        self.shortcut = pooled_shortcut(precision, n_in, n_out, window)
        self.activation = precision.rprelu(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream, (N, n_in, H, W), to (N, n_out, *window.output)."""
        y: Tensor = self.activation(self.conv(self.sign(x)) + self.shortcut(x))
        return y


class ReActResNet(ResidualClassifier):
    """Residual network of Bi-Real Net with the activations of ReActNet, for small images.

    ``widths``: channels after each block of one binary 3x3 convolution; the default has two blocks
    of 64 channels at 14x14 and two of 128 at 7x7 for a 28x28 image. Where the width changes, the
    extent is halved. See :class:`~bnn.models.classifier.Classifier` for the parameters.

    Notes
    -----
    Differs from the paper's ReAct-ResNet as :class:`~bnn.models.bireal_resnet.BiRealResNet` does
    from Bi-Real Net, except that no ReLU stands before the global average pool.

    References
    ----------
    .. [1] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    """

    blocks_activate = True
    default_widths = (64, 64, 128, 128)

    def block(self, precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Build a :class:`ReActBlock`."""
        return ReActBlock(precision, n_in, n_out, window)
