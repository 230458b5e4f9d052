"""The walk over a traced network, and the choice of its binary point."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import fx, nn

from bnn.folding import PointTooFine
from bnn.integer import IntegerNet
from bnn.layers import PIXEL_UNIT
from bnn.lowering.context import Context
from bnn.lowering.graph import lowering_of, trace
from bnn.lowering.program import Program
from bnn.lowering.values import Convolution, Label, Value, as_stream, as_tensor, tensor_value
from kernels import DType, Model

GREATEST_POINT: Final = 24
"""Binary digits after the point beyond which a stream would be finer than a float32 near 1."""
LEAST_POINT: Final = 4
"""Binary digits after the point below which a stream is too coarse to mean anything."""


def integerize(
    net: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    point: int | None = None,
) -> IntegerNet:
    """Lower a trained network to integers.

    Convolutions, max-pools, normalisations and signs are exact: their bits are those of ``net`` in
    evaluation mode, up to float ties at a threshold. Whatever is neither bits nor accumulators is a
    fixed-point number; all have one binary point, as far to the left as interval bounds allow, but
    for the inputs of int8 layers, which may be coarser, so that no accumulator leaves int32.

    Parameters
    ----------
    net
        Trained; its running statistics are used, its mode is left as it was. A
        :class:`~bnn.models.Classifier`, or any module that takes pixels p * ``PIXEL_UNIT``,
        (N, C, H, W), to logits, (N, n_classes).
    input_shape
        (H, W, C) of the images; that of a Classifier by default.
    point
        Binary digits after the point of residual streams; by default the greatest possible.

    Returns
    -------
    IntegerNet
        Its operations are those of the model file.

    Raises
    ------
    ValueError
        If ``net`` is a full-precision twin, a layer has no integer form or no finite parameters, or
        an accumulator or stream could leave int32; the layer is named.
    """
    if getattr(net, "full_precision", False):
        raise ValueError("net: expected a binary network, got a full-precision twin")
    given: Any = input_shape or getattr(net, "input_shape", ())
    shape = tuple(given)
    if len(shape) != 3:
        raise ValueError(f"input_shape: expected (H, W, C), got {shape}; give it as an argument")
    graph = trace(net)
    with _evaluation_mode(net), torch.no_grad():
        if point is not None:
            return _lower(graph, net, shape, point)
        return _at_finest_point(graph, net, shape)


def _at_finest_point(graph: fx.Graph, net: nn.Module, shape: tuple[int, ...]) -> IntegerNet:
    """Bisect for the greatest binary point that interval bounds allow."""
    try:
        return _lower(graph, net, shape, GREATEST_POINT)
    except PointTooFine:
        found = _lower(graph, net, shape, LEAST_POINT)
    fits, fails = LEAST_POINT, GREATEST_POINT
    while fails - fits > 1:
        middle = (fits + fails) // 2
        try:
            found, fits = _lower(graph, net, shape, middle), middle
        except PointTooFine:
            fails = middle
    return found


def _lower(graph: fx.Graph, net: nn.Module, shape: tuple[int, ...], point: int) -> IntegerNet:
    """Lower all nodes at one binary point."""
    program = Program(shape)
    modules = dict(net.named_modules())
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        arguments = fx.node.map_arg(node.args, values.__getitem__)
        fields = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "output":
            return _finish(program, arguments[0], point)
        if node.op == "placeholder":
            values[node] = _pixels(program, node.name, len(values))
            continue
        name, module, lower = lowering_of(node, modules)
        assert lower is not None
        context = Context(program=program, label=Label(name, node.name), point=point)
        values[node] = lower(context, module, *arguments, **fields)
        if len(node.users) > 1:
            values[node] = _shared(program, values[node], point)
    raise ValueError("net: expected an output, got none")


def _pixels(program: Program, node: str, n_inputs: int) -> Value:
    if n_inputs:
        raise ValueError(f"{node}: expected one input, the pixels, got more")
    dims = program.dims(0)
    label, unit = Label(node, node), np.full(dims[2], PIXEL_UNIT)
    return Value(label=label, source=0, unit=unit, dims=dims)


def _shared(program: Program, value: Value, point: int) -> Value:
    """What several nodes read is computed once."""
    if isinstance(value.source, Convolution) or value.chain:
        return as_stream(program, value, point)
    return value


def _finish(program: Program, value: Any, point: int) -> IntegerNet:
    """Logits: accumulators if all channels have one positive unit, else a stream."""
    if not isinstance(value, Value):
        raise ValueError(f"output: expected one tensor, the logits, got {value!r}")
    if value.dims[:2] != (1, 1):
        raise ValueError(f"output: expected logits (N, n_classes), got {value.dims} per image")
    unit = float(value.unit[0])
    is_uniform = bool((value.unit == unit).all()) and unit > 0
    source = value.source
    is_int32 = isinstance(source, Convolution) or program.dtype(source) is DType.I32
    if value.chain or not is_uniform or not is_int32:
        value, unit = as_stream(program, value, point), 2.0**-point
    value, tensor = as_tensor(program, value)
    tensor_value(program, value, tensor, unit)
    outputs = tuple(program.outputs.get(op.out) for op in program.ops)
    return IntegerNet(
        model=Model(tuple(program.ops), tuple(program.tensors)),
        names=tuple(program.names),
        outputs=outputs,
        output_scale=unit,
    )


@contextmanager
def _evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Scheduled and random quantizers have another value in training mode."""
    was_training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
