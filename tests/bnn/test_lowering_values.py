"""Values while a network is lowered: their bounds, which decide what an integer may become."""

from dataclasses import replace

import numpy as np
import pytest

from bnn.folding import Normalisation, PointTooFine, affine, knee
from bnn.lowering.program import Program
from bnn.lowering.values import (
    Convolution,
    Label,
    Value,
    as_stream,
    as_tensor,
    bounds,
    float_range,
)
from kernels import DType, OpCode

WEIGHTS = np.array([[3, -2], [-1, -4]], np.int8).reshape(2, 1, 1, 2)
CONVOLUTION = Convolution(
    name="layer",
    code=OpCode.CONV_U8,
    data=0,
    weights=WEIGHTS,
    data_interval=(0, 255),
    dims=(4, 4, 2),
    bias=np.array([10, -20], np.int64),
)


def value_of(source: int | Convolution, unit: float | list[float] = 1.0) -> Value:
    return Value(
        label=Label("layer", "node"),
        source=source,
        unit=np.ones(2) * np.asarray(unit),
        dims=(4, 4, 2),
    )


def test_bounds_of_accumulators_count_both_signs_and_the_bias() -> None:
    low, high = CONVOLUTION.bounds()
    assert low.tolist() == [-2 * 255 + 10, -5 * 255 - 20]
    assert high.tolist() == [3 * 255 + 10, -20]
    signed = replace(CONVOLUTION, data_interval=(-7, 5), bias=None)
    low, high = signed.bounds()
    assert low.tolist() == [-7 * 3 - 5 * 2, -5 * 5]
    assert high.tolist() == [5 * 3 + 7 * 2, 7 * 5]
    assert bounds(Program((4, 4, 2)), value_of(signed))[2] == 1


@pytest.mark.parametrize(
    ("code", "zero_border", "spacing"),
    [(OpCode.CONV_B1, False, 2), (OpCode.CONV_B1, True, 1), (OpCode.CONV_B1_I8, False, 1)],
)
def test_only_sums_of_whole_windows_of_signs_have_one_parity(
    code: OpCode, zero_border: bool, spacing: int
) -> None:
    assert replace(CONVOLUTION, code=code, zero_border=zero_border).spacing == spacing


def test_a_negated_channel_gives_the_opposite_sums() -> None:
    low, high = CONVOLUTION.bounds()
    turned = CONVOLUTION.negated(np.array([True, False]))
    assert turned.weights.ravel().tolist() == [-3, 2, -1, -4]
    assert turned.bias is not None
    assert turned.bias.tolist() == [-10, -20]
    found = turned.bounds()
    assert (found[0].tolist(), found[1].tolist()) == ([-high[0], low[1]], [-low[0], high[1]])


@pytest.mark.parametrize(("unit", "greatest"), [(1.0, 1295.0), (-1.0, 1295.0), (0.5, 647.5)])
def test_the_range_of_a_value_is_that_of_its_greater_end(unit: float, greatest: float) -> None:
    program = Program((4, 4, 2))
    value = value_of(CONVOLUTION, unit)
    assert float_range(program, value) == greatest
    clipped = value.linked(knee(2, 0.0))
    # Of the negative ends, which are the longer ones, a ReLU leaves nothing.
    assert float_range(program, clipped) == (775.0 * unit if unit > 0 else 1295.0)
    narrow = Normalisation(np.zeros(2), np.full(2, 1e-3), np.ones(2), np.zeros(2))
    assert float_range(program, value.linked(narrow)) == 1024.0


def test_a_stream_has_one_unit_for_all_channels() -> None:
    program = Program((4, 4, 2))
    _, tensor = as_tensor(program, value_of(CONVOLUTION))
    same = as_stream(program, value_of(tensor, 2.0**-5), 5)
    assert same.source == tensor
    other = as_stream(program, value_of(tensor, [2.0**-5, 3 * 2.0**-5]), 5)
    assert other.source != tensor
    assert [op.code for op in program.ops] == [OpCode.CONV_U8, OpCode.SCALE]
    assert other.unit.tolist() == [2.0**-5, 2.0**-5]


def test_accumulators_beyond_int32_are_refused() -> None:
    most = np.iinfo(np.int32).max
    one = np.ones((2, 1, 1, 1), np.int8)
    wide = replace(CONVOLUTION, weights=one, bias=None, data_interval=(0, most))
    with pytest.raises(ValueError, match=f"layer: expected .* int32, got up to {most}; use a sm"):
        as_tensor(Program((4, 4, 1)), value_of(wide))
    below = replace(wide, weights=-one, data_interval=(0, most))
    with pytest.raises(ValueError, match=f"got up to {most}"):
        as_tensor(Program((4, 4, 1)), value_of(below))
    # Of a stream there are fewer with fewer digits.
    program = Program((4, 4, 1))
    stream = as_stream(program, replace(value_of(0), unit=np.ones(1), dims=(4, 4, 1)), 3)
    assert isinstance(stream.source, int)
    with pytest.raises(PointTooFine, match=f"got up to {most}"):
        as_tensor(program, value_of(replace(wide, code=OpCode.CONV_I32, data=stream.source)))
    fits = replace(wide, data_interval=(0, most - 1))
    assert program.dtype(as_tensor(program, value_of(fits))[1]) is DType.I32


def test_a_chain_with_two_knees_is_two_operations() -> None:
    program = Program((4, 4, 2))
    links = (knee(2, 0.5), affine(2, gamma=-1.0, beta=9.0), knee(2, 0.0), affine(2, beta=1.0))
    as_stream(program, value_of(CONVOLUTION).linked(*links), 5)
    assert [op.code for op in program.ops] == [OpCode.CONV_U8, OpCode.SCALE, OpCode.SCALE]
