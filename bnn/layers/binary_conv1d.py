"""Binary convolution of sequences: images of one row."""

from torch import Tensor

from bnn.layers.binary_conv2d import BinaryConv2d, Border, check_input
from bnn.layers.windows import channels_last
from bnn.quantizers import Quantizer


class BinaryConv1d(BinaryConv2d):
    """Convolution of sequences of ±1 with quantised latent weights.

    A sequence is an image of one row: the latent weight has shape (n_out, n_in / groups, 1,
    kernel), and formula, gradients, options and errors are those of :class:`BinaryConv2d` with
    numbers in the place of pairs.

    Parameters
    ----------
    n_in, n_out
        Channels, multiples of ``groups``.
    kernel, stride
        Of the window, in steps of the sequence.
    padding
        Steps of the border at both ends.
    groups, border, weight_quantizer, simulate
        As for :class:`BinaryConv2d`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        border: Border = "minus_one",
        weight_quantizer: str | Quantizer = "ste_sign",
        simulate: bool = False,
    ) -> None:
        super().__init__(
            n_in,
            n_out,
            kernel=(1, kernel),
            stride=(1, stride),
            padding=(0, padding),
            groups=groups,
            border=border,
            weight_quantizer=weight_quantizer,
            simulate=simulate,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, L), values ±1, to (N, n_out, L').

        Raises
        ------
        TypeError, ValueError
            If shape or dtype do not fit, or as :meth:`inspect`.
        """
        check_input(x, self.n_in, n_axes=3)
        return super().forward(channels_last(x.unsqueeze(2))).squeeze(2)
