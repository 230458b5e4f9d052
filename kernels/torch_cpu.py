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

from kernels import sampling
from kernels import torch_shapes as shapes
from kernels.convolution import ConvWeights, convolve
from kernels.convolution_call import Border
from kernels.layout import BIT_ORDER, CHANNEL_WORD
from kernels.matmul import Panels, pack_rows
from kernels.matmul import matmul as matmul_rows
from kernels.packing import unpack_bits
from kernels.panels import Layout
from kernels.philox import Purpose
from kernels.reference_matmul import Form
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


def pack_signs(x: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pack the signs of the last axis, and where its magnitude is at most ``clip``."""
    shapes.pack_signs(x, clip)
    if x.dtype != torch.float32:
        within = (x.abs() <= x.new_tensor(clip)).view(torch.uint8)
        return pack((x >= 0).view(torch.uint8), 1.0), pack(within, 1.0)
    beyond = float(np.nextafter(np.float32(clip), np.float32(np.inf)))
    within = pack(x, -clip)
    return pack(x), within.bitwise_and_(pack(x, beyond).bitwise_not_())


def unpack(words: Tensor, n_bits: int) -> Tensor:
    """Unpack the last axis."""
    shapes.unpack(words, n_bits)
    return torch.from_numpy(unpack_bits(view(words), n_bits))


def unpack_signs(words: Tensor, n_bits: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unpack the last axis as -1 and +1."""
    out = shapes.unpack_signs(words, n_bits, dtype)
    # Signs are made in bytes, because there a pass costs a quarter.
    return out.copy_(_unpack_bytes(words, n_bits).mul_(2).sub_(1))


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Values where the mask has a 1, else 0."""
    out = shapes.masked(values, mask)
    out.copy_(_unpack_bytes(mask, values.shape[-1]))
    # Mixing types or choosing by a bool tensor is 20 times slower than this derivative of a ReLU.
    torch.ops.aten.threshold_backward.grad_input(values, out, 0, grad_input=out)
    return out


def signs_product(
    real: Tensor,
    words: Tensor,
    n: int,
    transposed: bool = False,
    mask: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply real rows with packed signs in floats."""
    dtype = shapes.signs_product(real, words, n, transposed, mask, out_dtype).dtype
    rows = (real.T if transposed else real).float()
    product = rows @ unpack_signs(words, n)
    return (product if mask is None else masked(product, mask)).to(dtype)


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
    """Pack both, multiply; tensors that are not contiguous float32 are copied."""
    out = shapes.binary_linear(x, weight)
    _multiply(pack(x.float().contiguous()), weight, out)
    return out


def binary_linear_train(
    x: Tensor, weight: Tensor, clip_input: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the words of x and of its clip."""
    out = shapes.binary_linear(x, weight)
    words, within = _pack_input(x, clip_input)
    _multiply(words, weight, out)
    return out, words, within


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
) -> Tensor:
    """Pack both, convolve; tensors that are not float32 in channels-last memory are copied."""
    out = shapes.binary_conv2d(x, weight, stride, padding, groups, border)
    words = pack(x.permute(0, 2, 3, 1).float().contiguous())
    _convolve(words, weight, stride, padding, groups, border, out)
    return out


def binary_conv2d_train(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
    clip_input: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the words of x and of its clip."""
    out = shapes.binary_conv2d(x, weight, stride, padding, groups, border)
    words, within = _pack_input(x.permute(0, 2, 3, 1), clip_input)
    _convolve(words, weight, stride, padding, groups, border, out)
    return out, words, within


def bernoulli(
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
    rows = np.arange(row_begin, row_begin + values.shape[0])
    draw = sampling.bernoulli_probabilities if of_probabilities else sampling.bernoulli
    words = draw(
        view(values),
        seed=seed % (1 << 64),  # a signed integer holds its bits
        purpose=Purpose(purpose),
        rows=rows,
        step=step,
        index=index,
    )
    return _words_tensor(words)


def batch_products(visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int) -> Tensor:
    """Count the rows where two units are on."""
    shapes.batch_products(visible, n_visible, hidden, n_hidden)
    return torch.from_numpy(batch_products_rows(view(visible), n_visible, view(hidden), n_hidden))


def _words_tensor(words: NDArray[np.uint32]) -> Tensor:
    return torch.from_numpy(words.view(np.int32))


def _pack_input(x: Tensor, clip_input: bool) -> tuple[Tensor, Tensor]:
    x = x.float().contiguous()
    return pack_signs(x) if clip_input else (pack(x), shapes.no_words(x))


def _multiply(words: Tensor, weight: Tensor, out: Tensor) -> None:
    n_out, n_in = weight.shape
    panels = Panels.of(pack_rows(view(weight.float().contiguous())), n_in)
    sums = matmul_rows(view(words).reshape(-1, words.shape[-1]), panels)
    np.copyto(out.view(-1, n_out).numpy(), sums, casting="same_kind")


def _convolve(
    words: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    border: str,
    out: Tensor,
) -> None:
    kernels = view(weight.permute(0, 2, 3, 1).float().contiguous())
    weights = ConvWeights.of(kernels >= 0, groups)
    (stride_h, stride_w), (pad_h, pad_w) = stride, padding
    sums = convolve(
        view(words), weights, (stride_h, stride_w), (pad_h, pad_w), cast(Border, border)
    )
    np.copyto(out.permute(0, 2, 3, 1).numpy(), sums, casting="same_kind")


def _unpack_bytes(words: Tensor, n_bits: int) -> Tensor:
    """0 and 1 as int8; whole words are unpacked as one row, which is ten times faster."""
    octets, shape = view(words).view(np.uint8), (*words.shape[:-1], n_bits)
    if n_bits % 32 == 0:
        bits = np.unpackbits(octets.reshape(-1), bitorder=BIT_ORDER)
    else:
        bits = np.unpackbits(octets, axis=-1, count=n_bits, bitorder=BIT_ORDER)
    return torch.from_numpy(bits.view(np.int8)).view(shape)
