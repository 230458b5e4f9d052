"""Binary LSTM cell: products of bits inside, states in floats."""

import torch
from torch import Tensor, nn

from bnn.layers.recurrent import RecurrentCell
from bnn.quantizers import QUANTIZERS, Quantizer, RSign

CELL_LIMIT = 8.0
"""The cell state is clipped to ±CELL_LIMIT, where tanh is 1 up to 2.3e-7."""


class BinaryLSTMCell(RecurrentCell):
    r"""One step of an LSTM [1]_ whose matrix products are of ±1.

    .. math::

        n &= q(W) x + q(U) \operatorname{sign}(h + \theta) \\
        z &= s \odot n + b, \qquad z = (z_i, z_f, z_g, z_o) \\
        c' &= \operatorname{clip}(\sigma(z_f) \odot c + \sigma(z_i) \odot \tanh z_g, -8, 8) \\
        h' &= \sigma(z_o) \odot \tanh c'

    With signs as weights n is an integer, :math:`|n| \le` ``n_in + n_hidden`` and of its parity,
    so that a gate is a function of an integer: a scale and a table of 2^16 entries. s and b are
    learned per gate and unit; s starts at :math:`1 / \sqrt{n_{in} + n_{hidden}}`, where z has
    variance 1 for random signs, b at 1 for the forget gate and at 0 elsewhere.

    What differs from the usual cell: the products see signs of x and h only; one scale for both
    products of a field instead of real weights; c is bounded, so that a fixed-point state cannot
    overflow; and the learned thresholds θ, starting at 0. Without them the sign of h' would be that
    of c', and the output gate could not be seen by the next step. The form is this library's own.

    Parameters
    ----------
    n_in
        Features of the input, ±1.
    n_hidden
        Units.
    quantizer
        Key of ``QUANTIZERS``: the pseudo-gradient of the sign of h.
    weight_quantizer, simulate
        As for :class:`BinaryLayer`, for W and U. With a scaled quantizer n is a sum of reals.

    Raises
    ------
    ValueError
        If a number is not positive or a quantizer unknown.

    References
    ----------
    .. [1] Hochreiter, Schmidhuber (1997), Long short-term memory, Neural Computation 9(8).
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        *,
        quantizer: str = "ste_sign",
        weight_quantizer: str | Quantizer = "ste_sign",
        simulate: bool = False,
    ) -> None:
        super().__init__(n_in, n_hidden, 4, weight_quantizer, simulate)
        if quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer: expected one of {sorted(QUANTIZERS)}, got {quantizer!r}")
        self.sign = RSign(n_hidden, QUANTIZERS[quantizer])
        """sign(h + θ); θ is its ``shift``."""
        self.scale = nn.Parameter(torch.full((4 * n_hidden,), (n_in + n_hidden) ** -0.5))
        """s, shape (4 * n_hidden,): input, forget, candidate, output."""
        self.bias = nn.Parameter(torch.zeros(4 * n_hidden))
        """b, shape and order of ``scale``."""
        with torch.no_grad():
            self.bias[n_hidden : 2 * n_hidden] = 1.0

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take one step.

        Parameters
        ----------
        x
            Shape (N, n_in), ±1.
        state
            h and c, each (N, n_hidden); None is zeros.

        Returns
        -------
        tuple of Tensor
            h' and c', each (N, n_hidden).

        Raises
        ------
        TypeError, ValueError
            If a shape or dtype does not fit, or a value of ``x`` is seen not to be ±1.
        """
        self.check_input(x)
        h, c = (self.zeros(x), self.zeros(x)) if state is None else state
        self.check_state("h", h, len(x))
        self.check_state("c", c, len(x))
        fields = self.scale * (self.input(x) + self.hidden(self.sign(h))) + self.bias
        enter, forget, candidate, out = fields.chunk(4, dim=1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(candidate)
        c = c.clamp(-CELL_LIMIT, CELL_LIMIT)
        return torch.sigmoid(out) * torch.tanh(c), c
