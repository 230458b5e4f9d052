"""Binary GRU cell: products of bits inside, the state in floats."""

import torch
from torch import Tensor, nn

from bnn.layers.recurrent import RecurrentCell
from bnn.layers.sign import Sign
from bnn.quantizers import Quantizer


class BinaryGRUCell(RecurrentCell):
    r"""One step of a GRU [1]_ whose matrix products are of ±1.

    .. math::

        m &= q(W) x, \qquad n = q(U) \operatorname{sign}(h), \qquad
             \text{rows } r, z, g \text{ of both} \\
        r &= \sigma(s_r \odot (m_r + n_r) + b_r) \\
        z &= \sigma(s_z \odot (m_z + n_z) + b_z) \\
        g &= \tanh(s_g \odot m_g + b_g + r \odot (t \odot n_g + d)) \\
        h' &= (1 - z) \odot g + z \odot h

    With signs as weights m and n are integers with the parity of ``n_in`` and ``n_hidden``, so that
    r and z are functions of an integer and g is a table of a sum of two scaled integers. s, b, t, d
    are learned per unit; s starts at :math:`1 / \sqrt{n_{in} + n_{hidden}}` for r and z and at
    :math:`1 / \sqrt{n_{in}}` for g, t at :math:`1 / \sqrt{n_{hidden}}`, b and d at 0. h stays
    in [-1, 1] if it starts there.

    What differs from the usual cell: the products see signs of x and h only, and scales stand in
    the place of real weights. The reset gate is applied after the product, as in torch and cuDNN:
    before it, as in [1]_, it could not change a sign. The form is this library's own.

    Parameters
    ----------
    n_in
        Features of the input, ±1.
    n_hidden
        Units.
    quantizer
        Key of ``QUANTIZERS``: the pseudo-gradient of the sign of h.
    weight_quantizer, simulate
        As for :class:`BinaryLayer`, for W and U. With a scaled quantizer m and n are reals.

    Raises
    ------
    ValueError
        If a number is not positive or a quantizer unknown.

    References
    ----------
    .. [1] Cho et al. (2014), Learning phrase representations using RNN encoder-decoder,
       arXiv:1406.1078.
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
        super().__init__(n_in, n_hidden, 3, weight_quantizer, simulate)
        self.sign = Sign(quantizer)
        self.scale = nn.Parameter(torch.full((3 * n_hidden,), (n_in + n_hidden) ** -0.5))
        """s, shape (3 * n_hidden,): reset, update, candidate."""
        self.bias = nn.Parameter(torch.zeros(3 * n_hidden))
        """b, shape and order of ``scale``."""
        self.hidden_scale = nn.Parameter(torch.full((n_hidden,), n_hidden**-0.5))
        """t, shape (n_hidden,)."""
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))
        """d, shape (n_hidden,)."""
        with torch.no_grad():
            self.scale[2 * n_hidden :] = n_in**-0.5

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """Take one step.

        Parameters
        ----------
        x
            Shape (N, n_in), ±1.
        state
            h, shape (N, n_hidden); None is zeros.

        Returns
        -------
        Tensor
            h', shape (N, n_hidden).

        Raises
        ------
        TypeError, ValueError
            If a shape or dtype does not fit, or a value of ``x`` is seen not to be ±1.
        """
        self.check_input(x)
        h = self.zeros(x) if state is None else state
        self.check_state("h", h, len(x))
        of_input, of_hidden = self.input(x), self.hidden(self.sign(h))
        n_gates = 2 * self.n_hidden
        sums = of_input[:, :n_gates] + of_hidden[:, :n_gates]
        gates = torch.sigmoid(self.scale[:n_gates] * sums + self.bias[:n_gates])
        reset, update = gates.chunk(2, dim=1)
        recurrent = self.hidden_scale * of_hidden[:, n_gates:] + self.hidden_bias
        field = self.scale[n_gates:] * of_input[:, n_gates:] + self.bias[n_gates:]
        candidate = torch.tanh(field + reset * recurrent)
        return (1 - update) * candidate + update * h
