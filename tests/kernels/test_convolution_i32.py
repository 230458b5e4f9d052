"""Convolutions of int32 data with int8 weights: the C runtime against the numpy reference."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import (
    DType,
    Model,
    ModelFormatError,
    Op,
    OpCode,
    Runtime,
    Tensor,
    run_model,
    write_model,
)
from kernels.backends import available_backends, use_backend
from kernels.reference import run_op

MakeImages = Callable[..., NDArray[Any]]
BACKENDS = available_backends()[:-1]  # the last one is the reference
CHANNELS = (1, 3, 4, 7, 8, 31, 33, 63, 64, 65, 129, 300)


def _layer(
    graphs: ModuleType,
    image: tuple[int, int, int],
    n_out: int,
    kernel: tuple[int, int],
    *,
    has_bias: bool = False,
    seed: int = 0,
    **more: object,
) -> Model:
    """A stream of both signs from int8 data, and a convolution of it with all int8 weights."""
    graph = graphs.Graph(DType.I8, image, seed)
    shape = (1, image[2])
    scale = graph.constant(graph.rng.integers(-9, 10, shape), DType.I32)
    offset = graph.constant(graph.rng.integers(-999, 1000, shape), DType.I64)
    graph.append(OpCode.SCALE, multiplier=scale, bias=offset, shift=1)
    n_in = image[2] // int(more.get("groups", 1))  # type: ignore[call-overload]
    weights = graph.constant(graph.rng.integers(-128, 128, (n_out, *kernel, n_in)), DType.I8)
    if has_bias:
        more["bias"] = graph.constant(graph.rng.integers(-(2**20), 2**20, n_out), DType.I32)
    graph.append(OpCode.CONV_I32, weights, **more)
    model: Model = graph.model()
    return model


def _assert_exact(model: Model, images: NDArray[Any], library: Path) -> None:
    expected = run_model(model, images)
    file = write_model(model)
    for name in BACKENDS:
        with use_backend(name):
            assert np.array_equal(Runtime(file, library)(images), expected), name


def test_the_reference_is_the_sum_written_out() -> None:
    """Two groups of one input channel, stride 2 along a row, a border of 0, a bias."""
    tensors = (
        Tensor(DType.I32, (1, 4, 2)),
        Tensor(DType.I8, (2, 1, 3, 1), np.array([1, 10, 100, -1, 2, -3], np.int8).tobytes()),
        Tensor(DType.I32, (2,), np.array([1000, -5], "<i4").tobytes()),
        Tensor(DType.I32, (1, 2, 2)),
    )
    op = Op(OpCode.CONV_I32, 0, 1, 3, bias=2, stride=(1, 2), padding=(0, 1), groups=2)
    data = np.array([[3, 50000], [-4, 7], [5, -8], [6, 9]]).reshape(1, 1, 4, 2)
    first = [1000 + 10 * 3 + 100 * -4, -5 + 2 * 50000 - 3 * 7]
    second = [1000 - 4 + 10 * 5 + 100 * 6, -5 - 7 + 2 * -8 - 3 * 9]
    assert run_op(op, tensors, data).tolist() == [[[first, second]]]


@pytest.mark.parametrize("channels", CHANNELS)
def test_pointwise_layers_of_any_channels(
    graphs: ModuleType, make_images: MakeImages, library: Path, channels: int
) -> None:
    for n_out, width in ((1, 3), (5, 4), (17, 9)):
        model = _layer(graphs, (2, width, channels), n_out, (1, 1), has_bias=n_out == 5)
        _assert_exact(model, make_images(model), library)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1)), ((5, 7), (1, 2), (4, 3))],
)
def test_depthwise_layers_of_any_channels(
    graphs: ModuleType,
    make_images: MakeImages,
    library: Path,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    """Also of 35 taps, more than the runtime turns at a time."""
    more = {"stride": stride, "padding": padding, "groups": channels}
    model = _layer(graphs, (5, 7, channels), channels, kernel, has_bias=channels % 2 == 1, **more)
    _assert_exact(model, make_images(model), library)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_geometry(
    graphs: ModuleType, make_images: MakeImages, library: Path, data: st.DataObject
) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    smallest = [max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    image = (
        smallest[0] + data.draw(st.integers(0, 4)),
        smallest[1] + data.draw(st.integers(0, 14)),
    )
    groups = data.draw(st.sampled_from([1, 1, 2, 3, 17]))
    model = _layer(
        graphs,
        (*image, groups * data.draw(st.sampled_from([1, 2, 5, 16, 33]))),
        groups * data.draw(st.sampled_from([1, 2, 3, 9])),
        kernel,
        has_bias=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 99)),
        padding=padding,
        stride=data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        groups=groups,
    )
    _assert_exact(model, make_images(model, 2), library)


def _at_the_end(graphs: ModuleType, n_in: int, bias: int) -> Model:
    """Int8 data times 2^16, weights -128 and a bias: sums up to n_in * 2^30 + bias."""
    graph = graphs.Graph(DType.I8, (1, 5, n_in), 0)
    ones = graph.constant(np.full((1, n_in), 2**23), DType.I32)
    zeros = graph.constant(np.zeros((1, n_in)), DType.I64)
    graph.append(OpCode.SCALE, multiplier=ones, bias=zeros, shift=7)
    weights = graph.constant(np.full((3, 1, 1, n_in), -128), DType.I8)
    graph.append(OpCode.CONV_I32, weights, bias=graph.constant(np.full(3, bias), DType.I32))
    model: Model = graph.model()
    return model


def test_sums_may_reach_the_ends_of_int32(graphs: ModuleType, library: Path) -> None:
    model = _at_the_end(graphs, 1, 2**30 - 1)
    images = np.array([-128, 127, 0, -128, 1], np.int8).reshape(1, 1, 5, 1)
    _assert_exact(model, images, library)
    assert run_model(model, images)[0, ::3].tolist()[:2] == [2**31 - 1, 2**30 - 1 - 127 * 2**23]
    with pytest.raises(
        ModelFormatError, match=r"out: expected int32, got values in .* 2147483648\)"
    ):
        _at_the_end(graphs, 1, 2**30)
    with pytest.raises(
        ModelFormatError, match=r"acc: expected int32, got values in .* 2147483648\)"
    ):
        _at_the_end(graphs, 2, -1)


def test_the_largest_stride_has_one_position(
    graphs: ModuleType, make_images: MakeImages, library: Path
) -> None:
    more = {"stride": (2**31 - 1, 2**31 - 1), "padding": (1, 0)}
    model = _layer(graphs, (3, 6, 5), 4, (2, 3), **more)
    assert model.tensors[model.ops[-1].out].dims == (1, 1, 4)
    _assert_exact(model, make_images(model), library)


def test_pools_are_operations_of_their_own(graphs: ModuleType) -> None:
    with pytest.raises(ModelFormatError, match=r"CONV_I32 takes no pool, got .*; append MAX_POOL"):
        _layer(graphs, (4, 4, 2), 2, (1, 1), pool=(2, 2))
