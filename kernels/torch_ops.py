"""One-bit arithmetic as torch operators, ``torch.ops.bitspin.*``, for eager code and torch.compile.

Packed words are **int32 tensors that hold bit patterns**: torch has hardly any arithmetic on
uint32, and none is meant to be done on them. Bit i of a word is element i, 1 means +1 or on, bits
past the end are 0 (:mod:`kernels.layout`). Memory is shared, not copied, and a packed tensor has
no gradient. There are CPU and CUDA kernels with the same integers; other devices are refused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import torch_registry
from kernels.backends import kernel_target
from kernels.matmul import native_layout
from kernels.panels import Layout
from kernels.philox import Purpose

torch_registry.register()


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
    words: Tensor = _call("pack", x, threshold)
    return words


def pack_signs(x: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Pack what the straight-through estimator needs of x: two bits of each element.

    .. math:: b_i = [x_i \ge 0], \qquad m_i = [|x_i| \le c]

    Parameters
    ----------
    x
        Shape (..., K), any float but those of 8 bits, contiguous; NaN gives 0 in both.
    clip
        c > 0.

    Returns
    -------
    tuple of Tensor
        b and m, each of shape (..., ceil(K / 32)), int32 words.

    Raises
    ------
    TypeError, ValueError
        If dtype, strides or ``clip`` are others.
    """
    words, within = _call("pack_signs", x, clip)
    return words, within


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
    bits: Tensor = _call("unpack", words, n_bits)
    return bits


def unpack_signs(words: Tensor, n_bits: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unpack the last axis as -1 and +1.

    Parameters
    ----------
    words, n_bits
        As :func:`unpack`.
    dtype
        float32 or bfloat16.

    Returns
    -------
    Tensor
        Shape (..., n_bits).

    Raises
    ------
    TypeError, ValueError
        As :func:`unpack`, or if ``dtype`` is another one.
    """
    signs: Tensor = _call("unpack_signs", words, n_bits, dtype)
    return signs


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Keep values where a packed mask has a 1, and put 0 elsewhere.

    Parameters
    ----------
    values
        Shape (..., K), any float but those of 8 bits, contiguous.
    mask
        Shape (..., ceil(K / 32)), int32 words.

    Returns
    -------
    Tensor
        Shape and dtype of ``values``; without gradient.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together.
    """
    kept: Tensor = _call("masked", values, mask)
    return kept


def signs_product(
    real: Tensor,
    words: Tensor,
    n: int,
    transposed: bool = False,
    mask: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Multiply a real matrix with packed signs: both gradients of a layer of signs.

    .. math:: c_{ik} = m_{ik} \sum_j r_{ij} s_{jk}, \qquad s_{jk} = \pm 1

    Parameters
    ----------
    real
        Shape (rows, J), or (J, rows) if ``transposed``; float32 or bfloat16, contiguous.
    words
        s, shape (J, ceil(n / 32)), int32 words.
    n
        Columns.
    transposed
        Whether ``real`` is stored as its transpose.
    mask
        m, shape (rows, ceil(n / 32)), int32 words; None keeps everything.
    out_dtype
        float32 or bfloat16; by default that of ``real``.

    Returns
    -------
    Tensor
        Shape (rows, n); the sums are float32. Without gradient.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together.
    """
    product: Tensor = _call("signs_product", real, words, n, transposed, mask, out_dtype)
    return product


def pack_panels(columns: Tensor, layout: Layout | None = None) -> Tensor:
    """Bring packed columns into the order in which an inner loop reads them, once per weight.

    Parameters
    ----------
    columns
        Shape (n, ceil(K / 32)), int32 words; each row is one column of the product.
    layout
        The order; by default the one of the back end that runs now, and VECTORS on CUDA.

    Returns
    -------
    Tensor
        Int32 words; shape (ceil(n / 16), n_words, 16) for LANES, which x86 reads, and
        (ceil(n / 8), ceil(n_words / 4), 32) for VECTORS, which ARM and CUDA read.

    Raises
    ------
    TypeError, ValueError
        If ``columns`` are others than said, or ``layout`` is ROWS.
    """
    if layout is None:
        layout = Layout.VECTORS if columns.is_cuda else native_layout(kernel_target(None))
    panels: Tensor = _call("pack_panels", columns, int(layout))
    return panels


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
    product: Tensor = _call("matmul", a, panels, n_bits, n, form)
    return product


def binary_linear(x: Tensor, weight: Tensor, *, clip_input: bool = True) -> Tensor:
    r"""Dense layer on the signs of activations and latent weights.

    .. math:: y = \operatorname{sign}(x) \operatorname{sign}(W)^\top

    Backward is straight through, clipped at 1 as in [1]_:

    .. math:: \partial x = (\partial y \operatorname{sign}(W)) \, [|x| \le 1], \qquad
              \partial W = (\partial y^\top \operatorname{sign}(x)) \, [|W| \le 1]

    For it two bits per element of x are saved, and no copy of the weight. Under autocast to
    bfloat16 the gradients are multiplied in that type. ``torch.ops.bitspin.binary_linear`` has the
    same gradients and saves the same, but packs x a second time. Gradients have no gradients.

    Parameters
    ----------
    x
        Shape (..., n_in), float32 or bfloat16; contiguous, or it is copied.
    weight
        Shape (n_out, n_in), float32 or bfloat16.
    clip_input
        Whether the gradient of x stops where ``|x| > 1``. False is for x that are signs already,
        which no clip touches, and saves one bit.

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
    if _needs_gradient(x, weight):
        y: Tensor = _call("binary_linear_train", x, weight, clip_input)[0]
        return y
    y = _call("binary_linear", x, weight)
    return y


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
    *,
    clip_input: bool = True,
) -> Tensor:
    r"""Convolution of the signs of activations and latent weights.

    .. math:: y = \operatorname{sign}(W) \star \operatorname{sign}(x)

    Backward is straight through, clipped at 1, and saves bits, as that of :func:`binary_linear`;
    the products are torch's own convolutions of reals, for which x is unpacked for a moment.

    Parameters
    ----------
    x
        Shape (N, C, H, W), float32 or bfloat16; in channels-last memory, or it is copied.
    weight
        Shape (n_out, C / groups, KH, KW), float32 or bfloat16.
    stride, padding
        Vertical and horizontal.
    groups
        Groups of channels that do not see each other; C for a depthwise convolution.
    border
        What stands outside the image: ``"minus_one"`` or ``"zero"``.
    clip_input
        As in :func:`binary_linear`.

    Returns
    -------
    Tensor
        Shape (N, n_out, H', W'), float32, integers, in channels-last memory.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together, or ``border`` is another word.
    """
    arguments = (x, weight, list(stride), list(padding), groups, border)
    if _needs_gradient(x, weight):
        y: Tensor = _call("binary_conv2d_train", *arguments, clip_input)[0]
        return y
    y = _call("binary_conv2d", *arguments)
    return y


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
        64-bit. ``torch.ops.bitspin.bernoulli`` takes its bits as a signed integer.
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
    stream = (_signed(seed), int(purpose), step, index, row_begin)
    words: Tensor = _call("bernoulli", field, *stream)
    return words


def bernoulli_probabilities(
    probabilities: Tensor,
    *,
    seed: int,
    purpose: Purpose,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
) -> Tensor:
    """Draw units that are on iff ``uniform < p``, exactly, and pack them.

    Parameters, result and errors are those of :func:`bernoulli` with probabilities instead of
    fields: at or below 0 and NaN are off, 1 and above are on.
    """
    stream = (_signed(seed), int(purpose), step, index, row_begin)
    words: Tensor = _call("bernoulli", probabilities, *stream, True)
    return words


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
    counts: Tensor = _call("batch_products", visible, n_visible, hidden, n_hidden)
    return counts


def _needs_gradient(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def _signed(seed: int) -> int:
    """The 64 bits of a seed as torch's integers are: signed."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")
    return seed - (1 << 64) if seed >> 63 else seed


def _call(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.bitspin, name)(*arguments)
