"""From an integer network to a model file: metadata; the format is in kernels."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from bnn.integer import IntegerNet
from bnn.lowering import integerize
from kernels import JSON, Layout, Model, write_model

_OWN_KEYS = ("input", "output_scale", "logical_digest")


def to_model(integer_net: IntegerNet, metadata: Mapping[str, JSON] | None = None) -> Model:
    """The model of an integer network, with its metadata.

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
    given["input"] = {
        "dtype": "uint8",
        "shape": list(integer_net.input_shape),
        "preprocessing": "pixels 0..255 as they are, (H, W, C)",
    }
    given["output_scale"] = integer_net.output_scale
    return dataclasses.replace(integer_net.model, metadata=given)


def export(
    net: nn.Module | IntegerNet,
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
        As :func:`to_model` and :func:`~bnn.lowering.integerize`.
    OSError
        If the file cannot be written; an older file at ``path`` is then untouched.
    """
    integer_net = net if isinstance(net, IntegerNet) else integerize(net)
    content = write_model(to_model(integer_net, metadata), layout)
    replace_file(Path(path), content)
    return len(content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and wait until the disk has it.

    Raises
    ------
    OSError
        If it cannot be written; an older file at ``path`` is then untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
