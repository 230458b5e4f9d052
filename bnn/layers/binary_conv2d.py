"""Binary convolution of images, grouped and depthwise too."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.layers.binary import BinaryLayer, scaled
from bnn.layers.windows import Pair, Window, channels_last, check_channels
from bnn.quantizers import Quantizer
from kernels import torch_ops

Border: TypeAlias = Literal["minus_one", "zero"]
"""What stands outside an image: -1, a zero bit, or nothing, so that the tap is left out."""
BORDERS: dict[str, float] = {"minus_one": -1.0, "zero": 0.0}


class BinaryConv2d(BinaryLayer):
    r"""Convolution of ±1 activations with quantised latent weights.

    .. math:: y = q(w) \star x, \qquad x \text{ padded with } -1 \text{ or } 0

    With signs as weights the result is an integer with the parity of K, the number of products in
    it: ``n_in / groups * kernel_h * kernel_w``, less those outside the image if the border is
    "zero". The latent weights have to be clipped after each step (:meth:`clip_latent`, which
    :func:`bnn.fit` calls), since one beyond the clip would never receive a gradient again.

    The packed path is a product of bits, on the CPU and on CUDA the same integers, and for backward
    one bit per activation is saved.

    Parameters
    ----------
    n_in, n_out
        Channels, multiples of ``groups``.
    kernel, stride
        Of the window; one number or (vertical, horizontal).
    padding
        Rows and columns of the border on every side, fewer than the kernel has.
    groups
        Groups of channels that do not see each other; ``n_in`` is a depthwise convolution.
    border
        "minus_one", the default everywhere here, or "zero".
    weight_quantizer, simulate
        As for :class:`BinaryLayer`.

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
        if any(p >= k for p, k in zip(window.padding, window.kernel, strict=True)):
            raise ValueError(
                f"padding: expected less than the kernel {window.kernel}, got {window.padding}; "
                "a window would see the border only"
            )
        super().__init__((n_out, n_in // groups, *window.kernel), weight_quantizer, simulate)
        self.n_in = n_in
        self.n_out = n_out
        self.window = window
        """Kernel, stride and padding as pairs."""
        self.padding = padding
        self.groups = groups
        self.border: Border = border

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W), values ±1, to (N, n_out, H', W').

        Raises
        ------
        TypeError, ValueError
            If shape or dtype do not fit, or as :meth:`inspect`.
        """
        check_input(x, self.n_in, n_axes=4)
        self.inspect(x)
        is_packed = self.is_packed(x)
        weight, scale = self.factors(simulated=not is_packed)
        convolve = packed_conv2d if is_packed else simulated_conv2d
        return scaled(convolve(x, weight, self.window, self.groups, self.border), scale)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return (
            f"{self.n_in}, {self.n_out}, {self.window}, groups={self.groups}, "
            f"border={self.border!r}"
        )


def packed_conv2d(x: Tensor, weight: Tensor, window: Window, groups: int, border: Border) -> Tensor:
    """Convolution of ±1 with signs as a product of bits; gradients as of the floats."""
    return torch_ops.binary_conv2d(
        x, weight, window.stride, window.padding, groups, border, clip_input=False
    )


def simulated_conv2d(
    x: Tensor, weight: Tensor, window: Window, groups: int, border: Border
) -> Tensor:
    """The same by torch's own convolution of floats; weights may be any."""
    x = x.to(torch.promote_types(x.dtype, weight.dtype))
    high, wide = window.padding
    if high or wide:
        x = F.pad(x, (wide, wide, high, high), value=BORDERS[border])
    return F.conv2d(x, channels_last(weight.to(x.dtype)), stride=window.stride, groups=groups)


def check_border(border: str) -> None:
    """Refuse a border that is none of ``BORDERS``.

    Raises
    ------
    ValueError
        If so.
    """
    if border not in BORDERS:
        raise ValueError(f"border: expected one of {sorted(BORDERS)}, got {border!r}")


def check_input(x: Tensor, n_in: int, *, n_axes: int) -> None:
    """Refuse activations of another shape or of integers.

    Raises
    ------
    TypeError, ValueError
        If so.
    """
    if not x.is_floating_point():
        raise TypeError(f"x: expected floats, got {x.dtype}; convert with .to(torch.float32)")
    if x.dim() != n_axes or x.shape[1] != n_in:
        wanted = ", ".join(["N", str(n_in), *("L" if n_axes == 3 else "HW")])
        raise ValueError(f"x: expected shape ({wanted}), got {tuple(x.shape)}")
