"""Layers of int8 weights: the first convolution of a network and its head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers.windows import Pair, Window, channels_last, check_channels
from bnn.quantizers import int8_scale, int8_weights, int32_bias

PIXEL_UNIT = 2.0**-8
"""A uint8 pixel p enters the network as p * PIXEL_UNIT, in [0, 1); exact in any float."""
INT8_UNIT = 2.0**-7
"""An int8 weight q counts as q * INT8_UNIT, in (-1, 1); exact in any float."""


class Int8Conv2d(nn.Module):
    r"""Convolution with int8 weights and zero padding: the first layer, on pixels.

    .. math:: y = (q(w) \cdot 2^{-7}) \star x

    with the integers q of :func:`~bnn.quantizers.int8_weights`, one scale per output channel. The
    scale itself is left out: batch normalisation follows, and it undoes a positive factor per
    channel (up to its eps). On pixels :math:`x = p \cdot 2^{-8}`, so y * 2^15 is the int32
    accumulator of the shipped network; on ±1 it is y * 2^7, and on real activations y * 2^7 times
    the unit in which they ship.

    Parameters
    ----------
    n_in, n_out
        Channels, multiples of ``groups``.
    kernel, stride
        Of the window; one number or (vertical, horizontal).
    padding
        Rows and columns of zeros on every side.
    groups
        Groups of channels that do not see each other; ``n_in`` is a depthwise convolution.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    UNIT = PIXEL_UNIT * INT8_UNIT
    """Value of one unit of the integer accumulator on pixels."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        check_channels(n_in, n_out, groups)
        self.n_in = n_in
        self.n_out = n_out
        self.window = Window.of(kernel, stride, padding)
        """Kernel, stride and padding as pairs."""
        self.padding = padding
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(n_out, n_in // groups, *self.window.kernel))

    def integer_weight(self) -> Tensor:
        """Int8 weights as floats, shape of ``weight``."""
        return int8_weights(self.weight, int8_scale(self.weight, per_channel=True))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W): pixels times ``PIXEL_UNIT``, ±1, or reals."""
        weight = channels_last(self.integer_weight() * INT8_UNIT)
        window = self.window
        return F.conv2d(x, weight, stride=window.stride, padding=window.padding, groups=self.groups)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}, {self.window}, groups={self.groups}"


class Int8Head(nn.Module):
    r"""Last layer: one int8 dense layer over all activations of an image, ±1 or real.

    .. math:: \text{logits} = s \, (q(w) \star x + \operatorname{round}(b / s)),
              \qquad s = \max |w| / 127

    One scale for the whole tensor, so float logits are the integer logits times one positive
    number and the predicted class is the same.

    Parameters
    ----------
    n_in
        Channels of the activations.
    n_out
        Classes.
    kernel
        (height, width) of the activations; (1, 1) also takes (N, n_in).

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: Pair = (1, 1)) -> None:
        super().__init__()
        check_channels(n_in, n_out)
        self.n_in = n_in
        self.n_out = n_out
        self.window = Window.of(kernel, 1, 0)
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, *self.window.kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def scale(self) -> Tensor:
        """Value of one unit of the integer logits; shape ()."""
        return int8_scale(self.weight, per_channel=False)

    def integer_weight(self) -> Tensor:
        """Int8 weights as floats, shape of ``weight``."""
        return int8_weights(self.weight, self.scale())

    def integer_bias(self) -> Tensor:
        """Bias in units of the scale, rounded straight-through; shape (n_out,)."""
        return int32_bias(self.bias, self.scale())

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_out), of ``x``, shape (N, n_in, *kernel) or (N, n_in).

        Raises
        ------
        ValueError
            If the shape is another.
        """
        if x.dim() == 2:
            x = x[:, :, None, None]
        if x.dim() != 4 or x.shape[1:] != self.weight.shape[1:]:
            raise ValueError(
                f"x: expected shape (N, {', '.join(map(str, self.weight.shape[1:]))}), "
                f"got {tuple(x.shape)}; build the head with kernel = (height, width)"
            )
        accumulators = F.conv2d(x, channels_last(self.integer_weight())).flatten(1)
        return (accumulators + self.integer_bias()) * self.scale()

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}, kernel={self.window.kernel}"
