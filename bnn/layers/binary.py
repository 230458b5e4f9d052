"""What all binary layers share: latent weights, their quantizer, and the choice of the path.

A layer multiplies ±1 activations with quantised weights. There are two paths with the same result:
*packed*, a product of bits by :mod:`kernels.torch_ops`, and *simulated*, torch's own operator on
the same values as floats. Simulated are float64, layers built with ``simulate=True``, and weights
that no bit can hold (ternary, k-bit, {0, 1}).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnn.layers.unclipped import n_beyond, warn
from bnn.quantizers import (
    QUANTIZER_MODULES,
    DoReFa,
    EdeSign,
    IdentitySign,
    IRNetSign,
    Quantizer,
    ReCUSign,
    SteSign,
    StochasticSign,
    SwishSign,
)

_STANDARDISING = (DoReFa, IRNetSign, ReCUSign)
"""Quantizers that divide by a statistic of the weights: every scale of them is the same layer."""
_WITHOUT_CLIP = (EdeSign, IdentitySign, SwishSign)
"""Quantizers that pass a gradient on to any weight, however large."""


class BinaryLayer(nn.Module):
    """A layer with latent weights; the base of all that multiply with their signs.

    Parameters
    ----------
    shape
        Of the latent weights; the first axis is the output channel. They start at 0.
    weight_quantizer
        Key of ``QUANTIZER_MODULES`` or an instance. Weights of ±1 times a positive factor per
        channel take the packed path, and the factor is multiplied after; others are simulated.
    simulate
        Never take the packed path.

    Raises
    ------
    ValueError
        If the quantizer is unknown or its name does not say enough to build it.
    """

    def __init__(
        self, shape: Sequence[int], weight_quantizer: str | Quantizer, simulate: bool
    ) -> None:
        super().__init__()
        self.latent_weight = nn.Parameter(torch.zeros(*shape))
        self.weight_quantizer = as_quantizer(weight_quantizer)
        self.simulate = simulate
        self._n_passes = 0
        self._has_warned = False
        self._n_beyond: int | None = None

    @property
    def latent_drifts(self) -> bool:
        """Whether a latent weight beyond ``latent_limit`` still gets a gradient."""
        return isinstance(self.weight_quantizer, _WITHOUT_CLIP)

    @property
    def latent_limit(self) -> float:
        """Bound of :meth:`clip_latent`: the quantizer's clip if it has one, else 1.

        Infinite for quantizers that standardise the weights themselves.
        """
        if isinstance(self.weight_quantizer, _STANDARDISING):
            return math.inf
        return float(getattr(self.weight_quantizer, "clip", 1.0))

    @torch.no_grad()
    def clip_latent(self) -> None:
        """Clip the latent weights to ±``latent_limit``; to be called after each step."""
        if self.latent_limit < math.inf:
            self.latent_weight.clamp_(-self.latent_limit, self.latent_limit)

    def factors(self, *, simulated: bool = False) -> tuple[Tensor, Tensor | None]:
        r"""Quantised weights as the product takes them, and the positive factor that follows it.

        .. math:: q(w)_c = s_c \, b_c, \qquad y_c = s_c \, (b_c \cdot x)

        so that the product is one of integers also where the weights are ±α. s is a constant in
        backward and b is q / s, hence the gradient that reaches the quantizer is that of q.

        Parameters
        ----------
        simulated
            Whether the product is torch's own, which takes no signs by itself.

        Returns
        -------
        tuple
            b, shape of the latent weights: ±1, or the levels of the quantizer. For
            :func:`~bnn.quantizers.ste_sign` on the packed path it is the latent weight itself,
            whose sign and clipped gradient are the operator's own; so no copy is saved.
            s, shape (n_out,), or None for 1. A channel whose factor is 0 gives 0 and gets no
            gradient.
        """
        quantizer, weight = self.weight_quantizer, self.latent_weight
        if isinstance(quantizer, StochasticSign):
            quantizer.row_begin = 0  # a row here is a channel, whatever sample is the shard's first
        if not simulated and self._is_operators_own():
            return weight, None
        quantised: Tensor = quantizer(weight)
        if not quantizer.is_scaled:
            return quantised, None
        scale = quantised.detach().abs().flatten(1).amax(dim=1)
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
        return quantised / divisor.reshape(-1, *[1] * (weight.dim() - 1)), scale

    def is_packed(self, x: Tensor) -> bool:
        """Whether ``x`` takes the packed path."""
        return (
            not self.simulate
            and self.weight_quantizer.levels == (-1.0, 1.0)
            and torch.float64 not in (x.dtype, self.latent_weight.dtype)
        )

    def inspect(self, x: Tensor) -> None:
        """Look whether ``x`` is ±1 and the latent weights are clipped, but not every time.

        A look at every value costs as much as packing it, so only the passes 1, 2, 4, 8, ... of
        this layer look; code compiled by ``torch.compile`` never does.

        Raises
        ------
        ValueError
            If a value of ``x`` is not ±1.
        """
        if torch.compiler.is_compiling():
            return
        self._n_passes += 1
        if self._n_passes & (self._n_passes - 1):
            return
        self.check_values(x)
        if self.training:
            self._look_at_clip()

    @torch.no_grad()
    def check_values(self, x: Tensor) -> None:
        """Refuse activations that are not ±1.

        Raises
        ------
        ValueError
            If so.
        """
        if bool((x.abs() == 1).all()):
            return
        odd = x[x.abs() != 1]
        raise ValueError(
            f"{self._described()}: expected activations -1 and +1, got {odd.numel()} others of "
            f"{x.numel()}, the first {odd[0].item():g}; put a Sign() before it"
        )

    def _described(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _look_at_clip(self) -> None:
        """Warn, once, of more weights beyond the clip than there were at first.

        Those were given by who built the network; more of them are the work of an optimizer.
        """
        n = n_beyond(self)
        if self._n_beyond is None:
            self._n_beyond = n
        elif n > self._n_beyond and not self._has_warned:
            self._has_warned = True
            warn(self, self._described(), n)

    def _is_operators_own(self) -> bool:
        return type(self.weight_quantizer) is SteSign and self.weight_quantizer.clip == 1.0


def as_quantizer(quantizer: str | Quantizer) -> Quantizer:
    """Build the quantizer of a name with its defaults; an instance is itself.

    Raises
    ------
    ValueError
        If there is none of this name, or it has no defaults.
    """
    if isinstance(quantizer, Quantizer):
        return quantizer
    if quantizer not in QUANTIZER_MODULES:
        raise ValueError(
            f"weight_quantizer: expected one of {sorted(QUANTIZER_MODULES)} or a Quantizer, "
            f"got {quantizer!r}"
        )
    if quantizer == "dorefa":
        return DoReFa(mode="weights")
    try:
        return QUANTIZER_MODULES[quantizer]()
    except TypeError:
        raise ValueError(
            f"weight_quantizer: expected an instance of "
            f"{QUANTIZER_MODULES[quantizer].__name__}, which has no defaults, got its name"
        ) from None


def scaled(y: Tensor, scale: Tensor | None) -> Tensor:
    """``y``, shape (N, C, ...), times the factor of each channel; None is 1."""
    return y if scale is None else y * scale.reshape(-1, *[1] * (y.dim() - 2))
