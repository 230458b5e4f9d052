"""Layers of binary weights that take real activations, and what stands in the place of a sign.

They have no packed path: a product of bits needs bits on both sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers import BinaryConv1d, BinaryConv2d, BinaryLayer, BinaryLinear, Window, channels_last
from bnn.layers.binary import scaled
from bnn.layers.windows import check_channels
from bnn.quantizers import Quantizer, RSign

Pair = tuple[int, int]


class ShiftedHardtanh(nn.Module):
    r"""Clip of an activation after a learned shift per channel: :class:`RSign` without the sign.

    .. math:: y_c = \operatorname{clip}(x_c + b_c, -1, 1)

    Parameters
    ----------
    n_channels
        C, the second axis of the input.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_channels))
        """b, shape (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate ``x``, shape (N, C, ...)."""
        return self.activate(x + self.shift.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2)))

    def activate(self, x: Tensor) -> Tensor:
        """What follows the shift."""
        return F.hardtanh(x)

    @classmethod
    def in_place_of(cls, module: RSign) -> "ShiftedHardtanh":
        """With the shift of ``module``, the same parameter."""
        real = cls(len(module.shift))
        real.shift = module.shift
        return real


class ShiftedReLU(ShiftedHardtanh):
    r"""ReLU after a learned shift per channel, :math:`y_c = \max(x_c + b_c, 0)`."""

    def activate(self, x: Tensor) -> Tensor:
        """What follows the shift."""
        return F.relu(x)


class BinaryWeightLinear(BinaryLayer):
    r"""Dense layer of real activations and quantised latent weights, without a bias.

    .. math:: y = x \, q(W)^\top

    Parameters
    ----------
    n_in, n_out
        Features.
    weight_quantizer
        As for :class:`~bnn.layers.BinaryLayer`.
    """

    def __init__(
        self, n_in: int, n_out: int, *, weight_quantizer: str | Quantizer = "ste_sign"
    ) -> None:
        super().__init__((n_out, n_in), weight_quantizer, simulate=True)
        self.n_in = n_in
        self.n_out = n_out

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, shape (..., n_in), to (..., n_out)."""
        weight, scale = self.factors(simulated=True)
        y = F.linear(x, weight.to(x.dtype))
        return y if scale is None else y * scale

    @classmethod
    def in_place_of(cls, layer: BinaryLinear) -> "BinaryWeightLinear":
        """With the latent weights and the quantizer of ``layer``."""
        real = cls(layer.n_in, layer.n_out, weight_quantizer=layer.weight_quantizer)
        real.latent_weight = layer.latent_weight
        return real

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}"


class BinaryWeightConv2d(BinaryLayer):
    r"""Convolution of real activations with quantised latent weights, zero padding.

    .. math:: y = q(w) \star x, \qquad x \text{ padded with } 0

    The border of a real activation is 0, as in every layer of real activations here; that of bits
    is -1. So on ±1 this is :class:`~bnn.layers.BinaryConv2d` with ``border="zero"``.

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
    weight_quantizer
        As for :class:`~bnn.layers.BinaryLayer`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    .. [1] Prabhu et al. (2018), Hybrid binary networks, arXiv:1804.03867: "WBin".
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
        weight_quantizer: str | Quantizer = "ste_sign",
    ) -> None:
        check_channels(n_in, n_out, groups)
        window = Window.of(kernel, stride, padding)
        super().__init__((n_out, n_in // groups, *window.kernel), weight_quantizer, simulate=True)
        self.n_in = n_in
        self.n_out = n_out
        self.window = window
        """Kernel, stride and padding as pairs."""
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W), to (N, n_out, H', W')."""
        weight, scale = self.factors(simulated=True)
        window = self.window
        y = F.conv2d(
            x,
            channels_last(weight.to(x.dtype)),
            stride=window.stride,
            padding=window.padding,
            groups=self.groups,
        )
        return scaled(y, scale)

    @classmethod
    def in_place_of(cls, layer: BinaryConv2d) -> "BinaryWeightConv2d":
        """With the latent weights, the window and the quantizer of ``layer``."""
        window = layer.window
        real = cls(
            layer.n_in,
            layer.n_out,
            kernel=window.kernel,
            stride=window.stride,
            padding=window.padding,
            groups=layer.groups,
            weight_quantizer=layer.weight_quantizer,
        )
        real.latent_weight = layer.latent_weight
        return real

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}, {self.window}, groups={self.groups}"


class BinaryWeightConv1d(BinaryWeightConv2d):
    """Convolution of sequences, (N, n_in, L), as images of one row.

    Latent weights have shape (n_out, n_in / groups, 1, kernel).

    Parameters
    ----------
    n_in, n_out
        Channels, multiples of ``groups``.
    kernel, stride
        Of the window, in steps of the sequence.
    padding
        Zeros at both ends.
    groups, weight_quantizer
        As for :class:`BinaryWeightConv2d`.
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
        weight_quantizer: str | Quantizer = "ste_sign",
    ) -> None:
        super().__init__(
            n_in,
            n_out,
            kernel=(1, kernel),
            stride=(1, stride),
            padding=(0, padding),
            groups=groups,
            weight_quantizer=weight_quantizer,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, L), to (N, n_out, L')."""
        return super().forward(channels_last(x.unsqueeze(2))).squeeze(2)

    @classmethod
    def in_place_of(cls, layer: BinaryConv2d) -> "BinaryWeightConv1d":
        """With the latent weights, the window and the quantizer of a ``BinaryConv1d``."""
        window = layer.window
        real = cls(
            layer.n_in,
            layer.n_out,
            kernel=window.kernel[1],
            stride=window.stride[1],
            padding=window.padding[1],
            groups=layer.groups,
            weight_quantizer=layer.weight_quantizer,
        )
        real.latent_weight = layer.latent_weight
        return real


def binary_weight_layer(layer: nn.Module, name: str) -> nn.Module:
    """What takes real activations in the place of ``layer``; layers of real weights stay.

    Raises
    ------
    ValueError
        If ``layer``, called ``name``, has latent weights and no counterpart.
    """
    counterpart = COUNTERPARTS.get(type(layer))
    if counterpart is not None:
        made: nn.Module = counterpart.in_place_of(layer)  # type: ignore[attr-defined]
        return made
    if isinstance(layer, BinaryLayer) or hasattr(layer, "latent_weight"):
        known = ", ".join(sorted(kind.__name__ for kind in COUNTERPARTS))
        raise ValueError(
            f"{name}: expected a layer that can take real inputs ({known}), got "
            f"{type(layer).__name__}; leave its input binary"
        )
    return layer


COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    BinaryConv1d: BinaryWeightConv1d,
    BinaryConv2d: BinaryWeightConv2d,
    BinaryLinear: BinaryWeightLinear,
}

REAL_ACTIVATIONS: dict[str, tuple[type[nn.Module], type[ShiftedHardtanh]]] = {
    "hardtanh": (nn.Hardtanh, ShiftedHardtanh),
    "relu": (nn.ReLU, ShiftedReLU),
}
"""What stands in the place of a sign, and of a sign with learned shifts."""
