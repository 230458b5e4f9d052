"""The operations of residual networks: the C runtime against the numpy reference."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import DType, Model, ModelFormatError, OpCode, Runtime, run_model, write_model
from kernels.backends import available_backends, use_backend
from kernels.build import build_library
from kernels.emulate import emulate
from kernels.native import Library
from kernels.panels import Layout
from kernels.reference import sigmoid_table

MakeImages = Callable[..., NDArray[Any]]
CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000)
BACKENDS = available_backends()[:-1]  # the last one is the reference
INPUTS = (DType.U8, DType.I8, DType.I32, DType.BITS)


def assert_exact(model: Model, images: NDArray[Any], library: Path, layout: Layout) -> None:
    """Every back end returns the integers of the reference, in rows and in panels."""
    expected = run_model(model, images)
    for file in {write_model(model), write_model(model, layout)}:
        for name in BACKENDS:
            with use_backend(name):
                got = Runtime(file, library)(images)
            assert np.array_equal(got, expected), (name, [op.code.name for op in model.ops])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", INPUTS)
def test_every_step_on_any_channels(
    graphs: ModuleType,
    make_images: MakeImages,
    library: Path,
    own_panels: Layout,
    dtype: DType,
    channels: int,
) -> None:
    """Scale, threshold, both pools, table and dense layer read the input; bits are read again."""
    plans = [["scale"], ["threshold"], ["max_pool", "scale", "add"], ["average_pool", "lookup"]]
    plans += [["scale", "dense"], ["threshold", "max_pool", "average_pool"]]
    for seed, steps in enumerate(plans):
        model = graphs.Graph(dtype, (3, 2, channels), 100 * seed + channels).grow(steps).model()
        assert_exact(model, make_images(model, 3), library, own_panels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.BITS])
def test_all_operations_in_one_model(
    graphs: ModuleType,
    make_images: MakeImages,
    library: Path,
    own_panels: Layout,
    dtype: DType,
    seed: int,
) -> None:
    model = graphs.every_operation(dtype, channels=(2, 31, 64, 96)[seed], seed=seed)
    assert_exact(model, make_images(model, 5, seed), library, own_panels)


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_any_graph(
    graphs: ModuleType,
    make_images: MakeImages,
    library: Path,
    own_panels: Layout,
    data: st.DataObject,
) -> None:
    sizes = st.integers(1, 7)
    channels = data.draw(st.sampled_from([1, 2, 3, 6, 31, 32, 33, 64, 65, 128]))
    image = (data.draw(sizes), data.draw(sizes), channels)
    dtype = data.draw(st.sampled_from([DType.U8, DType.I8, DType.BITS]))
    steps = data.draw(st.lists(st.sampled_from(sorted(graphs.STEPS)), max_size=10))
    model = graphs.Graph(dtype, image, data.draw(st.integers(0, 999))).grow(steps).model()
    assert_exact(model, make_images(model, 2), library, own_panels)


def _extremes(graphs: ModuleType, b: list[int]) -> Model:
    graph = graphs.Graph(DType.I32, (1, 1, 4), 0)
    m = np.array([[2**31 - 1, 1 - 2**31, 2**29, -(2**31)]])
    multiplier, bias = graph.constant(m, DType.I32), graph.constant(np.array([b]), DType.I64)
    graph.append(OpCode.SCALE, multiplier=multiplier, bias=bias, shift=31)
    return graph.model()


def test_scales_are_exact_at_the_ends_of_64_bits(
    graphs: ModuleType, library: Path, own_panels: Layout
) -> None:
    """The largest products and offsets that are allowed; halves are rounded up."""
    model = _extremes(graphs, [0, 0, 2**61, -(2**31)])
    ends = np.array([-(2**31), 2**31 - 1, -1, 0, 1, 2**30], np.int32)
    images = np.repeat(ends, 4).reshape(6, 1, 1, 4)
    assert_exact(model, images, library, own_panels)
    assert run_model(model, images)[:2].tolist() == [
        [1 - 2**31, 2**31 - 1, 2**29, 2**31 - 1],
        [2**31 - 2, 2 - 2**31, 3 * 2**29, -(2**31)],
    ]
    with pytest.raises(ModelFormatError, match=r"out: expected int32, got values in .*2147483648"):
        _extremes(graphs, [0, 0, 0, 0])
    with pytest.raises(ModelFormatError, match=r"bias: expected at most 2\*\*61"):
        write_model(_extremes(graphs, [0, 0, 2**61 + 1, -(2**31)]))


def test_c_reader_refuses_offsets_that_could_leave_64_bits(
    graphs: ModuleType, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.model_rules.MAX_OFFSET", 2**62)
    for offset in (2**61 + 1, -(2**61) - 1):
        file = write_model(_extremes(graphs, [0, 0, offset, -(2**31)]))
        with pytest.raises(ModelFormatError, match="an accumulator could leave int32"):
            Library(library).open(file)


def test_streams_that_do_not_contain_zero(
    graphs: ModuleType, make_images: MakeImages, library: Path, own_panels: Layout
) -> None:
    """Borders and sums that are not complete count as 0 all the same."""
    for sign in (-1, 1):
        graph = graphs.Graph(DType.U8, (3, 3, 2), 0)
        m = graph.constant(np.array([[7, 9]]), DType.I32)
        b = graph.constant(np.array([[sign * 2**16, sign * 2**17]]), DType.I64)
        scale = {"multiplier": m, "bias": b, "shift": 1}
        graph.append(OpCode.SCALE, **scale)
        assert 0 not in range(graph.known[graph.last][0], graph.known[graph.last][1] + 1)
        graph.append(OpCode.AVERAGE_POOL, pool=(2, 2), padding=(1, 0), **scale)
        graph.append(OpCode.MAX_POOL, pool=(2, 2), padding=(1, 1), stride=(2, 1))
        graph.dense()
        assert graph.ops[-1].code is OpCode.CONV_I32
        assert_exact(graph.model(), make_images(graph.model()), library, own_panels)


def test_sums_of_windows_may_reach_the_ends_of_int32(
    graphs: ModuleType, library: Path, own_panels: Layout
) -> None:
    graph = graphs.Graph(DType.I8, (2, 4, 40), 0)
    ones = graph.constant(np.ones((1, 40)), DType.I32)
    offset = graph.constant(np.full((1, 40), 2**24 - 1) << 7, DType.I64)
    graph.append(OpCode.SCALE, multiplier=ones, bias=offset, shift=7)  # up to 2^24
    m = graph.constant(np.full((1, 40), 2**29), DType.I32)
    zero = graph.constant(np.zeros((1, 40)), DType.I64)
    more = {"multiplier": m, "bias": zero, "shift": 29, "pool": (2, 4)}
    graph.append(OpCode.AVERAGE_POOL, **more)
    model = graph.model()
    assert_exact(model, np.full((1, 2, 4, 40), 127, np.int8), library, own_panels)
    assert graph.known[graph.last][1] == 8 * 2**24


def test_the_sigmoid_is_the_table_of_the_conventions() -> None:
    table = sigmoid_table()
    x = np.arange(-(2**15), 2**15) / 2048
    assert table.shape == (2**16,)
    assert table[[0, 2**15, 2**16 - 1]].tolist() == [0, 32768, 65535]
    assert table[2**15 + 2048] == math.floor(65535 / (1 + math.exp(-1.0)) + 0.5)
    assert np.abs(table / 65535 - 1 / (1 + np.exp(-x))).max() <= 0.5001 / 65535


def test_tables_of_any_even_size_and_numbers_beyond_them(
    graphs: ModuleType, library: Path, own_panels: Layout
) -> None:
    values = np.array([-(2**31), -32769, -32768, -3, -2, -1, 0, 1, 2, 32767, 32768, 2**31 - 1])
    images = values.astype(np.int32).reshape(1, 1, 1, 12)
    for n in (2, 4, 2**16):
        graph = graphs.Graph(DType.I32, (1, 1, 12), 0)
        graph.lookup(n)
        assert_exact(graph.model(), images, library, own_panels)


@pytest.mark.parametrize("n", [3, 2**16 + 2])
def test_tables_of_other_sizes_are_refused(graphs: ModuleType, n: int) -> None:
    graph = graphs.Graph(DType.I32, (1, 1, 2), 0)
    graph.lookup(n)
    with pytest.raises(ModelFormatError, match=f"expected an even table up to 65536, got {n}"):
        write_model(graph.model())


@pytest.mark.arm
@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.BITS])
def test_all_operations_on_emulated_arm(
    graphs: ModuleType, make_images: MakeImages, dtype: DType
) -> None:
    model = graphs.every_operation(dtype, channels=65)
    images = make_images(model, 2)
    expected = run_model(model, images)
    for layout in (Layout.ROWS, Layout.VECTORS):
        run = emulate(build_library("aarch64-linux"), write_model(model, layout), images)
        assert np.array_equal(run.outputs, expected), layout
