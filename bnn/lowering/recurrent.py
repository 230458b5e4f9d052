r"""Lowering of recurrent cells: the steps one after another, in fixed point.

The products of all inputs are one operation over the sequence; a step is slices, the product of the
state's signs, tables and products of streams. Binary digits after the point:

- arguments of sigmoids ``SIGMOID_POINT`` = 11: the table reaches from -16 to 16;
- arguments of tanh, and the cell state of an LSTM, ``TANH_POINT`` = 12: from -8 to 8;
- values of sigmoid and tanh, and the state h, ``STATE_POINT`` = 16.

A table of sigmoids holds :math:`\lfloor 65535 \sigma + 1/2 \rfloor` and its entries count as
65536ths; one of tanh holds :math:`\lfloor 32767 \tanh + 32768 + 1/2 \rfloor`, a SCALE follows it.

Errors of a step. The argument of a sigmoid is rounded twice by 2^-12 and its slope is 1/4 at
most, the entry is off by 2^-16 + 2^-17: a gate is off by 1.5e-4. The candidate, its argument
rounded twice by 2^-13, is off by 2.7e-4. With c in [-8, 8] the cell state of an LSTM is then off by
9 * 1.5e-4 + 2.7e-4, and 2^-12 of its own rounding: ``LSTM_ERROR`` with the output gate's. The state
of a GRU is off by 2 * 1.5e-4 + 2.7e-4 + 1.5e-4 R, R the largest value of t n + d that the reset
gate multiplies: ``GRU_ERROR`` and R ``GATE_ERROR``. What a step inherits shrinks by its gate, so
after T steps the error is at most T times that, as long as no sign of h differed.
"""

from typing import Final

import numpy as np

from bnn.layers import BinaryLSTMCell
from bnn.layers.recurrent_layer import Recurrent
from bnn.lowering.context import Context
from bnn.lowering.recurrent_steps import STATE_POINT, gru_states, lstm_states
from bnn.lowering.stacking import COLUMNS, clipped, stack
from bnn.lowering.values import Value, is_bits, tensor_value
from bnn.lowering.weighted import check_rank
from kernels.model import MAX_OPS

GATE_ERROR: Final = 1.5e-4
"""Of a gate in [0, 1]."""
LSTM_ERROR: Final = 2.1e-3
"""Of h after one step of an LSTM, in units of 1."""
GRU_ERROR: Final = 6.0e-4
"""Of h after one step of a GRU, in units of 1, without the share of the reset gate."""
OPS_OF_STEP: Final = 26
"""Operations of one step at most, with what stacks its state."""


def lower_recurrent(context: Context, layer: Recurrent, value: Value) -> Value:
    """Unroll a cell over the columns of a sequence of bits.

    Raises
    ------
    ValueError
        If the input is no sequence of bits, or has more steps than a model may have operations.
    """
    check_rank(context, value, 3)
    program, cell = context.program, layer.cell
    if not is_bits(program, value):
        raise ValueError(
            f"{context.name}: expected ±1 from {value.name}; put a Sign() before this layer"
        )
    if value.dims[2] != cell.n_in:
        raise ValueError(f"{context.name}: expected {cell.n_in} channels, got {value.dims[2]}")
    most = (MAX_OPS - len(program.ops)) // OPS_OF_STEP
    if value.dims[1] > most:
        raise ValueError(
            f"{context.name}: expected at most {most} steps, {OPS_OF_STEP} operations each of the "
            f"{MAX_OPS} of a model, got {value.dims[1]}; use a stride or pool before this layer"
        )
    assert isinstance(value.source, int)
    unroll = lstm_states if isinstance(cell, BinaryLSTMCell) else gru_states
    states = unroll(context, cell, value.source)
    is_last = layer.output == "last"
    tensor = states[-1] if is_last else stack(program, context.name, states, COLUMNS)
    # States are within [-1, 1], but bounds of a GRU's sums grow with every step.
    tensor = clipped(program, context.name, tensor, -(1 << STATE_POINT), 1 << STATE_POINT)
    unit, dims = 2.0**-STATE_POINT, program.dims(tensor)
    made = Value(
        label=context.label,
        source=tensor,
        unit=np.full(dims[2], unit),
        dims=dims,
        rank=2 if is_last else 3,
    )
    return tensor_value(program, made, tensor, unit)
