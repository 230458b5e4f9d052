"""Models for the tests of this room: small, random, and always within the rules of the format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Model, Op, OpCode, Tensor, output_shape, pack_bits
from kernels.build import build_library

MakeModel = Callable[..., Model]


def _weights(rng: np.random.Generator, dims: tuple[int, ...], *, bits: bool) -> Tensor:
    if bits:
        return Tensor(DType.BITS, dims, pack_bits(rng.random(dims) < 0.5).tobytes())
    return Tensor(DType.I8, dims, rng.integers(-128, 128, dims, dtype=np.int8).tobytes())


def _threshold(rng: np.random.Generator, reach: int, n_out: int) -> Tensor:
    """Thresholds near 0, where bits vary, but always and never in the first two channels."""
    level = rng.integers(-(reach // 4) - 1, reach // 4 + 2, n_out)
    level[:2] = (-reach - 1, reach + 1)[:n_out]
    rows = np.stack([level, rng.integers(0, 2, n_out)]).astype("<i4")
    return Tensor(DType.I32, rows.shape, rows.tobytes())


def _reveal(tensors: list[Tensor], data: int, n_channels: int) -> Op:
    """A last operation whose outputs are the bits of ``data``, as +-1."""
    identity = np.eye(n_channels, dtype=np.int8)
    tensors.append(Tensor(DType.I8, (n_channels, 1, 1, n_channels), identity.tobytes()))
    op = Op(OpCode.CONV_B1_I8, data, len(tensors) - 1, len(tensors))
    tensors.append(Tensor(DType.I32, output_shape(op, tensors)))
    return op


def make_model(
    code: OpCode = OpCode.CONV_U8,
    image: tuple[int, int, int] = (5, 4, 3),
    n_out: int = 2,
    *,
    kernel: tuple[int, int] = (3, 2),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    pool: tuple[int, int] = (1, 1),
    threshold: bool = False,
    bias: bool = False,
    seed: int = 0,
) -> Model:
    """One operation on random constants; with a threshold, a second one that shows its bits."""
    rng = np.random.default_rng(seed)
    dims = (n_out, *kernel, image[2])
    tensors = [
        Tensor(DType.U8 if code is OpCode.CONV_U8 else DType.BITS, image),
        _weights(rng, dims, bits=code is OpCode.CONV_B1),
    ]
    reach = {OpCode.CONV_U8: 255 * 128, OpCode.CONV_B1: 1, OpCode.CONV_B1_I8: 128}[code]
    references: dict[str, int] = {}
    if threshold:
        references["threshold"] = len(tensors)
        tensors.append(_threshold(rng, reach * int(np.prod(dims[1:])), n_out))
    if bias:
        references["bias"] = len(tensors)
        values = rng.integers(-50, 50, n_out).astype("<i4")
        tensors.append(Tensor(DType.I32, (n_out,), values.tobytes()))
    op = Op(code, 0, 1, len(tensors), **references, stride=stride, padding=padding, pool=pool)
    tensors.append(Tensor(DType.BITS if threshold else DType.I32, output_shape(op, tensors)))
    ops = [op, _reveal(tensors, op.out, n_out)] if threshold else [op]
    return Model(tuple(ops), tuple(tensors), {"labels": ["a", "ß"]})


def make_images(model: Model, n_images: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Random images for ``model``, the extreme values included."""
    tensor = model.tensors[0]
    top = 2 if tensor.dtype is DType.BITS else 256
    rng = np.random.default_rng(seed)
    images = rng.integers(0, top, (n_images, *tensor.dims), dtype=np.uint8)
    images[0] = top - 1
    return images


def make_network(seed: int = 0) -> Model:
    """All three operations in a row, with pooling and ragged channels: a whole small network."""
    rng = np.random.default_rng(seed)
    plan = (
        (OpCode.CONV_U8, 33, (3, 3), (1, 1), (2, 2)),
        (OpCode.CONV_B1, 40, (3, 3), (1, 1), (2, 2)),
        (OpCode.CONV_B1, 31, (2, 2), (0, 0), (1, 1)),
        (OpCode.CONV_B1_I8, 10, (2, 1), (0, 0), (1, 1)),
    )
    tensors = [Tensor(DType.U8, (13, 9, 1))]
    ops = []
    data = 0
    for code, n_out, kernel, padding, pool in plan:
        n_in = tensors[data].dims[2]
        weights = len(tensors)
        tensors.append(_weights(rng, (n_out, *kernel, n_in), bits=code is OpCode.CONV_B1))
        is_last = code is OpCode.CONV_B1_I8
        threshold = None if is_last else len(tensors)
        if not is_last:
            reach = int(np.prod(kernel)) * n_in * (255 * 128 if code is OpCode.CONV_U8 else 1)
            tensors.append(_threshold(rng, reach, n_out))
        op = Op(code, data, weights, len(tensors), threshold, padding=padding, pool=pool)
        tensors.append(Tensor(DType.I32 if is_last else DType.BITS, output_shape(op, tensors)))
        ops.append(op)
        data = op.out
    return Model(tuple(ops), tuple(tensors), {"name": "small"})


@pytest.fixture(scope="session")
def library() -> Path:
    """The runtime for this machine."""
    return build_library("host")


@pytest.fixture(scope="session", name="make_model")
def _make_model() -> MakeModel:
    return make_model


@pytest.fixture(scope="session", name="make_images")
def _make_images() -> Callable[..., NDArray[np.uint8]]:
    return make_images


@pytest.fixture(scope="session", name="make_network")
def _make_network() -> MakeModel:
    return make_network


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """Two operations with threshold and bias, under 1 kB: small enough to damage exhaustively."""
    model = make_model(image=(3, 3, 1), n_out=2, kernel=(2, 2), threshold=True, bias=True)
    return Model(model.ops, model.tensors)
