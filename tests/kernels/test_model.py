"""Shapes, digest and rules: everything about a model that does not concern the file."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kernels import (
    DType,
    Model,
    ModelFormatError,
    Op,
    OpCode,
    Tensor,
    logical_digest,
    output_shape,
    write_model,
)
from kernels.model import MAX_BYTES
from kernels.model_rules import check_model


def _shape(image: tuple[int, int], kernel: tuple[int, int], **params: tuple[int, int]) -> tuple:
    tensors = (Tensor(DType.U8, (*image, 3)), Tensor(DType.I8, (7, *kernel, 3)))
    return output_shape(Op(OpCode.CONV_U8, 0, 1, 2, **params), tensors)


@pytest.mark.parametrize(
    ("image", "kernel", "params", "shape"),
    [
        ((28, 28), (3, 3), {"padding": (1, 1), "pool": (2, 2)}, (14, 14, 7)),
        ((7, 7), (3, 3), {"padding": (1, 1), "pool": (2, 2)}, (3, 3, 7)),
        ((28, 28), (28, 28), {}, (1, 1, 7)),
        ((9, 8), (3, 2), {"stride": (2, 3)}, (4, 3, 7)),
        ((5, 9), (2, 3), {"padding": (1, 2), "stride": (2, 1), "pool": (1, 4)}, (3, 2, 7)),
    ],
)
def test_output_shape(image, kernel, params, shape) -> None:
    assert _shape(image, kernel, **params) == shape


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"stride": (0, 1)}, "stride >= 1"),
        ({"pool": (1, 0)}, "pool >= 1"),
        ({"padding": (3, 0)}, "padding < kernel"),
        ({"padding": (0, -1)}, "0 <= padding"),
        ({"pool": (1, 4)}, "room for one output"),
    ],
)
def test_output_shape_refuses(params, match: str) -> None:
    with pytest.raises(ModelFormatError, match=match):
        _shape((5, 5), (3, 3), **params)


def test_kernel_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="room for one output"):
        _shape((2, 5), (3, 3))


def test_bytes_of_bits_are_whole_words_per_pixel() -> None:
    assert Tensor(DType.BITS, (2, 3, 33)).n_bytes == 2 * 3 * 2 * 4
    assert Tensor(DType.I32, (2, 3)).n_bytes == 24
    assert Tensor(DType.I64, (2, 3)).n_bytes == 48


def test_logical_digest_covers_structure_and_constants(tiny_model: Model) -> None:
    op, last = tiny_model.ops
    weights = tiny_model.tensors[1]
    assert weights.data is not None
    changed = bytes([weights.data[0] ^ 1]) + weights.data[1:]
    variants = [
        tiny_model,
        replace(tiny_model, ops=(replace(op, stride=(2, 1)), last)),
        replace(tiny_model, ops=(replace(op, padding=(1, 0)), last)),
        replace(tiny_model, ops=(replace(op, bias=None), last)),
        replace(tiny_model, ops=(replace(op, groups=2), last)),
        replace(tiny_model, ops=(replace(op, zero_border=True), last)),
        replace(tiny_model, ops=(replace(op, residual=0), last)),
        replace(tiny_model, ops=(replace(op, multiplier=0), last)),
        replace(tiny_model, ops=(replace(op, shift=2), last)),
        replace(tiny_model, ops=(op, replace(last, shift=2))),
        replace(tiny_model, ops=(op,)),
        replace(
            tiny_model,
            tensors=(
                tiny_model.tensors[0],
                replace(weights, data=changed),
                *tiny_model.tensors[2:],
            ),
        ),
    ]
    assert len({logical_digest(model) for model in variants}) == len(variants)
    assert logical_digest(replace(tiny_model, metadata={"a": 1})) == logical_digest(tiny_model)


def _with_tensor(model: Model, number: int, tensor: Tensor) -> Model:
    tensors = list(model.tensors)
    tensors[number] = tensor
    return replace(model, tensors=tuple(tensors))


def _with_op(model: Model, number: int, **changes: object) -> Model:
    ops = list(model.ops)
    ops[number] = replace(ops[number], **changes)  # type: ignore[arg-type]
    return replace(model, ops=tuple(ops))


def _ints(*rows: list[int]) -> Tensor:
    values = np.array(rows if len(rows) > 1 else rows[0], "<i4")
    return Tensor(DType.I32, values.shape, values.tobytes())


# tiny_model: 0 input, 1 weights, 2 threshold, 3 bias, 4 bits, 5 identity, 6 output
BROKEN: list[tuple[Callable[[Model], Model], str]] = [
    (lambda m: replace(m, ops=()), "1 to 1024 ops"),
    (lambda m: _with_tensor(m, 0, Tensor(DType.U8, (3, 0, 1))), "positive sizes"),
    (lambda m: _with_tensor(m, 0, Tensor(DType.U8, (1, 1, 1, 1, 1))), "1 to 4"),
    (lambda m: _with_tensor(m, 0, Tensor(DType.U8, (MAX_BYTES, 2, 1))), "at most"),
    (lambda m: _with_tensor(m, 1, replace(m.tensors[1], data=b"")), r"tensors\[1\]: data: expected 8"),
    (lambda m: _with_tensor(m, 1, replace(m.tensors[1], data=None)), "expected constants"),
    (lambda m: _with_tensor(m, 1, replace(m.tensors[1], dtype=DType.U8)), "CONV_U8 takes U8"),
    (lambda m: _with_tensor(m, 4, Tensor(DType.BITS, (2, 2, 3))), "out: expected BITS"),
    (lambda m: _with_tensor(m, 4, Tensor(DType.I32, (2, 2, 2))), "out: expected BITS"),
    (lambda m: _with_tensor(m, 6, Tensor(DType.BITS, (2, 2, 2))), "output of the network"),
    (lambda m: _with_tensor(m, 2, _ints([0, 0], [0, 2])), "flips 0 or 1"),
    (lambda m: _with_tensor(m, 2, _ints([0, 0])), "threshold: expected I32"),
    (lambda m: _with_tensor(m, 2, _ints([4 * 255 * 128 + 100, 0], [0, 0])), "threshold: expected .* <= t <= "),
    (lambda m: _with_tensor(m, 3, _ints([2**31 - 1, 0])), r"acc: expected a bound below 2\*\*31"),
    (lambda m: _with_tensor(m, 3, _ints([-(2**31), 0])), r"acc: expected a bound below 2\*\*31"),
    (lambda m: _with_tensor(m, 3, _ints([0, 0, 0])), "bias: expected I32"),
    (lambda m: _with_op(m, 0, weights=99), "expected a tensor number"),
    (lambda m: _with_op(m, 0, weights=-1), "expected a tensor number"),
    (lambda m: _with_op(m, 0, data=4), "not yet written"),
    (lambda m: _with_op(m, 1, out=4), "may not be written"),
    (lambda m: _with_op(m, 1, out=5), "may not be written"),
    (lambda m: _with_op(m, 1, data=0), "to be read by an op"),
    (lambda m: _with_op(m, 0, stride=(2**31, 1)), "params: expected int32"),
    (lambda m: replace(m, tensors=(*m.tensors, m.tensors[1])), "to be read by an op"),
    (lambda m: replace(m, ops=m.ops[::-1]), "not yet written"),
    (lambda m: _with_op(m, 0, groups=0), "groups: expected 1"),
    (lambda m: _with_op(m, 0, groups=2), "weights: expected .* and 2 groups"),
    (lambda m: _with_op(m, 0, shift=1), "shift: expected 1 to 31, 0 if nothing is scaled, got 1"),
    (lambda m: _with_op(m, 0, zero_border=True), "zero_border: expected a convolution of bits"),
    (lambda m: _with_op(m, 0, residual=0), "operands: CONV_U8 takes data weights, may have bias"),
    (lambda m: _with_op(m, 0, code=OpCode.THRESHOLD), "operands: THRESHOLD takes data threshold"),
    (lambda m: _with_op(m, 0, code=OpCode.MAX_POOL), "operands: MAX_POOL takes data nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "match"), BROKEN)
def test_broken_rules_are_named(
    tiny_model: Model, breaks: Callable[[Model], Model], match: str
) -> None:
    check_model(tiny_model)
    with pytest.raises(ModelFormatError, match=match):
        write_model(breaks(tiny_model))


def test_padding_bits_of_weights_have_to_be_zero(make_model: Callable[..., Model]) -> None:
    model = make_model(OpCode.CONV_B1, (3, 3, 31), 1)
    data = bytearray(model.tensors[1].data or b"")
    data[3] |= 0x80
    with pytest.raises(ModelFormatError, match="padding bits 0"):
        check_model(_with_tensor(model, 1, replace(model.tensors[1], data=bytes(data))))
