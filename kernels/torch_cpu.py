"""What each torch operator computes on CPU tensors.

Tensors go to the kernels as numpy views of the same memory; what has to be copied first is said in
the docstring. Imported by :mod:`kernels.torch_ops` only, because it needs torch.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import torch_shapes as shapes
from kernels.convolution import ConvWeights, convolve
from kernels.convolution_call import Border
from kernels.layout import CHANNEL_WORD
from kernels.matmul import Panels, pack_rows
from kernels.matmul import matmul as matmul_rows
from kernels.packing import unpack_bits
from kernels.panels import Layout
from kernels.philox import Purpose
from kernels.reference_matmul import Form
from kernels.sampling import bernoulli as bernoulli_rows
from kernels.statistics import batch_products as batch_products_rows


def view(tensor: Tensor) -> NDArray[Any]:
    """Numpy view of the memory of a contiguous CPU tensor; int32 words become uint32."""
    values: NDArray[Any] = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return values.view(np.uint32) if values.dtype == np.int32 else values


def pack(x: Tensor, threshold: float = 0.0) -> Tensor:
    """Compare and pack the last axis."""
    out = shapes.pack(x, threshold)
    words = pack_rows(view(x).reshape(-1, x.shape[-1]), threshold)
    return _words_tensor(words).view(out.shape)


def unpack(words: Tensor, n_bits: int) -> Tensor:
    """Unpack the last axis."""
    shapes.unpack(words, n_bits)
    return torch.from_numpy(unpack_bits(view(words), n_bits))


def pack_panels(columns: Tensor, layout: int) -> Tensor:
    """Rearrange packed columns."""
    out = shapes.pack_panels(columns, layout)
    n_bits = 8 * CHANNEL_WORD.itemsize * columns.shape[1]  # of whole words: nothing depends on it
    panels = Panels.of(view(columns), n_bits, Layout(layout))
    return _words_tensor(panels.data).view(out.shape)


def matmul(a: Tensor, panels: Tensor, n_bits: int, n: int, form: str = "xor") -> Tensor:
    """Multiply packed rows with panels."""
    out = shapes.matmul(a, panels, n_bits, n, form)
    columns = Panels(view(panels).reshape(-1), n, n_bits, shapes.layout_of(panels))
    matmul_rows(view(a), columns, form=cast(Form, form), out=out.numpy())
    return out


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Pack both, multiply; tensors that are not contiguous are copied."""
    out = shapes.binary_linear(x, weight)
    n_out, n_in = weight.shape
    panels = Panels.of(pack_rows(view(weight.contiguous())), n_in)
    rows = pack_rows(view(x.contiguous()).reshape(-1, n_in))
    np.copyto(out.view(-1, n_out).numpy(), matmul_rows(rows, panels), casting="same_kind")
    return out


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
) -> Tensor:
    """Pack both, convolve; tensors that are not in channels-last memory are copied."""
    out = shapes.binary_conv2d(x, weight, stride, padding, groups, border)
    images, kernels = (view(t.permute(0, 2, 3, 1).contiguous()) for t in (x, weight))
    *pixels, n_in = images.shape
    rows = pack_rows(images.reshape(int(np.prod(pixels)), n_in))
    words = rows.reshape(*pixels, rows.shape[1])
    weights = ConvWeights.of(kernels >= 0, groups)
    (stride_h, stride_w), (pad_h, pad_w) = stride, padding
    sums = convolve(words, weights, (stride_h, stride_w), (pad_h, pad_w), cast(Border, border))
    np.copyto(out.permute(0, 2, 3, 1).numpy(), sums, casting="same_kind")
    return out


def bernoulli(
    field: Tensor, seed: int, purpose: int, step: int = 0, index: int = 0, row_begin: int = 0
) -> Tensor:
    """Draw the states of units from their fields."""
    shapes.bernoulli(field, seed, purpose, step, index, row_begin)
    rows = np.arange(row_begin, row_begin + field.shape[0])
    words = bernoulli_rows(
        view(field), seed=seed, purpose=Purpose(purpose), rows=rows, step=step, index=index
    )
    return _words_tensor(words)


def batch_products(visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int) -> Tensor:
    """Count the rows where two units are on."""
    shapes.batch_products(visible, n_visible, hidden, n_hidden)
    return torch.from_numpy(batch_products_rows(view(visible), n_visible, view(hidden), n_hidden))


def _words_tensor(words: NDArray[np.uint32]) -> Tensor:
    return torch.from_numpy(words.view(np.int32))
