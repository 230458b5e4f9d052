"""The table of torch operators and their registration for CPU, CUDA, compiler and autograd.

Imported by :mod:`kernels.torch_ops` only. Nothing of CUDA is imported or initialised before the
first CUDA tensor comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from kernels import torch_cpu, torch_gradients, torch_shapes
from kernels.errors import BackendUnavailable

_CONV2D: Final = (
    "Tensor x, Tensor weight, int[2] stride=1, int[2] padding=0, int groups=1, "
    'str border="minus_one"'
)


@dataclass(frozen=True)
class Operator:
    """How one operator is registered; its functions have its name in their modules."""

    schema: str
    gradient: torch_gradients.Gradient | None = None


OPS: Final = {
    "pack": Operator("(Tensor x, float threshold=0.0) -> Tensor"),
    "pack_signs": Operator("(Tensor x, float clip=1.0) -> (Tensor, Tensor)"),
    "unpack": Operator("(Tensor words, int n_bits) -> Tensor"),
    "unpack_signs": Operator("(Tensor words, int n_bits, ScalarType dtype=float) -> Tensor"),
    "masked": Operator("(Tensor values, Tensor mask) -> Tensor"),
    "pack_panels": Operator("(Tensor columns, int layout) -> Tensor"),
    "matmul": Operator('(Tensor a, Tensor panels, int n_bits, int n, str form="xor") -> Tensor'),
    "signs_product": Operator(
        "(Tensor real, Tensor words, int n, bool transposed=False, Tensor? mask=None, "
        "ScalarType? out_dtype=None) -> Tensor"
    ),
    "binary_linear": Operator("(Tensor x, Tensor weight) -> Tensor", torch_gradients.BINARY_LINEAR),
    "binary_linear_train": Operator(
        "(Tensor x, Tensor weight, bool clip_input=True) -> (Tensor, Tensor, Tensor)",
        torch_gradients.BINARY_LINEAR_TRAIN,
    ),
    "binary_conv2d": Operator(f"({_CONV2D}) -> Tensor", torch_gradients.BINARY_CONV2D),
    "binary_conv2d_train": Operator(
        f"({_CONV2D}, bool clip_input=True) -> (Tensor, Tensor, Tensor)",
        torch_gradients.BINARY_CONV2D_TRAIN,
    ),
    "bernoulli": Operator(
        "(Tensor values, int seed, int purpose, int step=0, int index=0, int row_begin=0, "
        "bool of_probabilities=False) -> Tensor"
    ),
    "batch_products": Operator(
        "(Tensor visible, int n_visible, Tensor hidden, int n_hidden) -> Tensor"
    ),
}
"""Name -> operator; ``torch.ops.bitspin.NAME``."""


@cache
def register() -> None:
    """Define every operator, once."""
    for name, operator in OPS.items():
        _register(f"bitspin::{name}", name, operator)


def _register(full_name: str, name: str, operator: Operator) -> None:
    # Not custom_op: a call through a library definition costs half (5.7 against 12 microseconds).
    torch.library.define(full_name, operator.schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full_name, "CPU", getattr(torch_cpu, name))
    torch.library.impl(full_name, "CUDA", _on_its_device(name))
    torch.library.impl(full_name, "CompositeExplicitAutograd", refuse)
    torch.library.register_fake(full_name, getattr(torch_shapes, name))
    if operator.gradient is not None:
        backward, save = operator.gradient
        torch.library.register_autograd(full_name, backward, setup_context=save)


def _on_its_device(name: str) -> Callable[..., Any]:
    def call(tensor: Tensor, *arguments: Any) -> Any:
        from kernels import torch_cuda
        from kernels.cuda_launch import launcher_for

        return getattr(torch_cuda, name)(launcher_for(tensor.device), tensor, *arguments)

    return call


def refuse(*arguments: Any, **options: Any) -> Tensor:
    """What runs on every device that has no kernels of its own.

    Raises
    ------
    BackendUnavailable
        Always.
    """
    tensors = [x for x in (*arguments, *options.values()) if isinstance(x, Tensor)]
    devices = ", ".join(sorted({str(tensor.device) for tensor in tensors}))
    raise BackendUnavailable(
        f"torch.ops.bitspin: expected dense tensors on the CPU or CUDA, got {devices}; use .cpu()"
    )
