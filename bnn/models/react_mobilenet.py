"""ReActNet-A: a MobileNet of binary 3x3 and 1x1 convolutions without any real-valued shortcut."""

import torch
from torch import Tensor, nn

from bnn.models.extent import Window, keep_extent
from bnn.models.precision import Precision
from bnn.models.residual import ResidualClassifier, average_pool


class ReActMobileBlock(nn.Module):
    r"""A spatial and a pointwise binary convolution, each with its shortcut.

    .. math:: y = \operatorname{RPReLU}(\operatorname{BN}(w_1 \star \operatorname{RSign}(x))
              + s(x)), \qquad z_j = \operatorname{BN}(w_{2,j} \star \operatorname{RSign}(y)) + y

    and RPReLU of z_1, or of z_1 and z_2 concatenated, which doubles the channels; s is the
    identity or an average pool.

    Parameters
    ----------
    precision
        Of the network or its twin.
    n_in, n_out
        Channels; n_out is n_in or twice as many.
    window
        Of the spatial convolution.

    Raises
    ------
    ValueError
        If the channels are neither kept nor doubled.
    """

    def __init__(self, precision: Precision, n_in: int, n_out: int, window: Window) -> None:
        super().__init__()
        if n_out not in (n_in, 2 * n_in):
            raise ValueError(
                f"widths: expected a block to keep {n_in} channels or to double them, got {n_out}; "
                f"write {2 * n_in}, or take react_resnet"
            )
        pointwise = keep_extent(window.output, 1)
        self.spatial_sign = precision.rsign(n_in)
        self.spatial = precision.binary_conv(n_in, n_in, window)
        self.shortcut = average_pool(window)
        self.spatial_activation = precision.rprelu(n_in)
        self.pointwise_sign = precision.rsign(n_in)
        self.pointwise = nn.ModuleList(
            precision.binary_conv(n_in, n_in, pointwise) for _ in range(n_out // n_in)
        )
        self.activation = precision.rprelu(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream, (N, n_in, H, W), to (N, n_out, *window.output)."""
        y = self.spatial_activation(self.spatial(self.spatial_sign(x)) + self.shortcut(x))
        bits = self.pointwise_sign(y)
        branches = [conv(bits) + y for conv in self.pointwise]
        z: Tensor = self.activation(branches[0] if len(branches) == 1 else torch.cat(branches, 1))
        return z


class ReActMobileNet(ResidualClassifier):
    """ReActNet-A for small images.

    ``widths``: channels after each block, each equal to the one before or twice that; doubling
    halves the extent. The default has a block of 64 channels at 14x14, two of 128 at 7x7 and one
    of 256 at 3x3 for a 28x28 image. See :class:`~bnn.models.classifier.Classifier` for the
    parameters.

    Notes
    -----
    Differs from the paper: fewer blocks, the extent is halved at every doubling (the paper's first
    doubling keeps it), the stem is int8 with stride 1, and the default pseudo-gradient is the
    clipped straight-through one (``quantizer="approx_sign"`` is the paper's).

    References
    ----------
    .. [1] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    """

    blocks_activate = True
    default_widths = (64, 128, 128, 256)

    def block(self, precision: Precision, n_in: int, n_out: int, window: Window) -> nn.Module:
        """Build a :class:`ReActMobileBlock`."""
        return ReActMobileBlock(precision, n_in, n_out, window)
