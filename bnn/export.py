"""From an integer network to a model file: packing and metadata; the format is in kernels."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bnn.folding import integerize
from bnn.integer import IntegerLayer, IntegerNet
from bnn.models import BinaryConvNet
from kernels import JSON, DType, Layout, Model, Op, OpCode, Tensor, pack_bits, write_model

_OPCODES = {"conv_u8": OpCode.CONV_U8, "conv_b1": OpCode.CONV_B1, "conv_b1_i8": OpCode.CONV_B1_I8}
_OWN_KEYS = ("input", "output_scale", "logical_digest")


def to_model(integer_net: IntegerNet, metadata: Mapping[str, JSON] | None = None) -> Model:
    """Lay out an integer network as operations and tensors of the model format.

    Parameters
    ----------
    integer_net
        Tensor 0 of the model is its input (H, W, C), the last operation's output its logits.
    metadata
        What the network alone does not know: ``labels`` (one name per class), ``run_key``, an
        accuracy record, anything that JSON holds. ``input`` and ``output_scale`` are added here.

    Returns
    -------
    Model
        To be given to :func:`kernels.write_model`.

    Raises
    ------
    ValueError
        If there are not as many labels as classes, or a key is given that is written here.
    """
    given = dict(metadata or {})
    taken = [key for key in _OWN_KEYS if key in given]
    if taken:
        raise ValueError(f"metadata: expected no key {taken[0]!r}, which export writes itself")
    labels = given.get("labels")
    if labels is not None and (
        not isinstance(labels, list) or len(labels) != integer_net.n_classes
    ):
        raise ValueError(
            f"labels: expected a list of {integer_net.n_classes} names, one per class, got {labels}"
        )
    tensors = [Tensor(DType.U8, integer_net.input_shape)]
    ops = [_append_layer(layer, tensors) for layer in integer_net.layers]
    given["input"] = {
        "dtype": "uint8",
        "shape": list(integer_net.input_shape),
        "preprocessing": "pixels 0..255 as they are, (H, W, C)",
    }
    given["output_scale"] = integer_net.output_scale
    return Model(tuple(ops), tuple(tensors), given)


def export(
    net: BinaryConvNet | IntegerNet,
    path: Path | str,
    metadata: Mapping[str, JSON] | None = None,
    layout: Layout = Layout.ROWS,
) -> int:
    """Write a network as a model file, whole or not at all.

    Parameters
    ----------
    net
        A trained binary network, or an integer network.
    path
        Replaced if it exists; its folder has to exist.
    metadata
        As for :func:`to_model`.
    layout
        As for :func:`kernels.write_model`: rows for every processor, or panels for one kind.

    Returns
    -------
    int
        Bytes written; equal networks and metadata give equal bytes.

    Raises
    ------
    ValueError
        As :func:`to_model` and :func:`~bnn.folding.integerize`.
    OSError
        If the file cannot be written; an older file at ``path`` is then untouched.
    """
    integer_net = integerize(net) if isinstance(net, BinaryConvNet) else net
    content = write_model(to_model(integer_net, metadata), layout)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(content)


def _append_layer(layer: IntegerLayer, tensors: list[Tensor]) -> Op:
    """Append the tensors of one layer, whose input is the activation made last."""
    data = max(i for i, tensor in enumerate(tensors) if tensor.data is None)

    def append(tensor: Tensor) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    if layer.kind == "conv_b1":
        packed = pack_bits(layer.weights > 0).tobytes()
        weights = append(Tensor(DType.BITS, layer.weights.shape, packed))
    else:
        weights = append(Tensor(DType.I8, layer.weights.shape, layer.weights.tobytes()))
    threshold = bias = None
    if layer.threshold is not None and layer.flip is not None:
        rows = np.stack([layer.threshold, layer.flip.astype(np.int32)]).astype("<i4")
        threshold = append(Tensor(DType.I32, rows.shape, rows.tobytes()))
    if layer.bias is not None:
        column = layer.bias.astype("<i4")
        bias = append(Tensor(DType.I32, column.shape, column.tobytes()))
    out_type = DType.I32 if threshold is None else DType.BITS
    return Op(
        code=_OPCODES[layer.kind],
        data=data,
        weights=weights,
        out=append(Tensor(out_type, layer.output_shape)),
        threshold=threshold,
        bias=bias,
        padding=(layer.padding, layer.padding),
        pool=(layer.pool, layer.pool),
    )
