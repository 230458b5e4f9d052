"""The integer network as a standard ONNX file, to look at and to check against.

It is no second way to ship: the bits are bytes there and the sums are floats. But its values are
the same integers, so any evaluator of the standard is one more twin of the runtime.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from torch import nn

from bnn.export import replace_file, to_model
from bnn.integer import IntegerNet
from bnn.lowering import integerize
from bnn.onnx_export_ops import Graph, Node, append_model
from kernels import JSON, DType, Model
from kernels.model import logical_digest
from kernels.model_rules import check_model

OPSET: Final = 17
"""Version of the operators; readers since 2022 know it."""
_IR_VERSION: Final = 8
_INPUT, _OUTPUT = "images", "logits"
_INPUT_TYPES: Final = {DType.U8: np.uint8, DType.I8: np.int8, DType.BITS: np.int8}


def export_onnx(
    net: nn.Module | IntegerNet,
    path: Path | str,
    metadata: Mapping[str, JSON] | None = None,
) -> int:
    """Write the integer network as an ONNX file, whole or not at all.

    One input ``images``, uint8 (N, H, W, C), one output ``logits``, int32 (N, n_classes); between
    them standard operators only. Weights are int8 constants (±1 or int8), a node is called
    layer/operator and its documentation is the operation of the integer network. Model properties
    are JSON: ``input``, ``output_scale``, ``logical_digest`` as in the model file, and whatever
    ``metadata`` holds.

    Parameters
    ----------
    net
        A trained binary network, or an integer network.
    path
        Replaced if it exists; its folder has to exist.
    metadata
        As for :func:`~bnn.to_model`, ``labels`` among it.

    Returns
    -------
    int
        Bytes written; equal networks and metadata give equal bytes with one version of onnx.

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    ValueError
        As :func:`~bnn.to_model` and :func:`~bnn.integerize`; or if an operation has no standard
        form: its layer is named.
    OSError
        If the file cannot be written; an older file at ``path`` is then untouched.

    Notes
    -----
    Convolutions, and pools of integers, are float32 operators where no partial sum reaches 2^24,
    float64 ones elsewhere (sums over int32 streams): exact, but not every runtime has the latter.
    """
    integer_net = net if isinstance(net, IntegerNet) else integerize(net)
    content = onnx_bytes(to_model(integer_net, metadata), integer_net.names)
    replace_file(Path(path), content)
    return len(content)


def onnx_bytes(model: Model, names: tuple[str, ...]) -> bytes:
    """Content of the file for any model of the format.

    Parameters
    ----------
    model
        Its input may also be int8, or bits, which are int8 ±1 here.
    names
        Layer of each operation.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As :func:`export_onnx`.
    """
    onnx = _onnx()
    graph = Graph(model.tensors, check_model(model))
    last = append_model(graph, model, names, _INPUT)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [_node(onnx, node) for node in graph.nodes]
    nodes.append(helper.make_node("Identity", [last], [_OUTPUT], name=_OUTPUT))
    data, out = model.tensors[0], model.tensors[model.ops[-1].out]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "integer network",
            [_value(onnx, _INPUT, np.dtype(_INPUT_TYPES[data.dtype]), ("N", *data.dims))],
            [_value(onnx, _OUTPUT, np.dtype(np.int32), ("N", int(np.prod(out.dims))))],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="bitspin",
    )
    properties = {**model.metadata, "logical_digest": logical_digest(model)}
    helper.set_model_props(
        made, {name: json.dumps(properties[name], sort_keys=True) for name in sorted(properties)}
    )
    onnx.checker.check_model(made, full_check=True)
    content: bytes = made.SerializeToString(deterministic=True)
    return content


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "onnx: expected the package for ONNX files, got none; pip install 'bitspin[onnx]'"
        ) from error
    return onnx


def _node(onnx: ModuleType, node: Node) -> Any:
    attributes = {
        name: onnx.helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
        for name, value in node.attributes.items()
    }
    return onnx.helper.make_node(
        node.kind,
        list(node.inputs),
        [node.output],
        name=node.output,
        doc_string=node.opcode or None,
        **attributes,
    )


def _value(onnx: ModuleType, name: str, dtype: np.dtype[Any], shape: tuple[str | int, ...]) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))
