import dataclasses

import numpy as np
import pytest
import torch

import bnn
from bnn.integer import IntegerNet
from bnn.integer_ops import OPERATIONS
from kernels import DType, Model, Op, OpCode, Tensor, pack_bits
from kernels.reference import run_op
from tests.bnn.integer_twins import assert_twins_agree, images_of

NETWORKS = [
    ((9, 7, 3), (5, 33, 40)),
    ((8, 8, 1), (32, 64)),
    ((1, 1, 13), (31, 64, 1)),
    ((3, 5, 2), (4,)),
    ((2, 2, 1), (3, 7)),
]


@pytest.mark.parametrize(("shape", "widths"), NETWORKS)
def test_all_evaluations_return_the_same_integers(
    shape: tuple[int, int, int], widths: tuple[int, ...], randomise_norms
) -> None:
    net = bnn.BinaryConvNet(shape, 4, widths, seed=1)
    randomise_norms(net, np.random.default_rng(2))
    integer_net = bnn.integerize(net)
    images = images_of(shape)
    assert assert_twins_agree(integer_net, images).shape == (9, 4)
    assert bnn.agreement(net, integer_net, images).n_bit_mismatches == 0


def stored(dtype: DType, array: np.ndarray) -> Tensor:
    kinds = {DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8", DType.U16: "<u2"}
    if dtype is DType.BITS:
        return Tensor(dtype, array.shape, pack_bits(array > 0).tobytes())
    return Tensor(dtype, array.shape, array.astype(kinds[dtype]).tobytes())


def every_operation() -> Model:
    """All opcodes but CONV_I8, whose data are no activation, with ragged sizes."""
    rng = np.random.default_rng(0)
    tensors = [Tensor(DType.U8, (7, 6, 3))]
    ops: list[Op] = []

    def constant(dtype: DType, array: np.ndarray) -> int:
        tensors.append(stored(dtype, array))
        return len(tensors) - 1

    def append(code: OpCode, data: int, shape: tuple[int, ...], dtype=DType.I32, **fields) -> int:
        tensors.append(Tensor(dtype, shape))
        weights = fields.pop("weights", None)
        ops.append(Op(code, data, weights, len(tensors) - 1, **fields))
        return len(tensors) - 1

    def int8(*shape: int) -> int:
        return constant(DType.I8, rng.integers(-127, 128, shape))

    def levels(n: int, scale: int) -> int:
        rows = np.stack([rng.integers(-scale, scale, n), rng.integers(0, 2, n)])
        return constant(DType.I32, rows)

    def scales(n: int, rows: int, scale: float) -> dict[str, int]:
        m = rng.integers(-(2**15), 2**15, (rows, n))
        b = rng.integers(-(2**20), 2**20, ((rows + 1) // 2, n))
        return {
            "multiplier": constant(DType.I32, (m * scale).astype(np.int64)),
            "bias": constant(DType.I64, b),
            "shift": 16,
        }

    sums = append(
        OpCode.CONV_U8, 0, (7, 3, 40), weights=int8(40, 3, 3, 3), stride=(1, 2), padding=(1, 1)
    )
    bits = append(OpCode.THRESHOLD, sums, (7, 3, 40), DType.BITS, threshold=levels(40, 9000))
    bits = append(OpCode.MAX_POOL, bits, (7, 3, 40), DType.BITS, pool=(3, 3), padding=(1, 1))
    packed = constant(DType.BITS, rng.choice([-1, 1], (34, 3, 2, 20)))
    both = append(
        OpCode.CONV_B1, bits, (3, 2, 34), DType.BITS,
        weights=packed, groups=2, padding=(1, 0), pool=(2, 1), threshold=levels(34, 30),
    )  # fmt: skip
    left = append(
        OpCode.CONV_B1_I8, both, (3, 2, 6),
        weights=int8(6, 3, 1, 34), padding=(1, 0), zero_border=True, bias=levels_bias(constant, rng),
    )  # fmt: skip
    half = append(OpCode.SLICE, bits, (7, 2, 8), DType.BITS, start=(0, 1, 32), size=(7, 2, 8))
    right = append(OpCode.SCALE, half, (7, 2, 8), **scales(8, 1, 1.0))
    right = append(
        OpCode.AVERAGE_POOL, right, (3, 2, 8), pool=(2, 1), stride=(2, 1), **scales(8, 1, 1.0)
    )
    whole = append(OpCode.CONCAT, left, (3, 2, 14), residual=right)
    bent = append(OpCode.SCALE, whole, (3, 2, 14), **scales(14, 3, 0.5))
    whole = append(OpCode.ADD, whole, (3, 2, 14), residual=bent)
    gate = append(
        OpCode.LOOKUP, whole, (3, 2, 14), weights=constant(DType.U16, rng.integers(0, 2**16, 1000))
    )
    whole = append(OpCode.MULTIPLY, whole, (3, 2, 14), residual=gate, shift=16)
    whole = append(OpCode.CONV_I32, whole, (2, 2, 4), weights=int8(4, 2, 1, 7), groups=2)
    whole = append(OpCode.SLICE, whole, (1, 1, 3), start=(1, 0, 1), size=(1, 1, 3))
    return Model(tuple(ops), tuple(tensors))


def levels_bias(constant, rng: np.random.Generator) -> int:
    return constant(DType.I32, rng.integers(-5000, 5000, 6))


def test_every_operation_equals_the_slow_twin() -> None:
    model = every_operation()
    assert {op.code for op in model.ops} == set(OPERATIONS) - {OpCode.CONV_I8}
    assert set(OPERATIONS) == set(OpCode)
    images = images_of((7, 6, 3), 20)
    net = IntegerNet(model=model)
    assert_twins_agree(net, images)
    values = {0: images.astype(np.int64)}
    for exact in (False, True):
        outputs = net.activations(images, exact=exact)
        outputs[-1] = outputs[-1].reshape(20, 1, 1, 3)
        for op, found in zip(model.ops, outputs, strict=True):
            residual = None if op.residual is None else values[op.residual]
            values[op.out] = run_op(op, model.tensors, values[op.data], residual)
            np.testing.assert_array_equal(found, values[op.out])
            assert len(np.unique(found)) > 1  # a constant would compare nothing


def test_float_logits_are_the_integers_times_the_scale(ragged) -> None:
    images = np.random.default_rng(3).integers(0, 256, (30, 9, 7, 3), dtype=np.uint8)
    integer_net = bnn.integerize(ragged)
    expected = integer_net(images).astype(np.float32) * np.float32(integer_net.output_scale)
    np.testing.assert_array_equal(bnn.predict_logits(ragged, images), expected)


def dense(weights: list[list[int]]) -> IntegerNet:
    """Int8 weights over pixels, one position."""
    array = np.array(weights).reshape(len(weights), 1, 1, -1)
    tensors = (
        Tensor(DType.U8, (1, 1, array.shape[3])),
        stored(DType.I8, array),
        Tensor(DType.I32, (1, 1, len(array))),
    )
    return IntegerNet(model=Model((Op(OpCode.CONV_U8, 0, 1, 2),), tensors), names=("dense",))


@pytest.mark.parametrize(("n_in", "dtype"), [(500, torch.float32), (600, torch.float64)])
def test_sums_near_the_limits_of_float32_are_exact(n_in: int, dtype: torch.dtype) -> None:
    net = dense([[127] * n_in, [127] * (n_in - 1) + [126]])
    assert net._dtypes == (dtype,)  # 255 * 127 * 518 is the first beyond 2^24
    images = np.full((1, 1, 1, n_in), 255, np.uint8)
    images[0, 0, 0, 0] = 254
    total = 255 * 127 * n_in - 127
    assert net(images).tolist() == [[total, total - 255]]


def test_accumulators_beyond_int32_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="dense: acc: expected a bound below 2"):
        dense([[127] * 66_313])


def test_names_are_counted() -> None:
    net = dense([[1, 2]])
    with pytest.raises(ValueError, match="names: expected 1, one per operation, got 2"):
        dataclasses.replace(net, names=("a", "b"))


def test_ties_go_to_the_lowest_index() -> None:
    net = dense([[1, 0], [1, 0], [0, 1]])
    assert net(np.array([[[[5, 5]]]], np.uint8)).argmax(axis=1).tolist() == [0]


def test_wrong_images_are_refused(ragged) -> None:
    integer_net = bnn.integerize(ragged)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 9, 7, 3\)"):
        integer_net(np.zeros((1, 9, 7, 1), np.uint8))
    with pytest.raises(TypeError, match="images: expected dtype uint8, got int64"):
        integer_net(np.zeros((1, 9, 7, 3), np.int64))


def test_the_network_is_read_only_to_the_oracle(ragged) -> None:
    before = {name: value.clone() for name, value in ragged.state_dict().items()}
    bnn.integerize(ragged)(np.zeros((1, 9, 7, 3), np.uint8))
    assert all(torch.equal(before[name], value) for name, value in ragged.state_dict().items())
