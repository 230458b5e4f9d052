"""Sign drawn at random, as in BinaryConnect, with draws that have an address."""

from functools import partial

import torch
from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.pseudo_gradients import straight_through
from bnn.quantizers.ste import ste_sign
from kernels import Purpose, torch_ops


def stochastic_sign(x: Tensor, *, seed: int, step: int, layer: int, row_begin: int = 0) -> Tensor:
    r"""Draw +1 with a probability that grows with x.

    .. math:: q(x) = +1 \text{ with probability } \operatorname{clip}((x + 1) / 2, 0, 1)
              \text{, else } -1, \qquad
              \frac{\partial q}{\partial x} := 1 \text{ if } |x| \le 1 \text{ else } 0

    The pseudo-gradient is that of the mean, which is clip(x, -1, 1).

    Parameters
    ----------
    x
        Shape (rows, ...), floating: samples, or output channels of a weight. At or below -1 it is
        always -1, at or above 1 always +1, NaN is -1. The probability is computed in float32.
    seed
        0 <= seed < 2**64.
    step, layer
        32 and 24 bits. Two draws with the same seed, step and layer are the same.
    row_begin
        Global number of the first row within the step, so that a batch may be split.

    Returns
    -------
    Tensor
        ±1, shape and dtype of ``x``; for backward it saves one bit per element.

    Raises
    ------
    ValueError
        If ``x`` has no rows to number, or a number does not fit.

    Notes
    -----
    Philox with the purpose of dropout; counter (element // 4, row, step, purpose and layer), the
    element counted within its row.

    References
    ----------
    .. [1] Courbariaux, Bengio, David (2015), BinaryConnect, arXiv:1511.00363.
    """
    if x.dim() == 0:
        raise ValueError("x: expected shape (rows, ...), got (); reshape to (1,)")
    _check_seed(seed)
    draw = partial(_draw, seed=seed, step=step, layer=layer, row_begin=row_begin)
    return straight_through(x, draw, (-1.0, 1.0))


class StochasticSign(Quantizer):
    """:func:`stochastic_sign` in training mode, :func:`ste_sign` otherwise.

    Before each training step :meth:`set_step` has to say which it is: without, every step would
    repeat the draws of the last. Parameters and errors are those of the function.
    """

    def __init__(self, *, seed: int, layer: int) -> None:
        super().__init__()
        _check_seed(seed)
        self.seed = seed
        self.layer = layer
        self.step: int | None = None
        self.row_begin = 0

    def set_step(self, step: int, row_begin: int = 0) -> None:
        """Say which step is next and the global number of the first row it will be given."""
        self.step = step
        self.row_begin = row_begin

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, shape (rows, ...)."""
        if not self.training:
            return ste_sign(x)
        if self.step is None:
            raise RuntimeError("step: expected set_step(step) before a pass in training mode")
        return stochastic_sign(
            x, seed=self.seed, step=self.step, layer=self.layer, row_begin=self.row_begin
        )

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"seed={self.seed}, layer={self.layer}"


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")


def _draw(x: Tensor, *, seed: int, step: int, layer: int, row_begin: int) -> Tensor:
    if not x.numel():
        return torch.empty_like(x)
    # The operator takes p <= 0 as never and p >= 1 as always, which is the clip.
    p = ((x.to(torch.float32) + 1) / 2).reshape(len(x), -1).contiguous()
    words = torch_ops.bernoulli_probabilities(
        p, seed=seed, purpose=Purpose.DROPOUT, step=step, index=layer, row_begin=row_begin
    )
    signs = torch_ops.unpack_signs(words, p.shape[1]).view(x.shape)
    return torch.empty_like(x).copy_(signs)
