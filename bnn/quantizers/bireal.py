"""The triangular pseudo-gradient of Bi-Real Net."""

from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.pseudo_gradients import sign_with_slope


def approx_sign(x: Tensor) -> Tensor:
    r"""Sign with the triangular pseudo-gradient of Bi-Real Net.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := 2 - 2|x| \text{ if } |x| \le 1 \text{ else } 0

    The derivative of the piecewise quadratic that approximates sign most closely among those which
    leave it only on [-1, 1].

    Parameters
    ----------
    x
        Any shape, floating.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward x itself is saved.

    References
    ----------
    .. [1] Liu et al. (2018), Bi-Real Net, arXiv:1808.00278.
    """
    return sign_with_slope(x, _triangle)


class ApproxSign(Quantizer):
    """:func:`approx_sign` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return approx_sign(x)


def _triangle(x: Tensor) -> Tensor:
    # 2 - 2|x| is negative exactly where |x| > 1, so one clamp is both branches.
    return (2 - 2 * x.abs()).clamp_(min=0)
