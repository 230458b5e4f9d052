"""Binary convolutional networks and their full-precision twins.

Stage = convolution, max-pool, batch normalisation, sign (pooling before the sign loses less than
an OR of bits after it). The first convolution is int8 on pixels, the head int8 on ±1, everything
between is binary: so the trained network is an integer network, exactly.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bnn.layers import ConvNorm, run_stages
from bnn.models.classifier import Classifier
from bnn.models.extent import Window
from bnn.models.precision import Precision


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


Stage = ConvNorm
"""A stage up to its sign."""


class BinaryConvNet(Classifier):
    """Convolutional classifier with one-bit weights and activations, or its real-valued twin.

    ``widths``: output channels of the stages. See :class:`~bnn.models.classifier.Classifier` for
    the parameters.
    """

    default_widths = (32, 64, 128)

    def build(self, precision: Precision) -> None:
        """Build the stages and the head."""
        height, width, n_in = self.input_shape
        self.stages = nn.ModuleList()
        self.signs = nn.ModuleList()
        for n_out in self.widths:
            geometry = stage_geometry(height, width)
            kernel, padding = geometry.kernel, geometry.padding
            window = Window(
                kernel=(kernel, kernel),
                stride=(1, 1),
                padding=(padding, padding),
                output=(height, width),
            )
            make = precision.bare_conv if len(self.stages) else precision.bare_int8_conv
            self.stages.append(Stage(make(n_in, n_out, window), n_out, pool=geometry.pool))
            self.signs.append(precision.sign())
            height, width, n_in = height // geometry.pool, width // geometry.pool, n_out
        self.head = precision.head(n_in, self.n_classes, (height, width))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        return self.logits_of(run_stages(self.stages, self.signs, x))

    def activations(self, images: Tensor) -> list[Tensor]:
        """Compute the outputs of all stages for ``images``, (N, H, W, C), each (N, C, H, W)."""
        x = self.pixels(images)
        outputs: list[Tensor] = []
        for stage, sign in zip(self.stages, self.signs, strict=True):
            x = sign(stage(x))
            outputs.append(x)
        return outputs

    def logits_of(self, activations: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the last stage's output."""
        logits: Tensor = self.head(activations)
        return logits.flatten(1)
