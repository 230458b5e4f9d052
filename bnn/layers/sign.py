"""The activation of a binary network as a module."""

from torch import Tensor, nn

from bnn.quantizers import QUANTIZERS


class Sign(nn.Module):
    r"""Sign of an activation with a pseudo-gradient.

    .. math:: y = +1 \text{ if } x \ge 0 \text{ else } -1

    Parameters
    ----------
    quantizer
        Key of ``QUANTIZERS``, whose functions all have this value and differ in their gradients.
        One with options, parameters or a schedule is a module already: ``SteSign(1.25)``,
        ``EdeSign()``, ``RSign(n_channels)`` stand in the place of this one.

    Raises
    ------
    ValueError
        If there is no such quantizer.
    """

    def __init__(self, quantizer: str = "ste_sign") -> None:
        super().__init__()
        if quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer: expected one of {sorted(QUANTIZERS)}, got {quantizer!r}")
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return QUANTIZERS[self.quantizer](x)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return repr(self.quantizer)
