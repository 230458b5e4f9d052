"""Every operation of the model format as standard ONNX nodes whose values are the exact integers.

Tensors are (N, C, H, W), as ONNX has them. Accumulators and streams are int32, bits are int8 ±1.
Convolutions and pools run in floats, because the standard has them for floats only: float32 where
every partial sum stays below 2^24, else float64, so that nothing can round in any order of
summation. Nothing here needs the package onnx.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnn.integer_ops import magnitude
from kernels import DType, Model, Op, OpCode, Tensor
from kernels.model import GROUPED
from kernels.model_bounds import Interval
from kernels.reference import decode

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One ONNX node; its name is that of the value it makes."""

    kind: str
    """Operator of the standard."""
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    """Integers, tuples of them, or a numpy dtype for ``Cast``."""
    opcode: str
    """Operation of the integer network that it is a part of."""


class Graph:
    """Nodes and constants under construction, with unique names that begin with the layer.

    Parameters
    ----------
    tensors
        Of the model.
    known
        Activation -> interval of its values.
    """

    def __init__(self, tensors: Sequence[Tensor], known: Mapping[int, Interval]) -> None:
        self.tensors = tensors
        self.known = known
        self.nodes: list[Node] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.layer = ""
        self.opcode = ""
        self._n_uses: dict[str, int] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        output = self._unique(kind)
        self.nodes.append(
            Node(
                kind=kind,
                inputs=inputs,
                output=output,
                attributes=attributes,
                opcode=self.opcode,
            )
        )
        return output

    def constant(self, role: str, array: NDArray[Any]) -> str:
        """Append a constant; its name."""
        name = self._unique(role)
        self.constants[name] = array
        return name

    def cast(self, value: str, dtype: type[np.generic]) -> str:
        """``value`` as another type."""
        return self.node("Cast", value, to=np.dtype(dtype))

    def per_channel(self, role: str, array: NDArray[Any], dtype: type[np.generic]) -> str:
        """Constant of shape (C, 1, 1), which is broadcast over (N, C, H, W)."""
        return self.constant(role, array.astype(dtype)[:, None, None])

    def stored(self, number: int | None) -> NDArray[np.int64]:
        """Values of a constant of the model; bits are ±1."""
        assert number is not None  # the rules of the model say which operands there are
        return decode(self.tensors[number])

    def greatest(self, number: int) -> int:
        """Bound of the magnitude of an activation."""
        return max(abs(end) for end in self.known[number])

    def _unique(self, part: str) -> str:
        name = f"{self.layer}/{part}" if self.layer else part
        n = self._n_uses[name] = self._n_uses.get(name, 0) + 1
        return name if n == 1 else f"{name}_{n}"


def exact_float(bound: int) -> type[np.generic]:
    """Smallest float type that holds every integer up to ``bound``, itself at most 2^53."""
    return np.float32 if bound < 1 << 24 else np.float64


def append_operation(graph: Graph, op: Op, values: Mapping[int, str]) -> str:
    """Append the nodes of one operation.

    Parameters
    ----------
    graph
        Its ``layer`` is that of the operation.
    op
        Any that is in :data:`ONNX_FORMS`.
    values
        Activation -> name of the value that holds it.

    Returns
    -------
    str
        Name of the output.

    Raises
    ------
    ValueError
        Naming the layer, if the operation has no form in the standard.
    """
    form = ONNX_FORMS.get(op.code)
    if form is None:
        raise ValueError(
            f"{graph.layer}: expected an operation with a standard ONNX form, got {op.code.name}; "
            "export this network as a model file"
        )
    graph.opcode = op.code.name
    operands = [values[number] for number in op.activations]
    result = form(graph, op, *operands)
    if op.threshold is not None and op.code is not OpCode.THRESHOLD:
        result = _threshold(graph, op, result)
    return result


def _convolution(graph: Graph, op: Op, data: str) -> str:
    dtype = exact_float(magnitude(op, tuple(graph.tensors), graph.known[op.data]))
    weights = graph.stored(op.weights).transpose(0, 3, 1, 2)  # (C_out, C_in / groups, KH, KW)
    inputs = [graph.cast(graph.constant("weights", weights.astype(np.int8)), dtype)]
    if op.bias is not None:
        inputs.append(graph.constant("bias", graph.stored(op.bias).astype(dtype)))
    x, padding = graph.cast(data, dtype), op.padding
    of_bits = op.code in (OpCode.CONV_B1, OpCode.CONV_B1_I8)
    if of_bits and not op.zero_border and any(padding):
        sides = graph.constant("pads", np.array([0, 0, *padding] * 2, np.int64))
        x = graph.node("Pad", x, sides, graph.constant("border", np.array(-1, dtype)))
        padding = (0, 0)
    acc = graph.node(
        "Conv",
        x,
        *inputs,
        kernel_shape=weights.shape[2:],
        strides=op.stride,
        pads=(*padding, *padding),
        group=op.groups,
    )
    if op.pool != (1, 1):
        acc = graph.node("MaxPool", acc, kernel_shape=op.pool, strides=op.pool)
    return graph.cast(acc, np.int32)


def _threshold(graph: Graph, op: Op, data: str) -> str:
    """Bits of (x >= t) ^ flip: of two constants per channel, the one for x >= t or the other."""
    level, flip = graph.stored(op.threshold)
    above = graph.per_channel("above", 1 - 2 * flip, np.int8)
    below = graph.per_channel("below", 2 * flip - 1, np.int8)
    x = graph.cast(data, np.int32) if graph.tensors[op.data].dtype is DType.U8 else data
    reached = graph.node("GreaterOrEqual", x, graph.per_channel("threshold", level, np.int32))
    return graph.node("Where", reached, above, below)


def _scale(graph: Graph, op: Op, data: str) -> str:
    """(x m + b + 2^(s-1)) >> s in int64; with three rows, m and b depend on x >= knee."""
    multiplier, bias = graph.stored(op.multiplier), graph.stored(op.bias)
    offset = bias + (1 << op.shift - 1)
    x = graph.cast(data, np.int64)
    m = graph.per_channel("multiplier", multiplier[0], np.int64)
    b = graph.per_channel("offset", offset[0], np.int64)
    if len(multiplier) == 3:
        knee = graph.per_channel("knee", multiplier[2], np.int64)
        above = graph.node("GreaterOrEqual", x, knee)
        m = graph.node(
            "Where", above, m, graph.per_channel("multiplier_below", multiplier[1], np.int64)
        )
        b = graph.node("Where", above, b, graph.per_channel("offset_below", offset[1], np.int64))
    return _shifted(graph, graph.node("Add", graph.node("Mul", x, m), b), op.shift)


def _shifted(graph: Graph, value: str, shift: int) -> str:
    """Floor division of int64 by 2^shift: Div truncates and BitShift takes no sign, Mod floors."""
    divisor = graph.constant("divisor", np.array(1 << shift, np.int64))
    whole = graph.node("Sub", value, graph.node("Mod", value, divisor))
    return graph.cast(graph.node("Div", whole, divisor), np.int32)


def _average_pool(graph: Graph, op: Op, data: str) -> str:
    """Sums of windows as a depthwise convolution with ones, then a scale."""
    n_channels = graph.tensors[op.data].dims[2]
    dtype = exact_float(op.pool[0] * op.pool[1] * graph.greatest(op.data))
    ones = graph.constant("ones", np.ones((n_channels, 1, *op.pool), np.int8))
    sums = graph.node(
        "Conv",
        graph.cast(data, dtype),
        graph.cast(ones, dtype),
        kernel_shape=op.pool,
        strides=op.stride,
        pads=(*op.padding, *op.padding),
        group=n_channels,
    )
    return _scale(graph, op, sums)


def _max_pool(graph: Graph, op: Op, data: str) -> str:
    is_bits = graph.tensors[op.data].dtype is DType.BITS
    largest = graph.node(
        "MaxPool",
        graph.cast(data, exact_float(graph.greatest(op.data))),
        kernel_shape=op.pool,
        strides=op.stride,
        pads=(*op.padding, *op.padding),
    )
    return graph.cast(largest, np.int8 if is_bits else np.int32)


def _add(graph: Graph, op: Op, data: str, residual: str) -> str:
    return graph.node("Add", data, residual)


def _multiply(graph: Graph, op: Op, data: str, residual: str) -> str:
    product = graph.node("Mul", graph.cast(data, np.int64), graph.cast(residual, np.int64))
    half = graph.constant("half", np.array(1 << op.shift - 1, np.int64))
    return _shifted(graph, graph.node("Add", product, half), op.shift)


def _concat(graph: Graph, op: Op, data: str, residual: str) -> str:
    return graph.node("Concat", data, residual, axis=1)


def _slice(graph: Graph, op: Op, data: str) -> str:
    (row, column, channel), (rows, columns, channels) = op.start, op.size
    starts, sizes = np.array([channel, row, column]), np.array([channels, rows, columns])
    return graph.node(
        "Slice",
        data,
        graph.constant("starts", starts.astype(np.int64)),
        graph.constant("ends", (starts + sizes).astype(np.int64)),
        graph.constant("axes", np.array([1, 2, 3], np.int64)),
    )


def _lookup(graph: Graph, op: Op, data: str) -> str:
    table = graph.stored(op.weights)
    half = len(table) // 2
    low, high = (np.array(end, np.int32) for end in (-half, half - 1))
    inside = graph.node("Clip", data, graph.constant("least", low), graph.constant("most", high))
    place = graph.node("Add", inside, graph.constant("half", np.array(half, np.int32)))
    return graph.node("Gather", graph.constant("table", table.astype(np.int32)), place, axis=0)


def append_model(graph: Graph, model: Model, names: Sequence[str], images: str) -> str:
    """Append a whole model.

    Parameters
    ----------
    graph
        Empty, made for the tensors of ``model``.
    model
        Operations in running order.
    names
        Layer of each.
    images
        Name of the input, (N, H, W, C).

    Returns
    -------
    str
        Name of the output, (N, n_out), int32.
    """
    values = {0: graph.node("Transpose", images, perm=(0, 3, 1, 2))}
    for op, name in zip(model.ops, names, strict=True):
        graph.layer = name
        values[op.out] = append_operation(graph, op, values)
    graph.layer, graph.opcode = "", ""
    last = graph.node("Transpose", values[model.ops[-1].out], perm=(0, 2, 3, 1))
    return graph.node("Flatten", last, axis=1)


ONNX_FORMS: Final[dict[OpCode, Callable[..., str]]] = {
    **{code: _convolution for code in GROUPED},
    OpCode.THRESHOLD: _threshold,
    OpCode.SCALE: _scale,
    OpCode.ADD: _add,
    OpCode.MAX_POOL: _max_pool,
    OpCode.AVERAGE_POOL: _average_pool,
    OpCode.LOOKUP: _lookup,
    OpCode.CONCAT: _concat,
    OpCode.SLICE: _slice,
    OpCode.MULTIPLY: _multiply,
}
"""Operation -> (graph, op, names of its activations) -> name of the output before a threshold."""
