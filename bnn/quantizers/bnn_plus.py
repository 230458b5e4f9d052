"""SignSwish, the pseudo-gradient of BNN+."""

from functools import partial

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer, widened
from bnn.quantizers.pseudo_gradients import sign_with_slope

_LARGEST = 80.0
"""Of |beta x|: the slope beyond is below 1e-31, and infinity times 0 must not be met."""


def swish_sign(x: Tensor, beta: float = 5.0) -> Tensor:
    r"""Sign with the derivative of a swish-like function as its pseudo-gradient.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} :=
              \frac{\beta (2 - \beta x \tanh(\beta x / 2))}{1 + \cosh \beta x}

    the derivative of :math:`2 \sigma(\beta x) (1 + \beta x (1 - \sigma(\beta x))) - 1`. It is
    :math:`\beta` at 0 and negative for :math:`|\beta x| > 2.4`, and its integral is 2.

    Parameters
    ----------
    x
        Any shape, floating.
    beta
        Steepness; the larger, the closer to sign.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward x itself is saved.

    Raises
    ------
    ValueError
        If ``beta`` is not positive.

    Notes
    -----
    Evaluated with :math:`1/(1 + \cosh u) = 2 \sigma(u) \sigma(-u)`, which does not overflow.

    References
    ----------
    .. [1] Darabi et al. (2018), BNN+: improved binary network training, arXiv:1812.11800.
    """
    _check_beta(beta)
    return sign_with_slope(x, partial(_swish_slope, beta=beta))


class SwishSign(Quantizer):
    """:func:`swish_sign` as a module; parameter and errors are those of the function."""

    def __init__(self, beta: float = 5.0) -> None:
        super().__init__()
        _check_beta(beta)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return swish_sign(x, self.beta)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"beta={self.beta}"


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta: expected beta > 0, got {beta}")


def _swish_slope(x: Tensor, beta: float) -> Tensor:
    u = (beta * widened(x)).clamp(-_LARGEST, _LARGEST)
    bell = torch.sigmoid(u) * torch.sigmoid(-u)
    return (2 * beta * bell * (2 - u * torch.tanh(u / 2))).to(x.dtype)
