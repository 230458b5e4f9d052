"""Binary dense layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.layers.binary import BinaryLayer
from bnn.layers.windows import check_channels
from bnn.quantizers import Quantizer
from kernels import torch_ops


class BinaryLinear(BinaryLayer):
    r"""Dense layer of ±1 activations and quantised latent weights, without a bias.

    .. math:: y = x \, q(W)^\top

    With signs as weights the result is an integer with the parity of ``n_in``. Everything else is
    as for :class:`BinaryConv2d`; the packed path saves one bit per activation.

    Parameters
    ----------
    n_in, n_out
        Features.
    weight_quantizer, simulate
        As for :class:`BinaryLayer`.

    Raises
    ------
    ValueError
        If a number is not positive or the quantizer unknown.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        weight_quantizer: str | Quantizer = "ste_sign",
        simulate: bool = False,
    ) -> None:
        check_channels(n_in, n_out)
        super().__init__((n_out, n_in), weight_quantizer, simulate)
        self.n_in = n_in
        self.n_out = n_out

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, shape (..., n_in), values ±1, to (..., n_out).

        Raises
        ------
        TypeError, ValueError
            If shape or dtype do not fit, or as :meth:`inspect`.
        """
        if not x.is_floating_point():
            raise TypeError(f"x: expected floats, got {x.dtype}; convert with .to(torch.float32)")
        if x.dim() < 1 or x.shape[-1] != self.n_in:
            raise ValueError(f"x: expected shape (..., {self.n_in}), got {tuple(x.shape)}")
        self.inspect(x)
        is_packed = self.is_packed(x)
        weight, scale = self.factors(simulated=not is_packed)
        if is_packed:
            y = torch_ops.binary_linear(x, weight, clip_input=False)
        else:
            dtype = torch.promote_types(x.dtype, weight.dtype)
            y = F.linear(x.to(dtype), weight.to(dtype))
        return y if scale is None else y * scale

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_out}"
