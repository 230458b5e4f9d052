"""DoReFa-Net's uniform levels of k bits, for activations and for weights."""

from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.pseudo_gradients import straight_through

Mode: TypeAlias = Literal["activations", "weights"]
"""What is quantised: values of [0, 1], or weights of any range."""
_MODES = ("activations", "weights")


def dorefa_activations(x: Tensor, n_bits: int = 2) -> Tensor:
    r"""Round to one of the :math:`2^k` equally spaced levels of [0, 1].

    .. math:: q(x) = \operatorname{round}(n \operatorname{clip}(x, 0, 1)) / n, \quad n = 2^k - 1,
              \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } 0 \le x \le 1 \text{ else } 0

    Parameters
    ----------
    x
        Any shape, floating. Half way between two levels the one with the even number is taken.
    n_bits
        k, 1 to 8.

    Returns
    -------
    Tensor
        Levels i / n, shape and dtype of ``x``; for backward it saves one bit per element.

    Raises
    ------
    ValueError
        If ``n_bits`` is out of its range.

    References
    ----------
    .. [1] Zhou et al. (2016), DoReFa-Net, arXiv:1606.06160.
    """
    _check_bits(n_bits)
    return straight_through(x, partial(_round_to_levels, n_steps=2**n_bits - 1), (0.0, 1.0))


def dorefa_weights(weights: Tensor, n_bits: int = 2) -> Tensor:
    r"""Squash weights by tanh and round to :math:`2^k` equally spaced levels of [-1, 1].

    .. math:: q(w) = 2 \operatorname{round}\Bigl(n \Bigl(\frac{\tanh w}{2 M} + \frac{1}{2}\Bigr)
              \Bigr) / n - 1, \quad M = \max_j |\tanh w_j|, \quad n = 2^k - 1, \qquad
              \frac{\partial q}{\partial w} := (1 - \tanh^2 w) / M

    The maximum is a constant in backward, and rounding is the identity.

    Parameters
    ----------
    weights
        Any shape, floating; the maximum runs over all of them.
    n_bits
        k, 1 to 8. One bit gives ±1 of these formulas; the paper's own one-bit weights are scaled
        signs, :func:`~bnn.quantizers.magnitude_aware_sign`.

    Returns
    -------
    Tensor
        Levels 2i / n - 1, shape and dtype of ``weights``; for backward ``tanh w`` is saved.

    Raises
    ------
    ValueError
        If ``n_bits`` is out of its range.

    References
    ----------
    .. [1] Zhou et al. (2016), DoReFa-Net, arXiv:1606.06160, equation 9.
    """
    _check_bits(n_bits)
    squashed = torch.tanh(weights)
    largest = squashed.detach().abs().max()
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    unit = squashed / (2 * largest) + 0.5
    return 2 * dorefa_activations(unit, n_bits) - 1


class DoReFa(Quantizer):
    """:func:`dorefa_activations` or :func:`dorefa_weights` as a module; parameters as there."""

    def __init__(self, n_bits: int = 2, mode: Mode = "activations") -> None:
        super().__init__()
        _check_bits(n_bits)
        if mode not in _MODES:
            raise ValueError(f"mode: expected one of {_MODES}, got {mode!r}")
        self.mode: Mode = mode
        n = 2**n_bits - 1
        is_signed = mode == "weights"
        self.levels = tuple(2 * (i / n) - 1 if is_signed else i / n for i in range(n + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x``, any shape, to the levels."""
        quantize = dorefa_activations if self.mode == "activations" else dorefa_weights
        return quantize(x, self.n_bits)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"n_bits={self.n_bits}, mode={self.mode!r}"


def _check_bits(n_bits: int) -> None:
    if not 1 <= n_bits <= 8:
        raise ValueError(f"n_bits: expected 1 to 8, got {n_bits}")


def _round_to_levels(x: Tensor, n_steps: int) -> Tensor:
    return torch.round(x.clamp(0, 1) * n_steps) / n_steps
