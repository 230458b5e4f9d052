"""Models for the tests of this room: small, random, and always within the rules of the format."""

import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import DType, Model, Op, OpCode, Tensor, output_shape, pack_bits
from kernels.build import build_library
from kernels.panels import Layout

MakeModel = Callable[..., Model]
_REACH = {
    OpCode.CONV_U8: 255 * 128,
    OpCode.CONV_B1: 1,
    OpCode.CONV_B1_I8: 128,
    OpCode.CONV_I8: 128 * 128,
}
_INPUT = {OpCode.CONV_U8: DType.U8, OpCode.CONV_I8: DType.I8}


def _load(path: Path) -> ModuleType:
    """A module that is no test and not on the path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


graphs = _load(Path(__file__).parent / "fuzz" / "graphs.py")


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
    groups: int = 1,
    zero_border: bool = False,
    seed: int = 0,
) -> Model:
    """One operation on random constants; with a threshold, a second one that shows its bits."""
    rng = np.random.default_rng(seed)
    dims = (n_out, *kernel, image[2] // groups)
    tensors = [
        Tensor(_INPUT.get(code, DType.BITS), image),
        _weights(rng, dims, bits=code is OpCode.CONV_B1),
    ]
    references: dict[str, int] = {}
    if threshold:
        references["threshold"] = len(tensors)
        tensors.append(_threshold(rng, _REACH[code] * int(np.prod(dims[1:])), n_out))
    if bias:
        references["bias"] = len(tensors)
        values = rng.integers(-50, 50, n_out).astype("<i4")
        tensors.append(Tensor(DType.I32, (n_out,), values.tobytes()))
    op = Op(
        *(code, 0, 1, len(tensors)),
        **references,
        stride=stride,
        padding=padding,
        pool=pool,
        groups=groups,
        zero_border=zero_border,
    )
    tensors.append(Tensor(DType.BITS if threshold else DType.I32, output_shape(op, tensors)))
    ops = [op, _reveal(tensors, op.out, n_out)] if threshold else [op]
    return Model(tuple(ops), tuple(tensors), {"labels": ["a", "ß"]})


def make_images(model: Model, n_images: int = 3, seed: int = 0) -> NDArray[Any]:
    """Random images for ``model``, the extreme values included."""
    tensor = model.tensors[0]
    dtype, low, top = {
        DType.U8: (np.uint8, 0, 255),
        DType.I8: (np.int8, -128, 127),
        DType.I32: (np.int32, -(2**31), 2**31 - 1),
        DType.BITS: (np.uint8, 0, 1),
    }[tensor.dtype]
    rng = np.random.default_rng(seed)
    images = rng.integers(low, top, (n_images, *tensor.dims), dtype, endpoint=True)
    images[0] = top
    images[-1:, ..., ::2] = low
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


@pytest.fixture(scope="session")
def own_panels() -> Layout:
    """The panels that the runtime for this machine reads beside rows."""
    return Layout.VECTORS if platform.machine() in ("aarch64", "arm64") else Layout.LANES


@pytest.fixture(scope="session", name="make_model")
def _make_model() -> MakeModel:
    return make_model


@pytest.fixture(scope="session", name="make_images")
def _make_images() -> Callable[..., NDArray[np.uint8]]:
    return make_images


@pytest.fixture(scope="session", name="make_network")
def _make_network() -> MakeModel:
    return make_network


@pytest.fixture(scope="session", name="graphs")
def _graphs() -> ModuleType:
    """Random models: ``fuzz/graphs.py``."""
    return graphs


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """Two operations with threshold and bias, under 1 kB: small enough to damage exhaustively."""
    model = make_model(image=(3, 3, 1), n_out=2, kernel=(2, 2), threshold=True, bias=True)
    return Model(model.ops, model.tensors)
