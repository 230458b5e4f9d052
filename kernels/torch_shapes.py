"""What every torch operator accepts and the empty tensor that it fills: one function per operator.

The same functions serve the compiler as fake implementations and the CPU to check its arguments
and to allocate, so that the two cannot disagree. Imported by :mod:`kernels.torch_ops` only.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from kernels.layout import CHANNEL_WORD, n_words
from kernels.panels import STEP, WIDTH, Layout
from kernels.reference_matmul import FORMS

BORDERS: Final = ("minus_one", "zero")
EXACT_FLOAT: Final = 1 << 24
"""Integers up to here are exact in float32."""
_FLOAT = (torch.float32,)
_REAL = (torch.float32, torch.bfloat16)
_LATENT = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_PACKABLE = (torch.float32, torch.uint8, torch.int8)
_WORDS = (torch.int32,)


def pack(x: Tensor, threshold: float = 0.0) -> Tensor:
    """Words of the last axis."""
    _check("x", x, _PACKABLE)
    return _words_of(x)


def pack_signs(x: Tensor, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Words of the signs and of the places within the clip."""
    _check("x", x, _LATENT)
    if not clip > 0:
        raise ValueError(f"clip: expected clip > 0, got {clip}")
    return _words_of(x), _words_of(x)


def unpack(words: Tensor, n_bits: int) -> Tensor:
    """Bits of the last axis."""
    _check_words("words", words, n_bits)
    return words.new_empty((*words.shape[:-1], n_bits), dtype=torch.bool)


def unpack_signs(words: Tensor, n_bits: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Signs of the last axis."""
    _check_words("words", words, n_bits)
    _check_choice("dtype", str(dtype), [str(real) for real in _REAL])
    return words.new_empty((*words.shape[:-1], n_bits), dtype=dtype)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Values of a mask."""
    _check("values", values, _LATENT)
    _check_words("mask", mask, values.shape[-1])
    if mask.shape[:-1] != values.shape[:-1]:
        raise ValueError(
            f"mask: expected one row of words per row of values {tuple(values.shape)}, "
            f"got shape {tuple(mask.shape)}"
        )
    return values.new_empty(values.shape)


def signs_product(
    real: Tensor,
    words: Tensor,
    n: int,
    transposed: bool = False,
    mask: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Products of real rows with packed signs."""
    _check("real", real, _REAL, 2)
    _check_words("words", words, n, 2)
    n_rows, n_sum = (real.shape[1], real.shape[0]) if transposed else real.shape
    _check_rows("words", words, n_sum)
    if mask is not None:
        _check_words("mask", mask, n, 2)
        _check_rows("mask", mask, n_rows)
    out_dtype = out_dtype or real.dtype
    _check_choice("out_dtype", str(out_dtype), [str(dtype) for dtype in _REAL])
    return real.new_empty((n_rows, n), dtype=out_dtype)


def pack_panels(columns: Tensor, layout: int) -> Tensor:
    """Panels of packed columns, the order of their words told by the shape."""
    _check("columns", columns, _WORDS, 2)
    if layout not in WIDTH:
        wanted = " or ".join(f"{int(known)} ({known.name})" for known in WIDTH)
        raise ValueError(f"layout: expected {wanted}, got {layout}")
    n, n_row_words = columns.shape
    return columns.new_empty(_panels_shape(n, n_row_words, Layout(layout)))


def matmul(a: Tensor, panels: Tensor, n_bits: int, n: int, form: str = "xor") -> Tensor:
    """Products of packed rows with panels."""
    _check_words("a", a, n_bits, 2)
    _check_choice("form", form, tuple(FORMS))
    _check("panels", panels, _WORDS, 3)
    expected = _panels_shape(n, a.shape[1], layout_of(panels))
    if tuple(panels.shape) != expected:
        raise ValueError(
            f"panels: expected shape {expected} for {n} columns of {n_bits} bits, "
            f"got {tuple(panels.shape)}"
        )
    return a.new_empty((a.shape[0], n))


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Products of signs, as floats."""
    _check("x", x, _REAL, is_contiguous=False)
    _check("weight", weight, _REAL, 2, is_contiguous=False)
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in:
        raise ValueError(
            f"x: expected last axis {n_in} (weight.shape[1]), got shape {tuple(x.shape)}"
        )
    _check_exact(n_in)
    return x.new_empty((*x.shape[:-1], n_out), dtype=torch.float32)


def binary_linear_train(
    x: Tensor, weight: Tensor, clip_input: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Products of signs, and what the gradients need."""
    return binary_linear(x, weight), _words_of(x), _words_of(x) if clip_input else no_words(x)


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
) -> Tensor:
    """Convolutions of signs, as floats in channels-last memory."""
    _check("x", x, _REAL, 4, is_contiguous=False)
    _check("weight", weight, _REAL, 4, is_contiguous=False)
    _check_choice("border", border, BORDERS)
    if len(stride) != 2 or len(padding) != 2 or min(stride) < 1 or min(padding) < 0:
        raise ValueError(
            "stride, padding: expected two numbers each, stride >= 1 and padding >= 0, "
            f"got {list(stride)} and {list(padding)}"
        )
    n_images, n_in, *image = x.shape
    n_out, n_in_group, *kernel = weight.shape
    if groups < 1 or n_out % groups or n_in != groups * n_in_group:
        raise ValueError(
            f"weight: expected shape (n_out, {n_in} / groups, height, width) with n_out a multiple "
            f"of groups = {groups}, got {tuple(weight.shape)}"
        )
    _check_exact(n_in_group * kernel[0] * kernel[1])
    size = [(image[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    if min(size) < 1:
        raise ValueError(f"x: expected an image of at least {kernel} with padding, got {image}")
    shape = (n_images, n_out, *size)
    return torch.empty(
        shape, dtype=torch.float32, device=x.device, memory_format=torch.channels_last
    )


def binary_conv2d_train(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
    border: str = "minus_one",
    clip_input: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolutions of signs, and what the gradients need."""
    out = binary_conv2d(x, weight, stride, padding, groups, border)
    n_images, n_in, *image = x.shape
    words = [
        x.new_empty((n_images, *image, n_words(n_in, CHANNEL_WORD)), dtype=torch.int32)
        for _ in range(1 + clip_input)
    ]
    return out, words[0], words[1] if clip_input else no_words(x)


def bernoulli(
    values: Tensor,
    seed: int,
    purpose: int,
    step: int = 0,
    index: int = 0,
    row_begin: int = 0,
    of_probabilities: bool = False,
) -> Tensor:
    """Words of the states of the units of each row."""
    _check("probabilities" if of_probabilities else "field", values, _FLOAT, 2)
    return _words_of(values)


def batch_products(visible: Tensor, n_visible: int, hidden: Tensor, n_hidden: int) -> Tensor:
    """Counts of rows where two units are on."""
    _check_words("visible", visible, n_visible, 2)
    _check_words("hidden", hidden, n_hidden, 2)
    if visible.shape[0] != hidden.shape[0]:
        raise ValueError(
            f"hidden: expected {visible.shape[0]} rows (visible.shape[0]), got {hidden.shape[0]}"
        )
    return visible.new_empty((n_visible, n_hidden))


def no_words(x: Tensor) -> Tensor:
    """What stands for a mask that keeps everything."""
    return x.new_empty(0, dtype=torch.int32)


def _words_of(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], n_words(x.shape[-1], CHANNEL_WORD)), dtype=torch.int32)


def layout_of(panels: Tensor) -> Layout:
    """Order of the words of panels, by their shape."""
    for layout, width in WIDTH.items():
        if panels.shape[-1] == width * STEP[layout]:
            return layout
    raise ValueError(f"panels: expected what pack_panels returns, got shape {tuple(panels.shape)}")


def _panels_shape(n: int, n_row_words: int, layout: Layout) -> tuple[int, ...]:
    width, step = WIDTH[layout], STEP[layout]
    return -(-n // width), -(-n_row_words // step), width * step


def _check(
    name: str,
    tensor: Tensor,
    dtypes: Sequence[torch.dtype],
    n_axes: int | None = None,
    *,
    is_contiguous: bool = True,
) -> None:
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name}: expected {wanted}, got {tensor.dtype}; convert it with .to()")
    if tensor.dim() == 0 or (n_axes is not None and tensor.dim() != n_axes):
        wanted = "at least one axis" if n_axes is None else f"{n_axes} axes"
        raise ValueError(f"{name}: expected {wanted}, got shape {tuple(tensor.shape)}")
    if is_contiguous and not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous tensor, got strides {tensor.stride()}; "
            "call .contiguous()"
        )


def _check_words(name: str, tensor: Tensor, n_bits: int, n_axes: int | None = None) -> None:
    _check(name, tensor, _WORDS, n_axes)
    expected = n_words(n_bits, CHANNEL_WORD)
    if n_bits < 1 or tensor.shape[-1] != expected:
        raise ValueError(
            f"{name}: expected last axis {expected} for {n_bits} bits, "
            f"got shape {tuple(tensor.shape)}"
        )


def _check_rows(name: str, words: Tensor, n_rows: int) -> None:
    if words.shape[0] != n_rows:
        raise ValueError(f"{name}: expected {n_rows} rows, got shape {tuple(words.shape)}")


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _check_exact(n_products: int) -> None:
    if n_products > EXACT_FLOAT:
        raise ValueError(
            f"weight: expected at most 2**24 products per output, which float32 holds exactly, "
            f"got {n_products}"
        )
