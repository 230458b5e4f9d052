"""A recurrent cell as a model: int32 state in, slices, tables and products, int32 state out.

An LSTM cell with binary weights on the signs of input and state. Fixed point: gates have 11 binary
digits after the point, the state 12, what tables return 16 (sigmoid) or 15 (tanh).
"""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Model, OpCode, Runtime, read_model, write_model
from kernels.backends import available_backends, use_backend
from kernels.reference import run_model, sigmoid_table

N_IN, N_HIDDEN = 40, 37
GATE, STATE, LIMIT = 11, 12, 8 << 12
"""Digits after the point of gates and state; the cell state is clamped to -8 and 8."""


def _tanh_table(n_fraction_bits: int) -> NDArray[np.uint16]:
    x = np.arange(-(2**15), 2**15) / 2.0**n_fraction_bits
    return np.floor(32767 * np.tanh(x) + 0.5 + 32768).astype(np.uint16)


class Cell:
    """The graph of one step: (x, h, c) -> (h, c)."""

    def __init__(self, graphs: ModuleType) -> None:
        self.graph = graphs.Graph(DType.I32, (1, 1, N_IN + 2 * N_HIDDEN), 0)
        n = N_IN + N_HIDDEN
        self.weights = self.graph.rng.random((4 * N_HIDDEN, 1, 1, n)) < 0.5
        self.multiplier = self.graph.rng.integers(
            150, 300, 4 * N_HIDDEN
        )  # 2^11 / sqrt(n): about 233

    def slice(self, source: int, first: int, n: int) -> int:
        """Channels [first, first + n)."""
        self.graph.last = source
        self.graph.append(OpCode.SLICE, start=(0, 0, first), size=(1, 1, n))
        return int(self.graph.last)

    def scale(self, m: NDArray[np.int64], b: NDArray[np.int64], shift: int = 1) -> int:
        """(x m + b) / 2^shift."""
        rows = [self.graph.constant(m, DType.I32), self.graph.constant(b, DType.I64)]
        self.graph.append(OpCode.SCALE, multiplier=rows[0], bias=rows[1], shift=shift)
        return int(self.graph.last)

    def clamp(self, limit: int) -> int:
        """Two scales with a knee: a constant on one side of it."""
        ones, ends = np.full((1, N_HIDDEN), 2), np.full((1, N_HIDDEN), 2 * limit)
        knee = np.full((1, N_HIDDEN), limit)
        self.scale(np.concatenate([0 * ones, ones, knee]), np.concatenate([ends, 0 * ends]))
        return self.scale(
            np.concatenate([ones, 0 * ones, -knee]), np.concatenate([0 * ends, -ends])
        )

    def table(self, source: int, values: NDArray[np.uint16], offset: int) -> int:
        """Entries of a table, less an offset."""
        self.graph.last = source
        self.graph.append(OpCode.LOOKUP, self.graph.constant(values, DType.U16))
        if offset:
            ones = np.full((1, N_HIDDEN), 2)
            self.scale(ones, np.full((1, N_HIDDEN), -2 * offset))
        return int(self.graph.last)

    def multiply(self, a: int, b: int, shift: int) -> int:
        """Product of two streams."""
        self.graph.last = a
        self.graph.append(OpCode.MULTIPLY, residual=b, shift=shift)
        return int(self.graph.last)

    def model(self) -> Model:
        """All of it."""
        graph = self.graph
        self.slice(0, N_IN + N_HIDDEN, N_HIDDEN)
        state = self.clamp(LIMIT)
        self.slice(0, 0, N_IN + N_HIDDEN)
        n = N_IN + N_HIDDEN
        rows = np.zeros((2, n))
        graph.append(OpCode.THRESHOLD, threshold=graph.constant(rows, DType.I32))
        graph.append(OpCode.CONV_B1, graph.constant(self.weights, DType.BITS))
        gates = self.scale(2 * self.multiplier[None], np.zeros((1, 4 * N_HIDDEN)))
        i, f, g, o = (self.slice(gates, k * N_HIDDEN, N_HIDDEN) for k in range(4))
        i, f, o = (self.table(gate, sigmoid_table(GATE), 0) for gate in (i, f, o))
        g = self.table(g, _tanh_table(GATE), 32768)
        kept, new = self.multiply(f, state, 16), self.multiply(i, g, 16 + 15 - STATE)
        graph.last = kept
        graph.append(OpCode.ADD, residual=new)
        cell = int(graph.last)
        self.multiply(o, self.table(cell, _tanh_table(STATE), 32768), 16 + 15 - STATE)
        graph.append(OpCode.CONCAT, residual=cell)
        model: Model = graph.model()
        return model

    def step(self, x: NDArray[np.int64], h: NDArray[np.int64], c: NDArray[np.int64]):  # type: ignore[no-untyped-def]
        """The same in integers, written without the format."""
        signs = np.where(np.concatenate([x, h], axis=1) >= 0, 1, -1)
        dots = signs @ np.where(self.weights[:, 0, 0], 1, -1).T
        i, f, g, o = np.split(dots * self.multiplier, 4, axis=1)

        def table(values: NDArray[np.uint16], at: NDArray[np.int64]) -> NDArray[np.int64]:
            return values.astype(np.int64)[np.clip(at, -(2**15), 2**15 - 1) + 2**15]

        def rounded(product: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
            return (product + (1 << shift - 1)) >> shift

        sigmoid, c = sigmoid_table(GATE), np.clip(c, -LIMIT, LIMIT)
        new = rounded(table(sigmoid, i) * (table(_tanh_table(GATE), g) - 32768), 19)
        c = rounded(table(sigmoid, f) * c, 16) + new
        h = rounded(table(sigmoid, o) * (table(_tanh_table(STATE), c) - 32768), 19)
        return h, c, dots


@pytest.fixture(scope="module")
def cell(graphs: ModuleType) -> tuple[Cell, Model]:
    """The cell and its model."""
    made = Cell(graphs)
    return made, made.model()


def test_ten_steps_are_those_of_integers_written_out(
    cell: tuple[Cell, Model], library: Path
) -> None:
    """On every back end, from a state beyond the clamp on."""
    written, model = cell
    file = write_model(model)
    rng = np.random.default_rng(1)
    h = np.zeros((3, N_HIDDEN), np.int64)
    c = rng.integers(-(2**31), 2**31, (3, N_HIDDEN))
    assert read_model(file).ops == model.ops
    for _ in range(10):
        x = rng.integers(-50, 50, (3, N_IN))
        inputs = np.concatenate([x, h, c], axis=1)[:, None, None].astype(np.int32)
        h, c, _ = written.step(x, h, c)
        expected = np.concatenate([h, c], axis=1)
        assert np.array_equal(run_model(model, inputs), expected)
        for name in available_backends()[:-1]:
            with use_backend(name):
                assert np.array_equal(Runtime(file, library)(inputs), expected), name
    assert len(np.unique(h)) > 50  # it does something


def test_the_integers_are_an_lstm_cell(cell: tuple[Cell, Model]) -> None:
    """Floats of the same gates. In units of 2^-12: c is rounded twice by 1/2, and entries of the
    table count 1/65536 instead of 1/65535 and are rounded, which is 3/4 of c = 8; h adds 1/2.
    """
    written, _ = cell
    rng = np.random.default_rng(2)
    x, h = rng.integers(-50, 50, (3, N_IN)), np.zeros((3, N_HIDDEN), np.int64)
    c = rng.integers(-LIMIT, LIMIT + 1, (3, N_HIDDEN))
    new_h, new_c, dots = written.step(x, h, c)
    i, f, g, o = np.split(dots * written.multiplier / 2**GATE, 4, axis=1)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    float_c = sigmoid(f) * c / 2**STATE + sigmoid(i) * np.tanh(g)
    assert np.abs(new_c / 2**STATE - float_c).max() < 2 * 2.0**-STATE
    assert np.abs(new_h / 2**STATE - sigmoid(o) * np.tanh(float_c)).max() < 4 * 2.0**-STATE
