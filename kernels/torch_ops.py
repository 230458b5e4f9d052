"""One-bit arithmetic as torch operators, ``torch.ops.bitspin.*``, for eager code and torch.compile.

Packed words are **int32 tensors that hold bit patterns**: torch has hardly any arithmetic on
uint32, and none is meant to be done on them. Bit i of a word is element i, 1 means +1 or on, bits
past the end are 0 (:mod:`kernels.layout`). Memory is shared, not copied, and a packed tensor has
no gradient. There are CPU kernels only; other devices are refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from kernels import torch_cpu, torch_gradients, torch_shapes
from kernels.backends import kernel_target
from kernels.errors import BackendUnavailable
from kernels.matmul import native_layout
from kernels.panels import Layout
from kernels.philox import Purpose


def pack(x: Tensor, threshold: float = 0.0) -> Tensor:
    r"""Compare with a threshold and pack the last axis.

    .. math:: b_i = 1 \text{ if } x_i \ge t \text{ else } 0

    Parameters
    ----------
    x
        Shape (..., K), float32, uint8 or int8, contiguous; NaN gives bit 0.
    threshold
        t; the default packs signs, with sign(0) = +1.

    Returns
    -------
    Tensor
        Shape (..., ceil(K / 32)), int32 words.

    Raises
    ------
    TypeError, ValueError
        If dtype, number of axes or strides are others.
    """
    return _call("pack", x, threshold)


def unpack(words: Tensor, n_bits: int) -> Tensor:
    """Unpack the last axis; ``2.0 * bits - 1`` are the signs.

    Parameters
    ----------
    words
        Shape (..., ceil(n_bits / 32)), int32 words.
    n_bits
        True length of the last axis.

    Returns
    -------
    Tensor
        Shape (..., n_bits), bool.

    Raises
    ------
    TypeError, ValueError
        If ``words`` has another dtype, or a length that does not belong to ``n_bits``.
    """
    return _call("unpack", words, n_bits)


def pack_panels(columns: Tensor, layout: Layout | None = None) -> Tensor:
    """Bring packed columns into the order in which an inner loop reads them, once per weight.

    Parameters
    ----------
    columns
        Shape (n, ceil(K / 32)), int32 words; each row is one column of the product.
    layout
        The order; by default the one of the back end that runs now.

    Returns
    -------
    Tensor
        Int32 words; shape (ceil(n / 16), n_words, 16) for LANES, which x86 reads, and
        (ceil(n / 8), ceil(n_words / 4), 32) for VECTORS, which ARM reads.

    Raises
    ------
    TypeError, ValueError
        If ``columns`` are others than said, or ``layout`` is ROWS.
    """
    if layout is None:
        layout = native_layout(kernel_target(None))
    return _call("pack_panels", columns, int(layout))


def matmul(a: Tensor, panels: Tensor, n_bits: int, n: int, form: str = "xor") -> Tensor:
    r"""Multiply packed rows with panels, exactly.

    .. math:: c_{ij} = K - 2 \operatorname{popc}(a_i \oplus b_j) \quad\text{or}\quad
              c_{ij} = \operatorname{popc}(a_i \wedge b_j)

    Parameters
    ----------
    a
        Shape (m, ceil(K / 32)), int32 words.
    panels
        What :func:`pack_panels` returns.
    n_bits
        K.
    n
        Columns.
    form
        ``"xor"`` for values +-1, ``"and"`` for values 0 and 1, ``"mixed"`` for rows of 0 and 1
        and columns of +-1.

    Returns
    -------
    Tensor
        Shape (m, n), int32.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or strides do not fit together, or ``form`` is another word.
    """
    return _call("matmul", a, panels, n_bits, n, form)


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    r"""Dense layer on the signs of activations and latent weights.

    .. math:: y = \operatorname{sign}(x) \operatorname{sign}(W)^\top

    Backward is straight through, clipped at 1 as in [1]_:

    .. math:: \partial x = (\partial y \operatorname{sign}(W)) \, [|x| \le 1], \qquad
              \partial W = (\partial y^\top \operatorname{sign}(x)) \, [|W| \le 1]

    Parameters
    ----------
    x
        Shape (..., n_in), float32; contiguous, or it is copied.
    weight
        Shape (n_out, n_in), float32.

    Returns
    -------
    Tensor
        Shape (..., n_out), float32, integers.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together, or n_in > 2**24, which float32 cannot hold.

    References
    ----------
    .. [1] Hubara et al. (2016), Binarized neural networks, arXiv:1602.02830.
    """
    return _call("binary_linear", x, weight)


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
) -> Tensor:
    r"""Convolution of the signs of activations and latent weights.

    .. math:: y = \operatorname{sign}(W) \star \operatorname{sign}(x)

    Backward is straight through and clipped at 1, as that of :func:`binary_linear`.

    Parameters
    ----------
    x
        Shape (N, C, H, W), float32; in channels-last memory, or it is copied.
    weight
        Shape (n_out, C / groups, KH, KW), float32.
    stride, padding
        Vertical and horizontal.
    groups
        Groups of channels that do not see each other; C for a depthwise convolution.
    border
        What stands outside the image: ``"minus_one"`` or ``"zero"``.

    Returns
    -------
    Tensor
        Shape (N, n_out, H', W'), float32, integers, in channels-last memory.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together, or ``border`` is another word.
    """
    return _call("binary_conv2d", x, weight, list(stride), list(padding), groups, border)


def bernoulli(
    field: Tensor,
    *,
    seed: int,
    purpose: Purpose,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
) -> Tensor:
    r"""Draw the states of units from their fields, and pack them.

    .. math:: b_{re} = 1 \text{ if } u_{re} < \sigma(x_{re}) \text{ else } 0

    with the uniforms of :func:`kernels.uniform`, which do not depend on batch or device.

    Parameters
    ----------
    field
        Shape (rows, n), float32, contiguous: log odds of being on.
    seed
        0 <= seed < 2**63, because an integer of torch is signed.
    purpose, step, index
        The stream, as in :func:`kernels.random_words`.
    row_begin
        Global number of the first row.

    Returns
    -------
    Tensor
        Shape (rows, ceil(n / 32)), int32 words.

    Raises
    ------
    TypeError, ValueError
        If ``field`` is another, or a number does not fit in its part of the counter.
    """
    return _call("bernoulli", field, seed, int(purpose), step, index, row_begin)


def batch_products(visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int) -> Tensor:
    r"""Count how often two units are on together: the statistics of a Boltzmann machine.

    .. math:: c_{ij} = \sum_r v_{ri} h_{rj}

    Parameters
    ----------
    visible, hidden
        Shapes (batch, ceil(n_visible / 32)) and (batch, ceil(n_hidden / 32)), int32 words.
    n_visible, n_hidden
        Units.

    Returns
    -------
    Tensor
        Shape (n_visible, n_hidden), int32.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together.
    """
    return _call("batch_products", visible, n_visible, hidden, n_hidden)


@dataclass(frozen=True)
class Operator:
    """How one operator is registered."""

    schema: str
    cpu: Callable[..., Tensor]
    fake: Callable[..., Tensor]
    """Checks the arguments and returns an empty tensor of the right shape."""
    gradient: torch_gradients.Gradient | None = None


OPS: Final = {
    "pack": Operator(
        "(Tensor x, float threshold=0.0) -> Tensor", torch_cpu.pack, torch_shapes.pack
    ),
    "unpack": Operator(
        "(Tensor words, int n_bits) -> Tensor", torch_cpu.unpack, torch_shapes.unpack
    ),
    "pack_panels": Operator(
        "(Tensor columns, int layout) -> Tensor", torch_cpu.pack_panels, torch_shapes.pack_panels
    ),
    "matmul": Operator(
        '(Tensor a, Tensor panels, int n_bits, int n, str form="xor") -> Tensor',
        torch_cpu.matmul,
        torch_shapes.matmul,
    ),
    "binary_linear": Operator(
        "(Tensor x, Tensor weight) -> Tensor",
        torch_cpu.binary_linear,
        torch_shapes.binary_linear,
        torch_gradients.BINARY_LINEAR,
    ),
    "binary_conv2d": Operator(
        "(Tensor x, Tensor weight, int[2] stride=1, int[2] padding=0, int groups=1, "
        'str border="minus_one") -> Tensor',
        torch_cpu.binary_conv2d,
        torch_shapes.binary_conv2d,
        torch_gradients.BINARY_CONV2D,
    ),
    "bernoulli": Operator(
        "(Tensor field, int seed, int purpose, int step=0, int index=0, int row_begin=0) -> Tensor",
        torch_cpu.bernoulli,
        torch_shapes.bernoulli,
    ),
    "batch_products": Operator(
        "(Tensor visible, int n_visible, Tensor hidden, int n_hidden) -> Tensor",
        torch_cpu.batch_products,
        torch_shapes.batch_products,
    ),
}
"""Name -> operator; ``torch.ops.bitspin.NAME``."""


def _call(name: str, *arguments: Any) -> Tensor:
    result: Tensor = getattr(torch.ops.bitspin, name)(*arguments)
    return result


def _register(name: str, operator: Operator) -> None:
    full_name = f"bitspin::{name}"
    # Not custom_op: a call through a library definition costs half (5.7 against 12 microseconds).
    torch.library.define(full_name, operator.schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full_name, "CPU", operator.cpu)
    torch.library.impl(full_name, "CompositeExplicitAutograd", _refuse)
    torch.library.register_fake(full_name, operator.fake)
    if operator.gradient is not None:
        backward, save = operator.gradient
        torch.library.register_autograd(full_name, backward, setup_context=save)


def _refuse(*arguments: Any, **options: Any) -> Tensor:
    """What runs on every device that has no kernels of its own."""
    tensors = [x for x in (*arguments, *options.values()) if isinstance(x, Tensor)]
    devices = ", ".join(sorted({str(tensor.device) for tensor in tensors}))
    raise BackendUnavailable(
        f"torch.ops.bitspin: expected dense tensors on the CPU, got {devices}; use .cpu()"
    )


for _name, _operator in OPS.items():
    _register(_name, _operator)
