"""XNOR-Net's scaled weights: the sign times the mean magnitude of an output channel."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer, channel_rows, per_channel
from bnn.quantizers.pseudo_gradients import sign
from bnn.quantizers.ste import check_clip, ste_sign

ScaleGradient: TypeAlias = Literal["detached", "exact"]
"""Whether the scale counts as a constant in backward."""
_SCALE_GRADIENTS = ("detached", "exact")


def magnitude_aware_sign(
    weights: Tensor, clip: float = 1.0, *, scale_gradient: ScaleGradient = "detached"
) -> Tensor:
    r"""Signs of weights times the mean magnitude of their output channel.

    .. math:: q(w)_i = \alpha \operatorname{sign}(w_i), \qquad
              \alpha = \frac{1}{n} \sum_{j=1}^{n} |w_j|

    over the n weights of a channel: of all :math:`\alpha B`, B of ±1, the closest to w. With g the
    gradient by q, "detached" [2]_ is

    .. math:: \frac{\partial L}{\partial w_i} := \alpha \, g_i \, [|w_i| \le c]

    and "exact" also differentiates the scale:

    .. math:: \frac{\partial L}{\partial w_i} := \alpha \, g_i \, [|w_i| \le c]
              + \frac{\operatorname{sign}(w_i)}{n} \sum_j \operatorname{sign}(w_j) \, g_j

    Parameters
    ----------
    weights
        Shape (C_out, ...), floating, two or more axes.
    clip
        The bound c, inclusive.
    scale_gradient
        One of the two above. The published gradient of [1]_ keeps only the term j = i of the sum
        and is not offered.

    Returns
    -------
    Tensor
        ±α of each channel, shape and dtype of ``weights``; "detached" saves one bit per element,
        "exact" two tensors of the shape of ``weights``. A channel of zeros gives zeros.

    Raises
    ------
    ValueError
        If ``clip`` is not positive, ``scale_gradient`` another word, or an axis is missing.

    References
    ----------
    .. [1] Rastegari et al. (2016), XNOR-Net, arXiv:1603.05279.
    .. [2] Liu et al. (2018), Bi-Real Net, arXiv:1808.00278.
    """
    _check_scale_gradient(scale_gradient)
    rows = channel_rows(weights)
    signs = ste_sign(weights, clip)
    if scale_gradient == "detached":
        return per_channel(magnitude(weights), weights) * signs
    # |w| written as a product, because the derivative of abs at 0 is 0 and sign(0) is +1.
    scale = (rows * sign(rows)).mean(dim=1)
    return per_channel(scale, weights) * signs


class MagnitudeAware(Quantizer):
    """:func:`magnitude_aware_sign` as a module; parameters and errors as there."""

    is_scaled = True

    def __init__(self, clip: float = 1.0, *, scale_gradient: ScaleGradient = "detached") -> None:
        super().__init__()
        check_clip(clip)
        _check_scale_gradient(scale_gradient)
        self.clip = clip
        self.scale_gradient: ScaleGradient = scale_gradient

    def forward(self, weights: Tensor) -> Tensor:
        """Binarise ``weights``, shape (C_out, ...)."""
        return magnitude_aware_sign(weights, self.clip, scale_gradient=self.scale_gradient)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"clip={self.clip}, scale_gradient={self.scale_gradient!r}"


@torch.no_grad()
def magnitude(weights: Tensor) -> Tensor:
    """The scale α of each output channel, shape (C_out,)."""
    return channel_rows(weights).abs().mean(dim=1)


def _check_scale_gradient(scale_gradient: str) -> None:
    if scale_gradient not in _SCALE_GRADIENTS:
        raise ValueError(
            f"scale_gradient: expected one of {_SCALE_GRADIENTS}, got {scale_gradient!r}"
        )
