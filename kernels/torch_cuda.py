"""What each torch operator computes on CUDA tensors, one function per operator, launcher first.

Tensors stay where they are; what has to be copied first is said in the docstring. The launcher may
be the CPU shim, on which the tests compare these functions with :mod:`kernels.torch_cpu`. Imported
by :mod:`kernels.torch_registry` only.
"""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor

from kernels import (
    cuda_convolution,
    cuda_gradients,
    cuda_matmul,
    cuda_packing,
    cuda_sampling,
    cuda_statistics,
)
from kernels import torch_shapes as shapes
from kernels.convolution_call import Border
from kernels.cuda_launch import Launcher
from kernels.panels import Layout
from kernels.philox import Purpose
from kernels.reference_matmul import Form

_REAL: Final = (torch.float32, torch.bfloat16)
"""What kernels read; the few other floats go through torch's own."""


def pack(launcher: Launcher, x: Tensor, threshold: float = 0.0) -> Tensor:
    """Compare and pack the last axis."""
    shapes.pack(x, threshold)
    return _pack_words(launcher, x, threshold)


def pack_signs(launcher: Launcher, x: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pack the signs of the last axis, and where its magnitude is at most ``clip``."""
    shapes.pack_signs(x, clip)
    if x.dtype in _REAL:
        return cuda_packing.pack_signs(launcher, x, clip)
    signs, within = (b.view(torch.uint8) for b in (x >= 0, x.abs() <= clip))
    return pack(launcher, signs, 1.0), pack(launcher, within, 1.0)


def unpack(launcher: Launcher, words: Tensor, n_bits: int) -> Tensor:
    """Unpack the last axis."""
    shapes.unpack(words, n_bits)
    return cuda_packing.unpack(launcher, words, n_bits)


def unpack_signs(
    launcher: Launcher, words: Tensor, n_bits: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Unpack the last axis as -1 and +1."""
    shapes.unpack_signs(words, n_bits, dtype)
    return cuda_packing.unpack(launcher, words, n_bits, dtype, signs=True)


def masked(launcher: Launcher, values: Tensor, mask: Tensor) -> Tensor:
    """Values where the mask has a 1, else 0."""
    shapes.masked(values, mask)
    if values.dtype not in _REAL:
        return torch.where(unpack(launcher, mask, values.shape[-1]), values, 0.0)
    return cuda_gradients.masked(launcher, values, mask)


def pack_panels(launcher: Launcher, columns: Tensor, layout: int) -> Tensor:
    """Rearrange packed columns; the only layout on CUDA is VECTORS."""
    shapes.pack_panels(columns, layout)
    if layout != Layout.VECTORS:
        raise ValueError(f"layout: expected {int(Layout.VECTORS)} (VECTORS) on CUDA, got {layout}")
    return cuda_packing.to_panels(launcher, columns)


def matmul(
    launcher: Launcher, a: Tensor, panels: Tensor, n_bits: int, n: int, form: str = "xor"
) -> Tensor:
    """Multiply packed rows with panels."""
    shapes.matmul(a, panels, n_bits, n, form)
    return cuda_matmul.matmul(launcher, a, panels, n_bits, n, cast(Form, form))


def signs_product(
    launcher: Launcher,
    real: Tensor,
    words: Tensor,
    n: int,
    transposed: bool = False,
    mask: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply real rows with packed signs."""
    shapes.signs_product(real, words, n, transposed, mask, out_dtype)
    return cuda_gradients.signs_product(
        launcher, real, words, n, transposed=transposed, mask=mask, out_dtype=out_dtype
    )


def binary_linear(launcher: Launcher, x: Tensor, weight: Tensor) -> Tensor:
    """Pack both, multiply; tensors that are not contiguous are copied."""
    shapes.binary_linear(x, weight)
    return _multiply(launcher, _pack_words(launcher, x), weight)


def binary_linear_train(
    launcher: Launcher, x: Tensor, weight: Tensor, clip_input: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the words of x and of its clip."""
    shapes.binary_linear(x, weight)
    words, within = _pack_input(launcher, x, clip_input)
    return _multiply(launcher, words, weight), words, within


def binary_conv2d(
    launcher: Launcher,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
) -> Tensor:
    """Pack both, convolve; tensors that are not in channels-last memory are copied."""
    shapes.binary_conv2d(x, weight, stride, padding, groups, border)
    words = _pack_words(launcher, x.permute(0, 2, 3, 1))
    return _convolve(launcher, words, weight, stride, padding, groups, border)


def binary_conv2d_train(
    launcher: Launcher,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
    clip_input: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the words of x and of its clip."""
    shapes.binary_conv2d(x, weight, stride, padding, groups, border)
    words, within = _pack_input(launcher, x.permute(0, 2, 3, 1), clip_input)
    return _convolve(launcher, words, weight, stride, padding, groups, border), words, within


def bernoulli(
    launcher: Launcher,
    values: Tensor,
    seed: int,
    purpose: int,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
    of_probabilities: bool = False,
) -> Tensor:
    """Draw the states of units from their fields or probabilities."""
    shapes.bernoulli(values, seed, purpose, step, index, row_begin, of_probabilities)
    draw = cuda_sampling.bernoulli_probabilities if of_probabilities else cuda_sampling.bernoulli
    return draw(
        launcher,
        values,
        seed=seed % (1 << 64),  # a signed integer holds its bits
        purpose=Purpose(purpose),
        step=step,
        index=index,
        row_begin=row_begin,
    )


def batch_products(
    launcher: Launcher, visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int
) -> Tensor:
    """Count the rows where two units are on."""
    shapes.batch_products(visible, n_visible, hidden, n_hidden)
    return cuda_statistics.batch_products(launcher, visible, n_visible, hidden, n_hidden)


def _pack_words(launcher: Launcher, x: Tensor, threshold: float = 0.0) -> Tensor:
    return cuda_packing.pack(launcher, x.contiguous(), threshold)


def _pack_input(launcher: Launcher, x: Tensor, clip_input: bool) -> tuple[Tensor, Tensor]:
    if clip_input:
        return cuda_packing.pack_signs(launcher, x.contiguous())
    return _pack_words(launcher, x), shapes.no_words(x)


def _multiply(launcher: Launcher, words: Tensor, weight: Tensor) -> Tensor:
    n_out, n_in = weight.shape
    panels = cuda_packing.to_panels(launcher, _pack_words(launcher, weight))
    rows = words.reshape(-1, words.shape[-1])
    product = cuda_matmul.matmul(launcher, rows, panels, n_in, n_out, out_dtype=torch.float32)
    return product.view(*words.shape[:-1], n_out)


def _convolve(
    launcher: Launcher,
    words: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    border: str,
) -> Tensor:
    taps = _pack_words(launcher, weight.permute(0, 2, 3, 1))
    panels = cuda_convolution.conv_panels(launcher, taps, weight.shape[1], groups)
    sums = cuda_convolution.convolve(
        launcher,
        words,
        panels,
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        cast(Border, border),
        out_dtype=torch.float32,
    )
    return sums.permute(0, 3, 1, 2)
