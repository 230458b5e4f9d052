r"""The integer network: the one exact meaning of a trained network, in integers only.

It is a model of :mod:`kernels.model`, operation by operation, and this its evaluation in torch: the
oracle for the C runtime on every target. :func:`bnn.lowering.integerize` makes it from a network.
"""

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnn.integer_ops import constants, evaluate_op, magnitude
from bnn.models.classifier import check_images
from kernels import DType, Model, ModelFormatError
from kernels.model import GROUPED
from kernels.model_rules import check_model

_EXACT_DTYPES: Final = ((torch.float32, 1 << 24), (torch.float64, 1 << 53))
"""Integers of smaller magnitude than the bound are exact in the dtype."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Output:
    """What float tensor an operation's output stands for."""

    node: str
    """Name of the node in the traced network."""
    unit: float
    """Float value of one unit; bits have 1."""
    is_bits: bool
    """Whether it is ±1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerNet:
    """A model from uint8 images to int32 logits, with the names of its layers.

    Convolutions are evaluated as matrix products of integers held in floats. Every product and
    every partial sum is an integer, bounded by the weights and the interval of the data; where the
    bound is below 2^24 (2^53) all of them are representable in float32 (float64), so no operation
    rounds, whatever the order of summation, fused multiply-add included: the result *is* the
    integer result.

    Raises
    ------
    ValueError
        If the model breaks a rule of the format, such as an accumulator that could leave int32;
        the layer is named.
    """

    model: Model
    """Operations and tensors; its metadata are left empty."""
    names: tuple[str, ...] = ()
    """Layer of each operation; the opcodes if none are given."""
    outputs: tuple[Output | None, ...] = ()
    """The float tensor that each operation equals or approximates, None where there is none."""
    output_scale: float = 1.0
    """Float logits are the integer logits times this; positive."""
    _dtypes: tuple[torch.dtype, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ops = self.model.ops
        names = self.names or tuple(op.code.name.lower() for op in ops)
        outputs = self.outputs or (None,) * len(ops)
        if not len(ops) == len(names) == len(outputs):
            raise ValueError(f"names: expected {len(ops)}, one per operation, got {len(names)}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "_dtypes", _exact_dtypes(self.model, names))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        height, width, n_channels = self.model.tensors[0].dims
        return height, width, n_channels

    @property
    def n_classes(self) -> int:
        """Length of the logits."""
        return int(np.prod(self.model.tensors[self.model.ops[-1].out].dims))

    def __call__(
        self, images: NDArray[np.uint8], *, exact: bool = False, batch_size: int = 100
    ) -> NDArray[np.int32]:
        """Logits of a batch of images.

        Parameters
        ----------
        images
            Shape (N, H, W, C), uint8.
        exact
            Use int64 arithmetic throughout: the slow and literal meaning, equal to the default.
        batch_size
            Images at a time; bounds memory and changes nothing else.

        Returns
        -------
        NDArray
            Shape (N, n_classes), int32.

        Raises
        ------
        ValueError, TypeError
            If the images are not what the network was built for.
        """
        check_images(images, self.input_shape)
        logits = np.empty((len(images), self.n_classes), dtype=np.int32)
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            logits[start : start + batch_size] = self.activations(part, exact=exact)[-1]
        return logits

    def activations(
        self, images: NDArray[np.uint8], *, exact: bool = False
    ) -> list[NDArray[np.int32]]:
        """Compute the outputs of all operations: (N, H, W, C), bits as ±1, then the logits.

        Arguments and errors as for a call; the logits have shape (N, n_classes).
        """
        check_images(images, self.input_shape)
        values: dict[int, Tensor] = {0: torch.from_numpy(images.astype(np.int32))}
        for op, dtype in zip(self.model.ops, self._dtypes, strict=True):
            operands = {"data": values[op.data], **constants(op, self.model.tensors)}
            if op.residual is not None:
                operands["residual"] = values[op.residual]
            values[op.out] = evaluate_op(op, operands, torch.int64 if exact else dtype)
        outputs = [values[op.out].to(torch.int32).numpy() for op in self.model.ops]
        outputs[-1] = outputs[-1].reshape(len(images), self.n_classes)
        return outputs


def _exact_dtypes(model: Model, names: tuple[str, ...]) -> tuple[torch.dtype, ...]:
    """Smallest dtype that holds every sum of each operation; the model is checked as well."""
    try:
        known = check_model(model)
    except ModelFormatError as error:
        raise ValueError(_with_names(str(error), names)) from error
    if model.tensors[0].dtype is not DType.U8:
        raise ValueError(f"input: expected u8, got {model.tensors[0].dtype.name}")
    found = []
    for op in model.ops:
        bound = magnitude(op, model.tensors, known[op.data]) if op.code in GROUPED else 0
        found.append(next(dtype for dtype, limit in _EXACT_DTYPES if bound < limit))
    return tuple(found)


def _with_names(message: str, names: tuple[str, ...]) -> str:
    """Put the name of the layer in the place of ``ops[i]``."""
    return re.sub(r"^ops\[(\d+)\]", lambda found: names[int(found[1])], message)
