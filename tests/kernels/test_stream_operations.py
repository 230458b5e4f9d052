"""Concatenation, slice and product of streams: the C runtime against numpy, by hand and at ends."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import (
    DType,
    Model,
    ModelFormatError,
    Op,
    OpCode,
    Runtime,
    Tensor,
    output_shape,
    run_model,
    write_model,
)
from kernels.backends import available_backends, use_backend
from kernels.model_bounds import output_interval
from kernels.reference import run_op

MakeImages = Callable[..., NDArray[Any]]
CHANNELS = (1, 3, 31, 32, 33, 64, 65, 129)
BACKENDS = available_backends()[:-1]  # the last one is the reference


def _assert_exact(model: Model, images: NDArray[Any], library: Path) -> None:
    expected = run_model(model, images)
    file = write_model(model)
    for name in BACKENDS:
        with use_backend(name):
            assert np.array_equal(Runtime(file, library)(images), expected), name


def test_the_reference_by_hand() -> None:
    tensors = (Tensor(DType.I32, (1, 2, 2)), Tensor(DType.I32, (1, 2, 2)))
    data, other = np.array([[1, -2], [3, 4]]), np.array([[5, 6], [-7, 9]])
    x, y = data.reshape(1, 1, 2, 2), other.reshape(1, 1, 2, 2)
    joined = run_op(Op(OpCode.CONCAT, 0, None, 1, residual=0), tensors, x, y)
    assert joined.tolist() == [[[[1, -2, 5, 6], [3, 4, -7, 9]]]]
    box = Op(OpCode.SLICE, 0, None, 1, start=(0, 1, 0), size=(1, 1, 2))
    assert run_op(box, tensors, x).tolist() == [[[[3, 4]]]]
    product = run_op(Op(OpCode.MULTIPLY, 0, None, 1, residual=0, shift=2), tensors, x, y)
    assert product.ravel().tolist() == [1, -3, -5, 9]  # 5/4, -12/4, -21/4, 36/4


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    tensors = (
        Tensor(DType.I32, (2, 3, 4)),
        Tensor(DType.I32, (2, 2, 4)),
        Tensor(DType.I32, (2, 3)),
    )
    assert output_shape(Op(OpCode.CONCAT, 0, None, 9, residual=0), tensors) == (2, 3, 8)
    for other in (1, 2):
        with pytest.raises(ModelFormatError, match="residual: expected height and width of data"):
            output_shape(Op(OpCode.CONCAT, 0, None, 9, residual=other), tensors)
    with pytest.raises(ModelFormatError, match="residual: expected the shape of data"):
        output_shape(Op(OpCode.MULTIPLY, 0, None, 9, residual=1, shift=1), tensors)


@pytest.mark.parametrize("channels", CHANNELS)
def test_streams_of_any_channels_are_joined(
    graphs: ModuleType, make_images: MakeImages, library: Path, channels: int
) -> None:
    """Another stream, and one with itself, which is then sliced across the seam."""
    graph = graphs.Graph(DType.I8, (2, 3, channels), channels)
    graph.scale()
    stream = graph.last
    weights = graph.constant(graph.rng.integers(-9, 10, (5, 1, 1, channels)), DType.I8)
    graph.append(OpCode.CONV_I32, weights)
    graph.append(OpCode.CONCAT, residual=stream)
    assert graph.dims == (2, 3, channels + 5)
    graph.append(OpCode.CONCAT, residual=graph.last)
    graph.append(OpCode.SLICE, start=(0, 1, 3), size=(2, 2, channels + 5))
    model = graph.model()
    _assert_exact(model, make_images(model), library)


def test_the_interval_of_a_join_holds_both() -> None:
    tensors = (Tensor(DType.I32, (1, 1, 1)),) * 3
    op = Op(OpCode.CONCAT, 0, None, 2, residual=1)
    assert output_interval(op, tensors, {0: (-3, 4), 1: (0, 9)}) == (-3, 9)
    assert output_interval(op, tensors, {0: (5, 6), 1: (-8, -7)}) == (-8, 6)


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((0, 0, 0), (5, 4, 7)),
        ((4, 0, 6), (1, 4, 1)),
        ((0, 3, 1), (5, 1, 3)),
        ((1, 1, 2), (3, 2, 5)),
    ],
)
def test_boxes_of_integers(
    graphs: ModuleType,
    library: Path,
    start: tuple[int, int, int],
    size: tuple[int, int, int],
) -> None:
    """Of the network's input itself, whose numbers are anything."""
    graph = graphs.Graph(DType.I32, (5, 4, 7), 0)
    graph.append(OpCode.SLICE, start=start, size=size)
    images = (np.arange(140).reshape(1, 5, 4, 7) - 2**31).astype(np.int32)
    _assert_exact(graph.model(), images, library)
    cut = images[0, *(slice(at, at + n) for at, n in zip(start, size, strict=True))]
    assert np.array_equal(run_model(graph.model(), images)[0], cut.ravel())


@pytest.mark.parametrize(
    ("channels", "first", "n"),
    [(1, 0, 1), (40, 0, 32), (40, 32, 8), (40, 0, 40), (96, 32, 32), (96, 32, 64), (130, 64, 66)],
)
def test_words_of_bits(
    graphs: ModuleType,
    make_images: MakeImages,
    library: Path,
    channels: int,
    first: int,
    n: int,
) -> None:
    """What a convolution of the cut bits says, which counts their padding as well."""
    graph = graphs.Graph(DType.BITS, (3, 4, channels), 0)
    graph.append(OpCode.SLICE, start=(1, 0, first), size=(2, 3, n))
    weights = graph.constant(graph.rng.random((3, 2, 2, n)) < 0.5, DType.BITS)
    graph.append(OpCode.CONV_B1, weights)
    _assert_exact(graph.model(), make_images(graph.model()), library)


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((0, 0, 0), (0, 1, 1)),
        ((0, 0, 0), (1, 1, -1)),
        ((-1, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (3, 1, 1)),
        ((0, 3, 0), (1, 2, 1)),
        ((0, 0, 40), (1, 1, 31)),
        ((2**31 - 1, 0, 0), (1, 1, 1)),
    ],
)
def test_boxes_that_are_not_inside_are_refused(
    start: tuple[int, ...], size: tuple[int, ...]
) -> None:
    tensors = (Tensor(DType.I32, (2, 4, 70)),)
    with pytest.raises(
        ModelFormatError, match=r"slice: expected a box inside of data \(2, 4, 70\)"
    ):
        output_shape(Op(OpCode.SLICE, 0, None, 1, start=start, size=size), tensors)  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "n"), [(1, 32), (33, 37), (0, 31), (32, 37), (64, 5)])
def test_words_of_bits_are_not_cut(first: int, n: int) -> None:
    tensors = (Tensor(DType.BITS, (1, 1, 70)),)
    op = Op(OpCode.SLICE, 0, None, 1, start=(0, 0, first), size=(1, 1, n))
    with pytest.raises(ModelFormatError, match="slice: expected whole words of 32 of the 70 bits"):
        output_shape(op, tensors)


def _product(graphs: ModuleType, shift: int, halves: int = 1) -> Model:
    """The square of int32 input divided by 2^halves, divided by 2^shift."""
    graph = graphs.Graph(DType.I32, (1, 1, 9), 0)
    one, zero = np.ones((1, 9)), np.zeros((1, 9))
    ones, zeros = graph.constant(one, DType.I32), graph.constant(zero, DType.I64)
    graph.append(OpCode.SCALE, multiplier=ones, bias=zeros, shift=halves)
    graph.append(OpCode.MULTIPLY, residual=graph.last, shift=shift)
    model: Model = graph.model()
    return model


def test_products_have_64_bits_and_are_rounded_up_at_halves(
    graphs: ModuleType, library: Path
) -> None:
    values = [-(2**31), 2**31 - 1, -(2**31) + 2, 2, 4, 65536, 92680, -92682, 0]
    images = np.array(values, np.int32).reshape(1, 1, 1, 9)
    model = _product(graphs, 30)
    _assert_exact(model, images, library)
    squares = [((v + 1) // 2) ** 2 for v in values]
    assert run_model(model, images)[0].tolist() == [(s + 2**29) // 2**30 for s in squares]
    assert run_model(model, images)[0, 0] == 2**30
    with pytest.raises(
        ModelFormatError, match=r"out: expected int32, got values in .* 2147483648\)"
    ):
        _product(graphs, 29)


@pytest.mark.parametrize("x", [(-5, 9), (3, 9), (-9, -2), (0, 0)])
@pytest.mark.parametrize("y", [(-4, 6), (2, 7), (-8, -1)])
def test_products_reach_their_bounds(x: tuple[int, int], y: tuple[int, int]) -> None:
    tensors = (Tensor(DType.I32, (1, 1, 1)),) * 3
    op = Op(OpCode.MULTIPLY, 0, None, 2, residual=1, shift=2)
    a, b = (np.arange(low, high + 1) for low, high in (x, y))
    grid = np.array(np.meshgrid(a, b)).reshape(2, -1, 1, 1, 1)
    result = run_op(op, tensors, grid[0], grid[1])
    assert output_interval(op, tensors, {0: x, 1: y}) == (result.min(), result.max())


@pytest.mark.parametrize("shift", [0, 32])
def test_shifts_that_the_runtime_cannot_do_are_refused(graphs: ModuleType, shift: int) -> None:
    model = _product(graphs, 31)
    ops = (model.ops[0], Op(OpCode.MULTIPLY, 3, None, 4, residual=3, shift=shift))
    with pytest.raises(ModelFormatError, match=f"shift: expected 1 to 31, .* got {shift}"):
        write_model(Model(ops, model.tensors))
