"""A VGG-like binary network: pairs of convolutions, then a dense layer."""

from torch import Tensor, nn

from bnn.layers import run_stages
from bnn.models.classifier import Classifier
from bnn.models.extent import Extent, Window, keep_extent
from bnn.models.precision import Precision

_POOLED_FROM = 4


class BinaryVGG(Classifier):
    """Pairs of 3x3 convolutions with a max-pool by 2 after each pair, a dense layer, a head.

    ``widths``: all but the last are the channels of a pair of convolutions, the last is the units
    of the dense layer. The default is 32-32-pool-64-64-pool-dense 256. The first layer is int8,
    normalisation and sign follow every layer; a pair whose smaller side is below 4 is not pooled.
    The dense layer is a convolution whose window is all that is left of the image. See
    :class:`~bnn.models.classifier.Classifier` for the parameters.

    Notes
    -----
    The layer order of Courbariaux et al. (convolution, pool, normalisation, sign) with fewer and
    narrower layers, one dense layer, and int8 in the first layer and the head.

    References
    ----------
    .. [1] Hubara et al. (2016), Binarized Neural Networks, arXiv:1602.02830.
    """

    default_widths = (32, 64, 256)

    def build(self, precision: Precision) -> None:
        """Build the pairs, the dense layer and the head."""
        *pairs, n_units = self.widths
        height, width, n_in = self.input_shape
        extent: Extent = (height, width)
        self.convs = nn.ModuleList()
        self.signs = nn.ModuleList()
        for n_out in pairs:
            pool = 2 if min(extent) >= _POOLED_FROM else 1
            self._append(precision, n_in, n_out, keep_extent(extent), 1)
            self._append(precision, n_out, n_out, keep_extent(extent), pool)
            extent, n_in = (extent[0] // pool, extent[1] // pool), n_out
        dense = Window(kernel=extent, stride=(1, 1), padding=(0, 0), output=(1, 1))
        self._append(precision, n_in, n_units, dense, 1)
        self.head = precision.head(n_units, self.n_classes, (1, 1))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        logits: Tensor = self.head(run_stages(self.convs, self.signs, x))
        return logits.flatten(1)

    def _append(
        self, precision: Precision, n_in: int, n_out: int, window: Window, pool: int
    ) -> None:
        layer = precision.binary_conv if len(self.convs) else precision.int8_conv
        self.convs.append(layer(n_in, n_out, window, pool=pool))
        self.signs.append(precision.sign())
