"""Recurrent cells as operations: int32 tensors (1, 1, n), products of bits, tables.

The numbers of digits and their errors are those of :mod:`bnn.lowering.recurrent`.
"""

from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bnn.folding import Affine, Chain, affine, fold_sign
from bnn.layers import CELL_LIMIT
from bnn.layers.recurrent import RecurrentCell
from bnn.lowering.clips import clip_links
from bnn.lowering.context import Context
from bnn.lowering.elementwise import named
from bnn.lowering.stacking import scaled
from bnn.lowering.weighted import binary_weights
from kernels import DType, OpCode
from kernels.reference import sigmoid_table

SIGMOID_POINT: Final = 11
"""Binary digits after the point of arguments of sigmoids."""
TANH_POINT: Final = 12
"""Of arguments of tanh, and of the cell state of an LSTM."""
STATE_POINT: Final = 16
"""Of values of tanh and of the state h; sigmoids have 16 as well."""
_HALF: Final = 1 << 15
_TANH_SCALE: Final = 32767.0


def tanh_table() -> NDArray[np.uint16]:
    r"""Entries :math:`\lfloor 32767 \tanh(i / 2^{12}) + 32768 + 1/2 \rfloor`, i from -2^15 on."""
    x = np.arange(-_HALF, _HALF) / 2.0**TANH_POINT
    return np.floor(_TANH_SCALE * np.tanh(x) + _HALF + 0.5).astype(np.uint16)


class Steps:
    """Appends the operations of one cell over a sequence of bits (1, T, n_in).

    Fields are affine maps of the products, at ``SIGMOID_POINT``; a factor of ``gains`` gives a row
    more digits.
    """

    def __init__(
        self, context: Context, cell: RecurrentCell, data: int, of_input: Affine, of_hidden: Affine
    ) -> None:
        self.context, self.program, self.n = context, context.program, cell.n_hidden
        self.sigmoids = self.program.shared_constant(DType.U16, sigmoid_table(SIGMOID_POINT))
        self.tanhs = self.program.shared_constant(DType.U16, tanh_table())
        self.signs, input_scale = binary_weights(cell.hidden)[0], binary_weights(cell.input)[1]
        hidden_scale = binary_weights(cell.hidden)[1]
        self.shift = _numbers(getattr(cell.sign, "shift", 0.0)) * np.ones(self.n)
        self.of_hidden = _after_scale(of_hidden, hidden_scale)
        n_fields = len(self.signs)
        raw = self.op(OpCode.CONV_B1, data, weights=self._rows(binary_weights(cell.input)[0]))
        self.inputs = self.scale(raw, (_after_scale(of_input, input_scale),))
        """Fields of the inputs of all steps, (1, T, n_fields)."""
        product = self.signs.astype(np.float64) @ np.where(self.shift >= 0, 1.0, -1.0)
        # No operation writes constants: the product of the first signs is a scale by 0.
        constant = affine(n_fields, gamma=0.0, beta=self.of_hidden(product))
        self.first = self.scale(self.part(raw, 0, n_fields), (constant,))

    def hidden(self, state: int | None) -> int:
        """Fields of a state, (1, 1, n_fields); None is the state before the first step."""
        if state is None:
            return self.first
        low, high = (np.full(self.n, end) for end in self.program.intervals[state])
        chain = (affine(self.n, mean=-self.shift),)
        level, flip = fold_sign(chain, low, high, unit=2.0**-STATE_POINT)
        rows = self.program.shared_constant(DType.I32, np.stack([level, flip.astype(np.int32)]))
        bits = self.op(OpCode.THRESHOLD, state, dtype=DType.BITS, threshold=rows)
        return self.scale(
            self.op(OpCode.CONV_B1, bits, weights=self._rows(self.signs)), (self.of_hidden,)
        )

    def op(self, code: OpCode, data: int, **fields: Any) -> int:
        """Append an operation of this layer."""
        return self.program.append(self.context.name, code, data, **fields)

    def part(self, tensor: int, first: int, n: int, column: int = 0) -> int:
        """Channels [first, first + n) of a column."""
        return self.op(OpCode.SLICE, tensor, start=(0, column, first), size=(1, 1, n))

    def parts(self, tensor: int, n_parts: int) -> list[int]:
        """Gates of n_hidden channels each."""
        return [self.part(tensor, k * self.n, self.n) for k in range(n_parts)]

    def add(self, a: int, b: int) -> int:
        """Sum of two tensors."""
        return self.op(OpCode.ADD, a, residual=b)

    def multiply(self, a: int, b: int, shift: int) -> int:
        """Product of two tensors, less ``shift`` digits."""
        return self.op(OpCode.MULTIPLY, a, residual=b, shift=shift)

    def scale(
        self, tensor: int, chain: Chain, *, unit: float = 1.0, point: int = SIGMOID_POINT
    ) -> int:
        """Chain of the tensor's values with ``point`` digits after the point."""
        return scaled(self.program, self.context.name, tensor, chain, unit=unit, point=point)

    def sigmoid(self, tensor: int) -> int:
        """Gates with 16 digits of arguments with ``SIGMOID_POINT``."""
        return self.op(OpCode.LOOKUP, tensor, weights=self.sigmoids)

    def entries(self, tensor: int) -> int:
        """Entries of the table of tanh, of arguments with ``TANH_POINT`` digits."""
        return self.op(OpCode.LOOKUP, tensor, weights=self.tanhs)

    def tanh(self, entries: int, sign: float = 1.0) -> int:
        """``sign`` tanh with ``STATE_POINT`` digits."""
        link = affine(self.n, mean=float(_HALF), sigma=_TANH_SCALE, gamma=sign)
        return self.scale(entries, (link,), point=STATE_POINT)

    def _rows(self, rows: NDArray[np.int8]) -> int:
        return self.program.shared_constant(DType.BITS, rows[:, None, None, :])


def lstm_states(context: Context, cell: Any, data: int) -> list[int]:
    """States h after each step, with ``STATE_POINT`` digits."""
    n, fields = cell.n_hidden, 4 * cell.n_hidden
    # Rows i, f, g, o; g goes to tanh, whose argument has a digit more.
    gains = np.ones(fields)
    gains[2 * n : 3 * n] = 2.0 ** (TANH_POINT - SIGMOID_POINT)
    gain = _numbers(cell.scale) * gains
    of_input = named(context, affine, fields, gamma=gain, beta=_numbers(cell.bias) * gains)
    of_hidden = named(context, affine, fields, gamma=gain)
    named(context, affine, n, mean=cell.sign.shift)
    steps = Steps(context, cell, data, of_input, of_hidden)
    clip = clip_links(n, -CELL_LIMIT, CELL_LIMIT)
    states: list[int] = []
    c: int | None = None
    for column in range(context.program.dims(data)[1]):
        z = steps.add(
            steps.part(steps.inputs, 0, fields, column),
            steps.hidden(states[-1] if states else None),
        )
        enter, forget, candidate, out = (partial(steps.part, z, k * n, n) for k in range(4))
        g = steps.tanh(steps.entries(candidate()))
        new = steps.multiply(steps.sigmoid(enter()), g, 2 * STATE_POINT - TANH_POINT)
        kept = None if c is None else steps.multiply(steps.sigmoid(forget()), c, STATE_POINT)
        c = new if kept is None else steps.add(kept, new)
        if kept is not None:
            for chain in (clip[:3], clip[3:]):
                c = steps.scale(c, chain, unit=2.0**-TANH_POINT, point=TANH_POINT)
        states.append(
            steps.multiply(steps.sigmoid(out()), steps.tanh(steps.entries(c)), STATE_POINT)
        )
    return states


def gru_states(context: Context, cell: Any, data: int) -> list[int]:
    """States h after each step, with ``STATE_POINT`` digits."""
    n, fields = cell.n_hidden, 3 * cell.n_hidden
    # Rows r, z, g. The recurrent half of g is multiplied by r, so it may have all digits.
    of_tanh, of_state = (2.0 ** (point - SIGMOID_POINT) for point in (TANH_POINT, STATE_POINT))
    gains = np.repeat([1.0, 1.0, of_tanh], n)
    gain, offset = _numbers(cell.scale) * gains, _numbers(cell.bias) * gains
    inner, shift = (_numbers(values) * of_state for values in (cell.hidden_scale, cell.hidden_bias))
    of_input = named(context, affine, fields, gamma=gain, beta=offset)
    of_hidden = named(
        context,
        affine,
        fields,
        gamma=np.concatenate([gain[: 2 * n], inner]),
        beta=np.concatenate([np.zeros(2 * n), shift]),
    )
    steps = Steps(context, cell, data, of_input, of_hidden)
    states: list[int] = []
    for column in range(context.program.dims(data)[1]):
        h = states[-1] if states else None
        of_h = steps.hidden(h)
        sums = steps.add(steps.part(steps.inputs, 0, 2 * n, column), steps.part(of_h, 0, 2 * n))
        reset, update = steps.parts(steps.sigmoid(sums), 2)
        recurrent = steps.multiply(reset, steps.part(of_h, 2 * n, n), 2 * STATE_POINT - TANH_POINT)
        entries = steps.entries(steps.add(steps.part(steps.inputs, 2 * n, n, column), recurrent))
        # (1 - z) g + z h = g + z (h - g)
        difference = steps.tanh(entries, sign=-1.0)
        if h is not None:
            difference = steps.add(h, difference)
        moved = steps.multiply(update, difference, STATE_POINT)
        states.append(steps.add(steps.tanh(entries), moved))
    return states


def _after_scale(link: Affine, scale: NDArray[np.float64]) -> Affine:
    """The link of a product whose weights are ±scale."""
    return affine(len(scale), gamma=link.gamma * scale, beta=link.beta)


def _numbers(values: Any) -> NDArray[np.float64]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)
