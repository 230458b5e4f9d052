"""What the binary recurrent cells share: two products of bits and an affine map per gate."""

import torch
from torch import Tensor, nn

from bnn.layers.binary_linear import BinaryLinear
from bnn.quantizers import Quantizer


class RecurrentCell(nn.Module):
    """The weights of a recurrent cell with ``n_gates`` gates.

    Parameters
    ----------
    n_in
        Features of the input, ±1.
    n_hidden
        Units.
    n_gates
        Rows of n_hidden that the weights have.
    weight_quantizer, simulate
        As for :class:`BinaryLayer`.

    Raises
    ------
    ValueError
        If a number is not positive or the quantizer unknown.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_gates: int,
        weight_quantizer: str | Quantizer,
        simulate: bool,
    ) -> None:
        super().__init__()
        n_fields = n_gates * n_hidden
        self.n_in = n_in
        self.n_hidden = n_hidden
        self.input = BinaryLinear(
            n_in, n_fields, weight_quantizer=weight_quantizer, simulate=simulate
        )
        """W, rows in the order of the gates."""
        self.hidden = BinaryLinear(
            n_hidden, n_fields, weight_quantizer=weight_quantizer, simulate=simulate
        )
        """U, rows in the order of the gates."""

    def check_state(self, name: str, state: Tensor, n_rows: int) -> None:
        """Refuse a state that is not (N, n_hidden).

        Raises
        ------
        ValueError
            If so.
        """
        if state.shape != (n_rows, self.n_hidden):
            raise ValueError(
                f"{name}: expected shape ({n_rows}, {self.n_hidden}), got {tuple(state.shape)}"
            )

    def check_input(self, x: Tensor) -> None:
        """Refuse an input that is not (N, n_in).

        Raises
        ------
        ValueError
            If so.
        """
        if x.dim() != 2 or x.shape[1] != self.n_in:
            raise ValueError(f"x: expected shape (N, {self.n_in}), got {tuple(x.shape)}")

    def zeros(self, x: Tensor) -> Tensor:
        """State before the first step, shape (N, n_hidden)."""
        return torch.zeros(len(x), self.n_hidden, dtype=self.input.latent_weight.dtype).to(x.device)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_in}, {self.n_hidden}"
