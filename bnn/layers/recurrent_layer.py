"""A recurrent cell run over the steps of a sequence."""

from typing import Final

import torch
from torch import Tensor, nn

from bnn.layers.binary_gru import BinaryGRUCell
from bnn.layers.binary_lstm import BinaryLSTMCell

OUTPUTS: Final = ("last", "all")
"""What :class:`Recurrent` returns: the last state, or the states of all steps."""


class Recurrent(nn.Module):
    r"""Run a cell over a sequence, from a state of zeros on.

    .. math:: h_t = \text{cell}(x_t, h_{t-1}), \qquad t = 1 \dots L, \quad h_0 = 0

    Parameters
    ----------
    cell
        :class:`BinaryLSTMCell` or :class:`BinaryGRUCell`.
    output
        "last" returns h_L, shape (N, H); "all" returns all h_t, shape (N, H, L).

    Raises
    ------
    ValueError
        If the cell or the output is another one.
    """

    def __init__(self, cell: BinaryLSTMCell | BinaryGRUCell, *, output: str = "last") -> None:
        super().__init__()
        if not isinstance(cell, BinaryLSTMCell | BinaryGRUCell):
            raise ValueError(
                f"cell: expected a BinaryLSTMCell or BinaryGRUCell, got {type(cell).__name__}"
            )
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {list(OUTPUTS)}, got {output!r}")
        self.cell = cell
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Run over ``x``, shape (N, F, L), values ±1.

        Raises
        ------
        TypeError, ValueError
            If there is no step, or as the cell.
        """
        if x.dim() != 3 or x.shape[1] != self.cell.n_in or x.shape[2] < 1:
            raise ValueError(
                f"x: expected shape (N, {self.cell.n_in}, L) with L > 0, got {tuple(x.shape)}"
            )
        states = self._states(x)
        return states[-1] if self.output == "last" else torch.stack(states, dim=2)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"output={self.output!r}"

    def _states(self, x: Tensor) -> list[Tensor]:
        """H of every step, each (N, H)."""
        states = []
        cell = self.cell
        if isinstance(cell, BinaryLSTMCell):
            pair: tuple[Tensor, Tensor] | None = None
            for step in x.unbind(dim=2):
                pair = cell(step, pair)
                states.append(pair[0])
            return states
        h: Tensor | None = None
        for step in x.unbind(dim=2):
            h = cell(step, h)
            states.append(h)
        return states
