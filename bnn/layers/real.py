"""Full-precision twins of the binary layers: zero padding, float weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers.windows import Pair, Window, channels_last, check_channels


class RealConv2d(nn.Module):
    """Ordinary convolution with zero padding, the twin of the binary and int8 convolutions.

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
    bias
        Whether a bias is added.

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
        bias: bool = False,
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
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W)."""
        window = self.window
        weight = channels_last(self.weight)
        return F.conv2d(x, weight, self.bias, window.stride, window.padding, groups=self.groups)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return (
            f"{self.n_in}, {self.n_out}, {self.window}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


class RealConv1d(RealConv2d):
    """Ordinary convolution of sequences, (N, n_in, L); kernel, stride and padding are numbers.

    The weight has shape (n_out, n_in / groups, 1, kernel): a sequence is an image of one row.
    Parameters and errors are those of :class:`RealConv2d`.
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
        bias: bool = False,
    ) -> None:
        super().__init__(
            n_in,
            n_out,
            kernel=(1, kernel),
            stride=(1, stride),
            padding=(0, padding),
            groups=groups,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, L)."""
        return super().forward(channels_last(x.unsqueeze(2))).squeeze(2)


class RealLinear(nn.Module):
    """Ordinary dense layer whose weights start at 0, the twin of :class:`BinaryLinear`.

    Parameters
    ----------
    n_in, n_out
        Features.
    bias
        Whether a bias is added.

    Raises
    ------
    ValueError
        If a number is not positive.
    """

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False) -> None:
        super().__init__()
        check_channels(n_in, n_out)
        self.n_in = n_in
        self.n_out = n_out
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, shape (..., n_in)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}, bias={self.bias is not None}"
