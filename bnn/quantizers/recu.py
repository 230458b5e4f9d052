"""ReCU: weights far out on the tail are clamped to a quantile, which brings them back to life."""

import math

from torch import Tensor

from bnn.quantizers.base import Quantizer, channel_rows, check_progress, widened
from bnn.quantizers.bireal import approx_sign
from bnn.quantizers.ste import identity_sign

_EPS = 1e-5
"""Added to variances, as in the authors' code."""
_LAPLACE_STD = 2 * math.sqrt(2)
"""Weights are brought to this standard deviation."""


def recu_schedule(progress: float, *, tau_min: float = 0.85, tau_max: float = 0.99) -> float:
    r"""Quantile at which weights are clamped, in the course of training.

    .. math:: \tau = A e^{p} + B, \qquad A = \frac{\tau_{\max} - \tau_{\min}}{e - 1}, \qquad
              B = \tau_{\min} - A

    Parameters
    ----------
    progress
        p = epoch / epochs, in [0, 1].
    tau_min, tau_max
        First and last value.

    Returns
    -------
    float
        τ.

    Raises
    ------
    ValueError
        If ``progress`` or the bounds are out of range.
    """
    check_progress(progress)
    if not 0.5 < tau_min <= tau_max <= 1:
        raise ValueError(
            f"tau_min, tau_max: expected 0.5 < tau_min <= tau_max <= 1, got {tau_min} and {tau_max}"
        )
    rate = (tau_max - tau_min) / (math.e - 1)
    return min(rate * math.exp(progress) + tau_min - rate, tau_max)


def recu_sign(weights: Tensor, tau: float = 0.85) -> Tensor:
    r"""Signs of standardised weights that are clamped to a quantile.

    .. math:: q(w) = \operatorname{sign}(\operatorname{clip}(\hat w, -Q, Q)), \qquad
              \hat w = 2 \sqrt 2 \, \frac{w - \bar w}{\sqrt{\operatorname{var} w + 10^{-5}}},
              \qquad Q = -\overline{|\hat w|} \ln(2 - 2 \tau), \qquad
              \frac{\partial q}{\partial \hat w} := [|\hat w| \le Q]

    Mean and variance (of n - 1) are the channel's and are differentiated; Q, the τ-quantile of a
    Laplace distribution with the layer's mean magnitude, is a constant in backward. A weight beyond
    it gets no gradient of its own, only that of its channel's mean and variance.

    Parameters
    ----------
    weights
        Shape (C_out, ...), floating, two or more weights per channel.
    tau
        τ, above 0.5; 1 clamps nothing.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``weights``; the learned scale per channel that the paper multiplies
        with belongs to the layer. For backward the standardised weights are saved.

    Raises
    ------
    ValueError
        If ``tau`` is out of its range or the shape is another.

    References
    ----------
    .. [1] Xu et al. (2021), ReCU: reviving the dead weights in binary neural networks,
       arXiv:2103.12369.
    """
    if not 0.5 < tau <= 1:
        raise ValueError(f"tau: expected 0.5 < tau <= 1, got {tau}")
    rows = channel_rows(widened(weights), n_least=2)
    centred = rows - rows.mean(dim=1, keepdim=True)
    deviation = (centred.var(dim=1, keepdim=True) + _EPS).sqrt()
    standard = _LAPLACE_STD * centred / deviation
    if tau < 1:
        quantile = -math.log(2 - 2 * tau) * standard.detach().abs().mean()
        standard = standard.clamp(-quantile, quantile)
    return identity_sign(standard.view_as(weights)).to(weights.dtype)


def recu_activations(x: Tensor) -> Tensor:
    r"""Signs of activations that are divided by the standard deviation of their sample.

    .. math:: q(x) = \operatorname{sign}(\hat x), \qquad
              \hat x = x / \sqrt{\operatorname{var} x + 10^{-5}}, \qquad
              \frac{\partial q}{\partial \hat x} := 2 - 2|\hat x|
              \text{ if } |\hat x| \le 1 \text{ else } 0

    The variance (of n - 1) is the sample's over everything but the first axis, differentiated. The
    division changes gradients only, so nothing of it is left in an exported network.

    Parameters
    ----------
    x
        Shape (N, ...), floating, two or more activations per sample.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward x and its quotient are saved.

    Raises
    ------
    ValueError
        If the shape is another.

    References
    ----------
    .. [1] Xu et al. (2021), ReCU, arXiv:2103.12369; from the authors' code.
    """
    if x.dim() < 2 or x[:1].numel() == 1:
        raise ValueError(
            f"x: expected shape (N, ...) with 2 or more values of each, got {tuple(x.shape)}"
        )
    wide = widened(x)
    variance = wide.var(dim=tuple(range(1, x.dim())), keepdim=True)
    return approx_sign(wide / (variance + _EPS).sqrt()).to(x.dtype)


class ReCUSign(Quantizer):
    """:func:`recu_sign` with the schedule of :func:`recu_schedule`, as a module for weights.

    Parameters and errors are those of the schedule; it starts at progress 0.
    """

    def __init__(self, *, tau_min: float = 0.85, tau_max: float = 0.99) -> None:
        super().__init__()
        self.tau_min = tau_min
        self.tau_max = tau_max
        self.tau = recu_schedule(0.0, tau_min=tau_min, tau_max=tau_max)

    def set_progress(self, progress: float) -> None:
        """Take τ of ``progress`` = epoch / epochs, in [0, 1]."""
        self.tau = recu_schedule(progress, tau_min=self.tau_min, tau_max=self.tau_max)

    def forward(self, weights: Tensor) -> Tensor:
        """Binarise ``weights``, shape (C_out, ...)."""
        return recu_sign(weights, self.tau)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"tau_min={self.tau_min}, tau_max={self.tau_max}"


class ReCUActivations(Quantizer):
    """:func:`recu_activations` in training mode, :func:`approx_sign` (same values) otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, shape (N, ...)."""
        return recu_activations(x) if self.training else approx_sign(x)
