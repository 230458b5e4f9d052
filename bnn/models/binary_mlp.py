"""Dense binary networks."""

from torch import Tensor, nn

from bnn.layers import BatchNorm, BinaryLinear, Int8Head, RealLinear
from bnn.models.classifier import Classifier
from bnn.models.extent import Window
from bnn.models.precision import Precision


class DenseStage(nn.Module):
    """Dense layer, normalisation, sign: (N, n_in) to (N, n_out).

    Parameters
    ----------
    precision
        Of the network or its twin.
    n_in, n_out
        Features.
    """

    def __init__(self, precision: Precision, n_in: int, n_out: int) -> None:
        super().__init__()
        dense = RealLinear if precision.full_precision else BinaryLinear
        self.dense = dense(n_in, n_out)
        self.norm = BatchNorm(n_out)
        self.sign = precision.sign()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_in) to (N, n_out)."""
        y: Tensor = self.sign(self.norm(self.dense(x)))
        return y


class BinaryMLP(Classifier):
    """Multilayer perceptron: an int8 layer on all pixels, binary dense layers, an int8 head.

    ``widths``: units of the hidden layers, the first of which is int8. Normalisation and sign
    follow each. The default has 4.2 million binary weights, meant for 28x28 images; (256, 256) does
    for 8x8. See :class:`~bnn.models.classifier.Classifier` for the parameters.

    Notes
    -----
    The layers of Hubara et al., with an int8 first layer instead of binary weights on 8-bit inputs
    and an int8 head instead of a binary one.

    References
    ----------
    .. [1] Hubara et al. (2016), Binarized Neural Networks, arXiv:1602.02830.
    """

    default_widths = (2048, 2048)

    def build(self, precision: Precision) -> None:
        """Build the hidden layers and the head."""
        height, width, n_in = self.input_shape
        first, *others = self.widths
        whole = Window(kernel=(height, width), stride=(1, 1), padding=(0, 0), output=(1, 1))
        self.stem = precision.int8_conv(n_in, first, whole)
        self.sign = precision.sign()
        self.flatten = nn.Flatten()
        self.stages = nn.ModuleList()
        n_in = first
        for n_out in others:
            self.stages.append(DenseStage(precision, n_in, n_out))
            n_in = n_out
        self.head: nn.Module = (
            RealLinear(n_in, self.n_classes, bias=True)
            if self.full_precision
            else Int8Head(n_in, self.n_classes)
        )

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        x = self.flatten(self.sign(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits
