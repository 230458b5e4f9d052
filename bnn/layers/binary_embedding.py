"""Binary embedding: a table of vectors of ±1, a bit per entry and dimension."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.layers.binary import BinaryLayer
from bnn.layers.windows import check_channels
from bnn.quantizers import Quantizer
from kernels import torch_ops


class BinaryEmbedding(BinaryLayer):
    r"""Rows of a table of signs.

    .. math:: y_n = q(W)_{k_n}

    The packed path packs the table and looks up words, so what moves is one bit per value; for
    backward the numbers k are saved. The gradient of a row is the sum of those of its look-ups,
    then the quantizer's own.

    Parameters
    ----------
    n_entries
        Rows of the table.
    n_dim
        Values of a row.
    weight_quantizer, simulate
        As for :class:`BinaryLayer`; a scale belongs to a row.

    Raises
    ------
    ValueError
        If a number is not positive or the quantizer unknown.
    """

    def __init__(
        self,
        n_entries: int,
        n_dim: int,
        *,
        weight_quantizer: str | Quantizer = "ste_sign",
        simulate: bool = False,
    ) -> None:
        check_channels(n_entries, n_dim)
        super().__init__((n_entries, n_dim), weight_quantizer, simulate)
        self.n_entries = n_entries
        self.n_dim = n_dim

    def forward(self, entries: Tensor) -> Tensor:
        """Look up ``entries``, any shape (...), integers in [0, n_entries), to (..., n_dim).

        Raises
        ------
        TypeError, ValueError
            If they are no integers or, at the passes of :meth:`inspect`, out of range; at others
            torch refuses them with an IndexError.
        """
        if entries.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"entries: expected int64 or int32, got {entries.dtype}; use .long()")
        self.inspect(entries)
        weight, scale = self.factors(simulated=True)
        if self.is_packed(weight):
            y: Tensor = _PackedLookup.apply(weight, entries)  # type: ignore[no-untyped-call]
        else:
            y = F.embedding(entries, weight)
        return y if scale is None else y * scale[entries].unsqueeze(-1)

    def check_values(self, x: Tensor) -> None:
        """Refuse entries that are out of range.

        Raises
        ------
        ValueError
            If so.
        """
        if x.numel() and (int(x.min()) < 0 or int(x.max()) >= self.n_entries):
            raise ValueError(
                f"entries: expected 0 <= entry < {self.n_entries}, "
                f"got {int(x.min())} to {int(x.max())}"
            )

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_entries}, {self.n_dim}"


class _PackedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signs: Tensor, entries: Tensor) -> Tensor:
        ctx.save_for_backward(entries)
        ctx.table = signs.shape
        words = torch_ops.pack(signs.detach().float().contiguous())
        rows = words.index_select(0, entries.reshape(-1))  # refuses what is out of range
        values = torch_ops.unpack_signs(rows, signs.shape[1]).to(signs.dtype)
        return values.view(*entries.shape, signs.shape[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (entries,) = ctx.saved_tensors
        gradient = grad_outputs[0].reshape(-1, ctx.table[1])
        table = gradient.new_zeros(ctx.table)
        return table.index_add_(0, entries.reshape(-1), gradient), None
