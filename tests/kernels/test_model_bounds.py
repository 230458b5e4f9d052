"""Intervals against enumeration: nothing leaves them, and their ends are reached."""

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Model, ModelFormatError, Op, OpCode, Tensor
from kernels.model_bounds import output_interval, values
from kernels.model_rules import check_model
from kernels.reference import run_op


def _ends(op: Op, tensors: tuple[Tensor, ...], data: NDArray[Any]) -> tuple[int, int]:
    result = run_op(op, tensors, data.astype(np.int64))
    return int(result.min()), int(result.max())


def _constant(dtype: DType, rows: Any) -> Tensor:
    kind = {DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8", DType.U16: "<u2"}[dtype]
    array = np.array(rows, kind)
    return Tensor(dtype, array.shape, array.tobytes())


def _all_inputs(low: int, high: int, n: int) -> NDArray[np.int64]:
    """Every combination of the ends and 0 and what is beside them, shape (N, 1, 1, n)."""
    points = sorted({low, min(low + 1, high), min(max(0, low), high), max(low, high - 1), high})
    return np.array(list(itertools.product(points, repeat=n))).reshape(-1, 1, 1, n)


@pytest.mark.parametrize("interval", [(-5, 9), (3, 9), (-9, -2), (4, 4)])
def test_dense_layers_reach_their_bounds(interval: tuple[int, int]) -> None:
    tensors = (
        Tensor(DType.I32, (1, 1, 3)),
        _constant(DType.I8, [[[[3, -2, 0]]], [[[-1, -1, -1]]]]),
        _constant(DType.I32, [10, -4]),
        Tensor(DType.I32, (1, 1, 2)),
    )
    op = Op(OpCode.CONV_I32, 0, 1, 3, bias=2)
    low, high = output_interval(op, tensors, {0: interval})
    least, largest = _ends(op, tensors, _all_inputs(*interval, 3))
    assert low <= least <= largest <= high
    if interval[0] <= 0 <= interval[1]:  # else a sum that is not complete is a wider bound
        assert (low, high) == (least, largest)


@pytest.mark.parametrize("interval", [(-50, 90), (3, 9), (-9, -2), (4, 4), (-7, 6), (-8, 5)])
@pytest.mark.parametrize("has_knee", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_scales_reach_their_bounds(interval: tuple[int, int], has_knee: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = rng.integers(-200, 200, (3 if has_knee else 1, 2))
    if has_knee:
        m[2] = rng.integers(-10, 10, 2)
    tensors = (
        Tensor(DType.I32, (1, 1, 2)),
        _constant(DType.I32, m),
        _constant(DType.I64, rng.integers(-1000, 1000, (2 if has_knee else 1, 2))),
        Tensor(DType.I32, (1, 1, 2)),
    )
    op = Op(OpCode.SCALE, 0, None, 3, multiplier=1, bias=2, shift=4)
    data = np.repeat(np.arange(interval[0], interval[1] + 1), 2).reshape(-1, 1, 1, 2)
    assert output_interval(op, tensors, {0: interval}) == _ends(op, tensors, data)


@pytest.mark.parametrize("interval", [(-5, 9), (3, 9), (-9, -2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 0)])
def test_average_pools_reach_their_bounds(
    interval: tuple[int, int], padding: tuple[int, int]
) -> None:
    tensors = (
        Tensor(DType.I32, (2, 1, 1)),
        _constant(DType.I32, [[7]]),
        _constant(DType.I64, [[3]]),
        Tensor(DType.I32, (3 - 2 * (padding == (0, 0)), 1, 1)),
    )
    more = {"pool": (2, 1), "padding": padding}
    op = Op(OpCode.AVERAGE_POOL, 0, None, 3, multiplier=1, bias=2, shift=1, **more)
    points = _all_inputs(*interval, 2).reshape(-1, 2, 1, 1)
    low, high = output_interval(op, tensors, {0: interval})
    least, largest = _ends(op, tensors, points)
    assert low <= least <= largest <= high
    if padding == (0, 0) or interval[0] <= 0 <= interval[1]:
        assert (low, high) == (least, largest)


@pytest.mark.parametrize("seed", range(40))
def test_no_activation_of_a_random_graph_leaves_its_interval(graphs: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = [DType.U8, DType.I8, DType.BITS][seed % 3]
    graph = graphs.Graph(dtype, (4, 3, int(rng.choice([1, 3, 33]))), seed)
    model: Model = graph.grow(rng.choice(list(graphs.STEPS), 8)).model()
    known = check_model(model)
    ends = {DType.U8: (0, 255), DType.I8: (-128, 127), DType.BITS: (0, 1)}[dtype]
    data = rng.choice(ends, (20, *model.tensors[0].dims)).astype(np.int64)
    activations = {0: 2 * data - 1 if dtype is DType.BITS else data}
    for op in model.ops:
        residual = None if op.residual is None else activations[op.residual]
        result = run_op(op, model.tensors, activations[op.data], residual)
        activations[op.out] = result
        assert known[op.out][0] <= result.min() <= result.max() <= known[op.out][1]


def test_sums_that_could_leave_int32_are_refused(graphs: ModuleType) -> None:
    graph = graphs.Graph(DType.I32, (2, 2, 1), 0)
    one, zero = (
        graph.constant(np.full((1, 1), n), dtype) for n, dtype in ((1, DType.I32), (0, DType.I64))
    )
    more = {"multiplier": one, "bias": zero, "shift": 1}
    graph.append(OpCode.SCALE, **more)  # half of int32
    assert graph.known[graph.last] == (-(2**30), 2**30)
    half = graph.last
    with pytest.raises(ModelFormatError, match="out: expected int32"):
        graph.append(OpCode.ADD, residual=half)  # 2^30 + 2^30 is one too many
    graph.last = half
    with pytest.raises(ModelFormatError, match="sum: expected int32"):
        graph.append(OpCode.AVERAGE_POOL, pool=(2, 1), **more)
    graph.last = half
    weights = graph.constant(np.full((1, 2, 2, 1), 1), DType.I8)
    with pytest.raises(ModelFormatError, match="acc: expected int32"):
        graph.append(OpCode.CONV_I32, weights)


def test_weights_whose_sum_leaves_int32_are_refused() -> None:
    """Then a product with an end of the data could leave int64 in the runtime."""
    n = 2**24
    tensors = (
        Tensor(DType.I32, (1, 1, n)),
        Tensor(DType.I8, (1, 1, 1, n), b"\x80" * n),
        Tensor(DType.I32, (1, 1, 1)),
    )
    op = Op(OpCode.CONV_I32, 0, 1, 2)
    with pytest.raises(ModelFormatError, match=r"sum of magnitudes below 2\*\*31"):
        output_interval(op, tensors, {0: (0, 0)})


def test_packed_constants_have_no_integers() -> None:
    with pytest.raises(ValueError, match="expected a constant of integers, got BITS"):
        values(Tensor(DType.BITS, (1,), bytes(4)))
