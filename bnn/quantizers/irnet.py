"""IR-Net: balanced weights with a scale that is a shift, and the error decay estimator (EDE)."""

import math
from functools import partial

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer, channel_rows, check_progress, per_channel, widened
from bnn.quantizers.pseudo_gradients import sign_with_slope

_LEAST_VARIANCE = 1e-12
"""A channel of (nearly) equal weights is centred, but not divided by its standard deviation."""


def ede_schedule(
    progress: float, *, t_min: float = 1e-3, t_max: float = 10.0
) -> tuple[float, float]:
    r"""Steepness t and gain k of the estimator in the course of training.

    .. math:: t = T_{\min} (T_{\max} / T_{\min})^p, \qquad k = \max(1/t, 1)

    The slope at 0, k t, is 1 until t = 1 and t afterwards: first nearly the identity, at last
    nearly the derivative of sign.

    Parameters
    ----------
    progress
        p = epoch / epochs, in [0, 1].
    t_min, t_max
        The defaults are those of the authors' code; the paper starts at 0.1 (from memory).

    Returns
    -------
    tuple of float
        t and k.

    Raises
    ------
    ValueError
        If ``progress`` or the bounds are out of range.
    """
    check_progress(progress)
    if not 0 < t_min <= t_max:
        raise ValueError(f"t_min, t_max: expected 0 < t_min <= t_max, got {t_min} and {t_max}")
    t = 10.0 ** (math.log10(t_min) + progress * math.log10(t_max / t_min))
    return t, max(1.0 / t, 1.0)


def ede_sign(x: Tensor, t: float = 1.0, k: float = 1.0) -> Tensor:
    r"""Sign with the derivative of a scaled tanh as its pseudo-gradient.

    .. math:: q(x) = +1 \text{ if } x \ge 0 \text{ else } -1, \qquad
              \frac{\partial q}{\partial x} := k t (1 - \tanh^2 t x)

    the derivative of :math:`k \tanh t x`; its integral is 2k.

    Parameters
    ----------
    x
        Any shape, floating.
    t, k
        Steepness and gain, positive; :func:`ede_schedule` gives both.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward x itself is saved.

    Raises
    ------
    ValueError
        If ``t`` or ``k`` is not positive.

    References
    ----------
    .. [1] Qin et al. (2020), Forward and backward information retention for accurate binary
       neural networks (IR-Net), arXiv:1909.10788.
    """
    if not (t > 0 and k > 0):
        raise ValueError(f"t, k: expected both > 0, got {t} and {k}")
    return sign_with_slope(x, partial(_ede_slope, t=t, k=k))


def irnet_sign(weights: Tensor, t: float = 1.0, k: float = 1.0) -> Tensor:
    r"""Signs of standardised weights times a power of two per output channel.

    .. math:: q(w) = 2^{r} \operatorname{sign}(\hat w), \qquad
              \hat w = \frac{w - \bar w}{\operatorname{std} w}, \qquad
              r = \operatorname{round} \log_2 \overline{|\hat w|}, \qquad
              \frac{\partial q}{\partial \hat w} := 2^{r} k t (1 - \tanh^2 t \hat w)

    Mean and standard deviation (of n - 1) are the channel's and are differentiated; r is a
    constant in backward.

    Parameters
    ----------
    weights
        Shape (C_out, ...), floating, two or more weights per channel.
    t, k
        As for :func:`ede_sign`.

    Returns
    -------
    Tensor
        Shape and dtype of ``weights``; for backward the standardised weights are saved. A channel
        of zeros gives +1.

    Raises
    ------
    ValueError
        If ``t`` or ``k`` is not positive or the shape is another.

    References
    ----------
    .. [1] Qin et al. (2020), IR-Net, arXiv:1909.10788.
    """
    rows = channel_rows(widened(weights), n_least=2)
    centred = rows - rows.mean(dim=1, keepdim=True)
    variance = centred.var(dim=1, keepdim=True)
    is_spread = variance > _LEAST_VARIANCE
    standard = centred / torch.where(is_spread, variance, torch.ones_like(variance)).sqrt()
    scale = per_channel(_power_of_two(standard.detach().abs().mean(dim=1)), weights)
    return (scale * ede_sign(standard.view_as(weights), t, k)).to(weights.dtype)


class EdeSign(Quantizer):
    """:func:`ede_sign` with its schedule, as a module for activations.

    Parameters and errors are those of :func:`ede_schedule`; it starts at progress 0.
    """

    def __init__(self, *, t_min: float = 1e-3, t_max: float = 10.0) -> None:
        super().__init__()
        self.t_min = t_min
        self.t_max = t_max
        self.t, self.k = ede_schedule(0.0, t_min=t_min, t_max=t_max)

    def set_progress(self, progress: float) -> None:
        """Take t and k of ``progress`` = epoch / epochs, in [0, 1]."""
        self.t, self.k = ede_schedule(progress, t_min=self.t_min, t_max=self.t_max)

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return ede_sign(x, self.t, self.k)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"t_min={self.t_min}, t_max={self.t_max}"


class IRNetSign(EdeSign):
    """:func:`irnet_sign` with the schedule of :func:`ede_schedule`, as a module for weights."""

    is_scaled = True

    def forward(self, weights: Tensor) -> Tensor:
        """Binarise ``weights``, shape (C_out, ...)."""
        return irnet_sign(weights, self.t, self.k)


def _ede_slope(x: Tensor, t: float, k: float) -> Tensor:
    y = torch.tanh(t * x)
    return k * t * (1 - y * y)


def _power_of_two(x: Tensor) -> Tensor:
    """The power of two nearest on a logarithmic scale, exactly; 1 for 0."""
    fraction, _ = torch.frexp(x)  # x = fraction * 2^e, 1/2 <= fraction < 1
    upper = x / fraction  # 2^e without an error, which exp2 does not promise
    nearest = torch.where(fraction >= math.sqrt(0.5), upper, upper / 2)
    return torch.where(x > 0, nearest, torch.ones_like(x))
