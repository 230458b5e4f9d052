"""Binary transposed convolution: every pixel paints its window, overlapping products are summed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.layers.binary import BinaryLayer, scaled
from bnn.layers.binary_conv2d import BORDERS, Border, check_border, check_input
from bnn.layers.windows import Pair, Window, channels_last, check_channels
from bnn.quantizers import Quantizer
from kernels import torch_ops


class BinaryConvTranspose2d(BinaryLayer):
    r"""Transposed convolution of ±1 activations with quantised latent weights.

    .. math:: y_{o,\, s i + a - p} = \sum_{i,\, a,\, c} q(w)_{o c a} \, x_{c i}

    over the pairs (i, a) that meet in one output, with stride s, padding p and a tap a; in both
    directions alike. The output has extent :math:`(H - 1) s - 2 p + k`: padding *removes* rows.

    Zeros between the pixels, by which this is often explained, are no spins, so nothing is
    inserted: the packed path multiplies the bits of every pixel with all taps, a 1x1 binary
    convolution to ``n_out * k * k`` integers, and adds them up where they overlap. Sums of integers
    in floats are exact in any order.

    An output at phase (o + p) mod s meets at most :math:`\lceil k / s \rceil` pixels in each
    direction, and fewer at the edge of the image. ``border`` says what is met outside of it:
    "minus_one" pixels of -1, so that all outputs of a phase are sums of equally many products (an
    integer with the parity of their number), or "zero" nothing, as in torch's ``ConvTranspose2d``.

    Parameters
    ----------
    n_in, n_out
        Channels, multiples of ``groups``.
    kernel, stride
        Of the window; one number or (vertical, horizontal).
    padding
        Rows and columns removed from every side of the output.
    groups
        Groups of channels that do not see each other.
    border
        "minus_one" or "zero".
    weight_quantizer, simulate
        As for :class:`BinaryLayer`. The latent weight has shape (n_out, n_in / groups, KH, KW),
        output channel first as in every layer here; torch's own has ``n_in`` first.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        border: Border = "minus_one",
        weight_quantizer: str | Quantizer = "ste_sign",
        simulate: bool = False,
    ) -> None:
        check_channels(n_in, n_out, groups)
        check_border(border)
        window = Window.of(kernel, stride, padding)
        super().__init__((n_out, n_in // groups, *window.kernel), weight_quantizer, simulate)
        self.n_in = n_in
        self.n_out = n_out
        self.window = window
        """Kernel, stride and padding as pairs."""
        self.groups = groups
        self.border: Border = border

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, shape (N, n_in, H, W), values ±1, to (N, n_out, H', W').

        Raises
        ------
        TypeError, ValueError
            If shape or dtype do not fit, nothing is left of the output, or as :meth:`inspect`.
        """
        check_input(x, self.n_in, n_axes=4)
        size = self.window.transposed_size(*x.shape[2:])
        if min(size) < 1:
            raise ValueError(
                f"x: expected an image of which {self.window} leaves something, "
                f"got {tuple(x.shape[2:])}"
            )
        self.inspect(x)
        is_packed = self.is_packed(x)
        weight, scale = self.factors(simulated=not is_packed)
        x, crop = self._with_border(x)
        if is_packed:
            y = _painted(x, weight, self.window, crop, self.groups, size)
        else:
            y = _simulated(x, weight, self.window, crop, self.groups)
        return scaled(channels_last(y), scale)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return (
            f"{self.n_in}, {self.n_out}, {self.window}, groups={self.groups}, "
            f"border={self.border!r}"
        )

    def _with_border(self, x: Tensor) -> tuple[Tensor, Pair]:
        """The image with all pixels that an output meets, and what to remove from the output."""
        if self.border == "zero":
            return x, self.window.padding
        (kernel_h, kernel_w), (stride_h, stride_w) = self.window.kernel, self.window.stride
        high, wide = -(-kernel_h // stride_h) - 1, -(-kernel_w // stride_w) - 1
        pad_h, pad_w = self.window.padding
        x = F.pad(x, (wide, wide, high, high), value=BORDERS[self.border])
        return x, (pad_h + high * stride_h, pad_w + wide * stride_w)


def _painted(
    x: Tensor, weight: Tensor, window: Window, crop: Pair, groups: int, size: Pair
) -> Tensor:
    """Products of bits pixel by pixel, then sums of integers where windows overlap."""
    n_out, n_in_group, kernel_h, kernel_w = weight.shape
    # One output channel of the 1x1 convolution is one tap of one channel: (n_out, KH, KW) flat.
    taps = weight.permute(0, 2, 3, 1).reshape(n_out * kernel_h * kernel_w, n_in_group, 1, 1)
    products = torch_ops.binary_conv2d(channels_last(x), taps, groups=groups, clip_input=False)
    return F.fold(products.flatten(2), size, window.kernel, padding=crop, stride=window.stride)


def _simulated(x: Tensor, weight: Tensor, window: Window, crop: Pair, groups: int) -> Tensor:
    """The same by torch's own operator, whose weights have the input channel first."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    n_out, n_in_group, *kernel = weight.shape
    by_group = weight.to(dtype).view(groups, n_out // groups, n_in_group, *kernel)
    by_input = by_group.transpose(1, 2).reshape(groups * n_in_group, n_out // groups, *kernel)
    return F.conv_transpose2d(
        x.to(dtype), by_input, stride=window.stride, padding=crop, groups=groups
    )
