import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bnn
from bnn.integer import IntegerNet
from bnn.onnx_export import export_onnx, onnx_bytes
from bnn.onnx_export_ops import ONNX_FORMS, exact_float
from kernels import DType, Model, Op, OpCode, Tensor, pack_bits, run_model
from kernels.model import logical_digest
from tests.bnn.integer_twins import randomise

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")


def evaluated(content: bytes, images: NDArray[np.generic]) -> NDArray[np.int32]:
    """Logits by the evaluator of the standard's own package."""
    (logits,) = reference.ReferenceEvaluator(onnx.load_from_string(content)).run(
        None, {"images": images}
    )
    assert logits.dtype == np.int32
    return logits


class Builder:
    """One operation after another on random constants."""

    def __init__(self, seed: int, dims: tuple[int, int, int], dtype: DType = DType.U8) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = [Tensor(dtype, dims)]
        self.ops: list[Op] = []

    def constant(self, dtype: DType, array: NDArray[np.integer]) -> int:
        kinds = {DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8", DType.U16: "<u2"}
        is_bits = dtype is DType.BITS
        data = pack_bits(array > 0) if is_bits else np.ascontiguousarray(array.astype(kinds[dtype]))
        self.tensors.append(Tensor(dtype, array.shape, data.tobytes()))
        return len(self.tensors) - 1

    def weights(self, *dims: int, bits: bool = False) -> int:
        if bits:
            return self.constant(DType.BITS, self.rng.choice([-1, 1], dims))
        return self.constant(DType.I8, self.rng.integers(-128, 128, dims))

    def threshold(self, n: int, scale: int) -> int:
        flips = np.arange(n) % 2
        return self.constant(DType.I32, np.stack([self.rng.integers(-scale, scale, n), flips]))

    def scales(self, n: int, n_rows: int, scale: float) -> dict[str, int]:
        m = self.rng.integers(-(2**15), 2**15, (n_rows, n)) * scale
        b = self.rng.integers(-(2**20), 2**20, ((n_rows + 1) // 2, n))
        return {
            "multiplier": self.constant(DType.I32, m.astype(np.int64)),
            "bias": self.constant(DType.I64, b),
            "shift": 16,
        }

    def append(
        self, code: OpCode, data: int, shape: tuple[int, ...], dtype: DType = DType.I32, **fields
    ) -> int:
        self.tensors.append(Tensor(dtype, shape))
        out = len(self.tensors) - 1
        self.ops.append(Op(code, data, fields.pop("weights", None), out, **fields))
        return out

    def model(self) -> Model:
        return Model(tuple(self.ops), tuple(self.tensors))


def convolutions() -> Model:
    """Pixels, bits with both borders, groups, pools and thresholds, ragged sizes."""
    b = Builder(0, (7, 6, 3))
    x = b.append(
        OpCode.CONV_U8, 0, (3, 3, 34), DType.BITS, weights=b.weights(34, 3, 3, 3),
        stride=(1, 2), padding=(1, 1), pool=(2, 1), threshold=b.threshold(34, 20000),
    )  # fmt: skip
    x = b.append(
        OpCode.CONV_B1, x, (4, 2, 40), DType.BITS, weights=b.weights(40, 2, 2, 17, bits=True),
        groups=2, padding=(1, 0), threshold=b.threshold(40, 9),
    )  # fmt: skip
    x = b.append(
        OpCode.CONV_B1, x, (4, 2, 33), DType.BITS, weights=b.weights(33, 3, 1, 40, bits=True),
        zero_border=True, padding=(1, 0), threshold=b.threshold(33, 9),
    )  # fmt: skip
    bias = b.constant(DType.I32, b.rng.integers(-5000, 5000, 5))
    b.append(
        OpCode.CONV_B1_I8, x, (2, 1, 5), weights=b.weights(5, 3, 2, 33), padding=(1, 0),
        stride=(2, 1), bias=bias,
    )  # fmt: skip
    return b.model()


def streams() -> Model:
    """What works on int32: scales, knees, sums, gates, tables, boxes, pools of both kinds."""
    b = Builder(1, (6, 5, 3))
    acc = b.append(OpCode.CONV_U8, 0, (6, 5, 40), weights=b.weights(40, 1, 1, 3))
    bits = b.append(OpCode.THRESHOLD, acc, (6, 5, 40), DType.BITS, threshold=b.threshold(40, 9000))
    bits = b.append(
        OpCode.MAX_POOL, bits, (3, 3, 40), DType.BITS, pool=(3, 3), stride=(2, 2), padding=(1, 1)
    )
    part = b.append(OpCode.SLICE, bits, (3, 3, 8), DType.BITS, start=(0, 0, 32), size=(3, 3, 8))
    of_bits = b.append(OpCode.SCALE, part, (3, 3, 8), **b.scales(8, 1, 4.0))
    pooled = b.append(OpCode.MAX_POOL, acc, (3, 3, 40), pool=(2, 2), stride=(2, 2), padding=(0, 1))
    mean = b.append(
        OpCode.AVERAGE_POOL, pooled, (3, 3, 40), pool=(3, 3), padding=(1, 1), **b.scales(40, 1, 0.2)
    )
    bent = b.append(OpCode.SCALE, mean, (3, 3, 40), **b.scales(40, 3, 1.0))
    total = b.append(OpCode.ADD, mean, (3, 3, 40), residual=bent)
    both = b.append(OpCode.CONCAT, total, (3, 3, 48), residual=of_bits)
    table = b.constant(DType.U16, b.rng.integers(0, 2**16, 1000))
    gate = b.append(OpCode.LOOKUP, both, (3, 3, 48), weights=table)
    both = b.append(OpCode.MULTIPLY, both, (3, 3, 48), residual=gate, shift=16)
    both = b.append(
        OpCode.CONV_I32, both, (2, 2, 4), weights=b.weights(4, 2, 3, 12), groups=4,
        stride=(1, 2), padding=(0, 1),
    )  # fmt: skip
    b.append(OpCode.SLICE, both, (2, 1, 3), start=(0, 1, 1), size=(2, 1, 3))
    return b.model()


def int8_data() -> Model:
    b = Builder(2, (4, 3, 5), DType.I8)
    b.append(OpCode.CONV_I8, 0, (4, 3, 2), weights=b.weights(2, 3, 3, 5), padding=(1, 1))
    return b.model()


MODELS = {"convolutions": convolutions, "streams": streams, "int8_data": int8_data}


def inputs_of(model: Model, n: int = 11) -> NDArray[np.integer]:
    rng = np.random.default_rng(5)
    if model.tensors[0].dtype is DType.I8:
        return rng.integers(-128, 128, (n, *model.tensors[0].dims), dtype=np.int8)
    return rng.integers(0, 256, (n, *model.tensors[0].dims), dtype=np.uint8)


def names_of(model: Model) -> tuple[str, ...]:
    return tuple(f"layer{i}" for i in range(len(model.ops)))


@pytest.mark.parametrize("name", MODELS)
def test_the_file_computes_the_same_integers(name: str) -> None:
    model = MODELS[name]()
    images = inputs_of(model)
    expected = run_model(model, images)
    assert len(np.unique(expected)) > 5  # a constant would compare nothing
    np.testing.assert_array_equal(evaluated(onnx_bytes(model, names_of(model)), images), expected)


def test_every_opcode_has_a_form_and_is_evaluated() -> None:
    assert set(ONNX_FORMS) == set(OpCode)
    assert {op.code for make in MODELS.values() for op in make().ops} == set(OpCode)


def test_every_activation_is_the_same_tensor() -> None:
    """An error in the middle that the logits do not show is one all the same."""
    model = streams()
    images = inputs_of(model, 4)
    activations = IntegerNet(model=model).activations(images)
    content = onnx.load_from_string(onnx_bytes(model, names_of(model)))
    last = {}
    for node in content.graph.node:
        last[node.name.split("/")[0]] = node.output[0]
    wanted = [last[name] for name in names_of(model)]
    values = reference.ReferenceEvaluator(content).run(wanted, {"images": images})
    for found, expected in zip(values[:-1], activations[:-1], strict=True):
        np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), expected)
        assert found.dtype in (np.int32, np.int8)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("binary_conv_net", (8, 8, 1)),
        ("react_resnet", (8, 8, 2)),
        ("keyword_spotter", (1, 9, 5)),
    ],
)
def test_networks_of_the_library(model: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    widths = None if model == "keyword_spotter" else (8, 12)
    net = bnn.models.build_model(model, shape, 4, widths, seed=3)
    randomise(net, 2)
    integer_net = bnn.integerize(net)
    images = np.random.default_rng(1).integers(0, 256, (3, *shape), dtype=np.uint8)
    export_onnx(net, tmp_path / "net.onnx")
    found = evaluated((tmp_path / "net.onnx").read_bytes(), images)
    np.testing.assert_array_equal(found, integer_net(images))


def test_names_properties_and_equal_bytes(ragged, tmp_path: Path) -> None:
    integer_net = bnn.integerize(ragged)
    labels = {"labels": ["a", "b", "c", "d", "ü"]}
    path = tmp_path / "net.onnx"
    n_bytes = export_onnx(ragged, path, labels)
    first = path.read_bytes()
    assert len(first) == n_bytes
    assert export_onnx(integer_net, path, labels) == n_bytes
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]

    proto = onnx.load_from_string(first)
    properties = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert properties["labels"] == labels["labels"]
    assert properties["output_scale"] == integer_net.output_scale
    assert properties["input"]["shape"] == [9, 7, 3]
    assert properties["logical_digest"] == logical_digest(integer_net.model)
    layers = {node.name.split("/")[0] for node in proto.graph.node if node.doc_string}
    assert layers == set(integer_net.names)
    assert {node.doc_string for node in proto.graph.node} - {""} == {
        op.code.name for op in integer_net.model.ops
    }
    weights = [array for array in proto.graph.initializer if array.name.endswith("/weights")]
    assert len(weights) == len(integer_net.model.ops)
    assert {array.data_type for array in weights} == {onnx.TensorProto.INT8}
    binary = [w for w, op in zip(weights, integer_net.model.ops, strict=True) if op.code == 2]
    assert all(set(np.unique(onnx.numpy_helper.to_array(w))) == {-1, 1} for w in binary)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_another_network_gives_other_bytes(ragged) -> None:
    model = bnn.integerize(ragged).model
    names = names_of(model)
    other = bnn.integerize(bnn.BinaryConvNet((9, 7, 3), 5, widths=(5, 33, 40), seed=4)).model
    assert onnx_bytes(model, names) != onnx_bytes(other, names)


def test_what_has_no_form_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ONNX_FORMS, OpCode.LOOKUP)
    with pytest.raises(ValueError, match=r"layer10: expected an operation with a standard ONNX"):
        onnx_bytes(streams(), names_of(streams()))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bitspin\[onnx\]'"):
        onnx_bytes(int8_data(), ("conv",))


def test_nothing_is_written_where_nothing_can_be(ragged, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        export_onnx(ragged, tmp_path / "missing" / "net.onnx")
    with pytest.raises(ValueError, match="labels: expected a list of 5 names"):
        export_onnx(ragged, tmp_path / "net.onnx", {"labels": ["a"]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bound", "dtype"), [((1 << 24) - 1, np.float32), (1 << 24, np.float64), (1 << 31, np.float64)]
)
def test_floats_that_hold_every_integer(bound: int, dtype: type[np.generic]) -> None:
    assert exact_float(bound) is dtype
