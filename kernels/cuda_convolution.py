"""Convolutions of packed signs on CUDA; every result is exact.

Images are int32 words (N, H, W, ceil(C / 32)), weights (n_out, KH, KW, ceil(C / groups / 32)), pad
bits 0 (:mod:`kernels.cuda_packing`); outputs are in channels-last order, as those of
:mod:`kernels.convolution`. Nothing is copied into a matrix of patches: ``cuda/convolution.cu``
reads the images where they lie.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from kernels.convolution_call import KINDS, Border, Plan, Size, outside_of, pair_of
from kernels.cuda_launch import Launcher
from kernels.cuda_matmul import PATHS as PRODUCT_PATHS
from kernels.cuda_packing import PANEL_COLUMNS, row_popcounts, to_panels, words_of
from kernels.panels import Layout

Path: TypeAlias = Literal["b1", "s8", "direct"]
"""Instruction of the tensor cores, or one thread for each output."""
Tile: TypeAlias = Literal["wide", "narrow"]

TILES: Final[dict[Tile, tuple[int, int, int]]] = {
    "wide": (128, 128, 3 * (128 + 128) * 128),
    "narrow": (64, 64, 3 * (64 + 64) * 128),
}
"""Tile -> pixels, channels and bytes of shared memory of a block (``cuda/convolution.cu``)."""

_STEP_WORDS: Final = 32  # of cuda/matmul.cuh
_TAP_BYTES: Final = 8  # of an entry of the table of taps
_SHARED_BYTES: Final = 99 << 10  # what a block of every GPU from 8.0 on can have
_FULL: Final = 108
"""From so many wide tiles on they are used: one for each multiprocessor of an A100."""
_DIRECT_CHANNELS: Final = {"b1": 4, "s8": 16}
"""Groups of so many output channels, or fewer, go without tensor cores: POPC does 512 products a
clock and multiprocessor, A100's tensor cores 16384 (b1) or 2048 (int8), in tiles of 64 channels, of
which so few are a 16th or a quarter. Not measured."""
_OUTPUTS: Final = {torch.int32: 0, torch.float32: 1}
_BITS: Final = 2  # Output of cuda/convolution.cuh
_MAX_GROUPS: Final = 65535  # of a grid
_MAX_PRODUCTS: Final = 1 << 29  # 4 popc(a & b) fits int32
_MAX_FLOAT_PRODUCTS: Final = 1 << 24  # every integer up to it is a float32


_Results: TypeAlias = tuple[int, Tensor | None, Tensor | None, Tensor]
"""Code of what comes out, threshold and flip of bits, and where it goes."""


@dataclass
class ConvPanels:
    """Weights of a convolution, arranged for the kernels that ask for them."""

    launcher: Launcher
    words: Tensor
    """Shape (n_out, KH, KW, ceil(C / groups / 32)), int32."""
    group_channels: int
    """C / groups."""
    groups: int

    @property
    def n_out(self) -> int:
        """Output channels of all groups."""
        return self.words.shape[0]

    @cached_property
    def panels(self) -> Tensor:
        """Panels of each group, (groups * ceil(n_out / groups / 8), ceil(words / 4), 32)."""
        columns = self.words.reshape(self.groups, self.n_out // self.groups, -1)
        missing = -columns.shape[1] % PANEL_COLUMNS
        if missing and self.groups > 1:
            columns = torch.nn.functional.pad(columns, (0, 0, 0, missing))
        return to_panels(self.launcher, columns.flatten(0, 1))

    @cached_property
    def by_word(self) -> Tensor:
        """Shape (KH KW words, n_out): for one thread an output."""
        return self.words.reshape(self.n_out, -1).t().contiguous()

    @cached_property
    def popcounts(self) -> Tensor:
        """Ones of each output channel, shape (n_out,)."""
        return row_popcounts(self.launcher, self.words.reshape(self.n_out, -1))

    @cached_property
    def tap_ones(self) -> Tensor:
        """Ones of all taps above and left of one, shape (KH + 1, KW + 1, n_out)."""
        ones = row_popcounts(self.launcher, self.words).permute(1, 2, 0)
        sums = ones.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
        return torch.nn.functional.pad(sums, (0, 0, 1, 0, 1, 0)).contiguous()


def conv_panels(
    launcher: Launcher, words: Tensor, group_channels: int, groups: int = 1
) -> ConvPanels:
    """Hold packed weights for :func:`convolve`.

    Parameters
    ----------
    launcher
        Where to run; ``words`` are there.
    words
        Shape (n_out, KH, KW, ceil(group_channels / 32)), int32, contiguous.
    group_channels
        Channels of the image that one output channel sees.
    groups
        Divides n_out.

    Raises
    ------
    TypeError, ValueError
        If dtype or shape do not fit.
    """
    if words.dtype != torch.int32:
        raise TypeError(f"words: expected int32 words, got {words.dtype}; pack them first")
    if words.ndim != 4 or 0 in words.shape or words.shape[3] != words_of(group_channels):
        raise ValueError(
            f"words: expected shape (n_out, KH, KW, {words_of(group_channels)}) for "
            f"{group_channels} channels of a group, got {tuple(words.shape)}"
        )
    if groups < 1 or words.shape[0] % groups:
        raise ValueError(f"groups: expected a divisor of n_out = {words.shape[0]}, got {groups}")
    if max(words.shape[1:3]) >= 1 << 15:
        raise ValueError(f"words: expected a kernel below 2^15 pixels, got {tuple(words.shape)}")
    return ConvPanels(launcher, words, group_channels, groups)


def convolve(
    launcher: Launcher,
    images: Tensor,
    panels: ConvPanels,
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    path: Path | None = None,
    out_dtype: torch.dtype = torch.int32,
) -> Tensor:
    r"""Cross-correlate signs.

    .. math:: a_{n y x o} = \sum_{i j c} w_{o i j c}\, x_{n,\, s y + i - p,\, s x + j - p,\, c}

    Parameters
    ----------
    launcher
        Where to run; the tensors are there.
    images
        Shape (N, H, W, ceil(C / 32)), int32 words, contiguous.
    panels
        For C channels.
    stride, padding
        Steps of the kernel; pixels around the image, fewer than the kernel has.
    border
        What is outside the image: -1, or 0 exactly.
    path
        By default :func:`default_path`.
    out_dtype
        int32, or float32 for up to 2^24 products of an output: then every value is exact.

    Returns
    -------
    Tensor
        Shape (N, H', W', n_out), H' = (H + 2 p - KH) // s + 1.

    Raises
    ------
    TypeError, ValueError
        If a dtype, shape or parameter does not fit, or the device has not the path.
    """
    if out_dtype not in _OUTPUTS:
        raise TypeError(f"out_dtype: expected int32 or float32, got {out_dtype}; convert it after")
    n_products = panels.group_channels * panels.words.shape[1] * panels.words.shape[2]
    if out_dtype == torch.float32 and n_products > _MAX_FLOAT_PRODUCTS:
        raise ValueError(f"panels: expected at most 2^24 products for float32, got {n_products}")
    plan = _plan(images, panels, stride, padding, border)
    out = images.new_empty((len(images), *plan.out_size(), plan.n_out), dtype=out_dtype)
    _run(launcher, images, panels, plan, path, (_OUTPUTS[out_dtype], None, None, out))
    return out


def convolve_bits(
    launcher: Launcher,
    images: Tensor,
    panels: ConvPanels,
    threshold: Tensor,
    flip: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    border: Border = "minus_one",
    *,
    path: Path | None = None,
) -> Tensor:
    """Cross-correlate signs and threshold the sums: a convolution, BatchNorm and sign in one.

    As :func:`convolve`, then bit = (sum >= threshold) ^ flip per channel, int32 and bool of shape
    (n_out,). The result is packed, shape (N, H', W', ceil(n_out / 32)), pad bits 0.
    """
    plan = _plan(images, panels, stride, padding, border)
    for name, vector, dtype in (("threshold", threshold, torch.int32), ("flip", flip, torch.bool)):
        if vector.dtype != dtype or vector.shape != (plan.n_out,):
            raise ValueError(
                f"{name}: expected {dtype} of shape ({plan.n_out},), got {vector.dtype} of "
                f"{tuple(vector.shape)}"
            )
    out = images.new_empty((len(images), *plan.out_size(), words_of(plan.n_out)))
    _run(launcher, images, panels, plan, path, (_BITS, threshold, flip, out))
    return out


def default_path(capability: tuple[int, int], panels: ConvPanels, *, is_bits: bool = False) -> Path:
    """How the convolution is computed; not measured."""
    path: Path = "s8" if capability > (9, 0) else "b1"
    group_out = panels.n_out // panels.groups
    is_direct = (
        group_out <= _DIRECT_CHANNELS[path]
        or panels.groups > _MAX_GROUPS
        or (is_bits and not _fills_words(panels))
        or _shared_bytes(panels, "narrow", 1) > _SHARED_BYTES
    )
    return "direct" if is_direct else path


def default_tile(n_pixels: int, panels: ConvPanels, copy_words: int) -> Tile:
    """Tile of the tensor-core kernels."""
    pixels, channels, _ = TILES["wide"]
    group_out = panels.n_out // panels.groups
    n_tiles = -(-n_pixels // pixels) * -(-group_out // channels) * panels.groups
    is_wide = group_out > TILES["narrow"][1] and n_tiles >= _FULL
    return (
        "wide"
        if is_wide and _shared_bytes(panels, "wide", copy_words) <= _SHARED_BYTES
        else "narrow"
    )


def spread_groups(launcher: Launcher, images: Tensor, group_channels: int, groups: int) -> Tensor:
    """Let every group of channels begin at a word: shape (N, H, W, groups * ceil(channels / 32)).

    The same tensor if they do already.
    """
    if groups == 1 or group_channels % 32 == 0:
        return images
    spread = images.new_empty((*images.shape[:3], groups * words_of(group_channels)))
    n_words = spread.numel()
    arguments = (images, n_words, groups, group_channels, spread)
    launcher.launch("convolution_direct", "spread_groups", -(-n_words // 256), *arguments)
    return spread


def _plan(images: Tensor, panels: ConvPanels, stride: Size, padding: Size, border: Border) -> Plan:
    """Geometry of a convolution, checked."""
    channels = panels.group_channels * panels.groups
    if images.dtype != torch.int32:
        raise TypeError(f"images: expected int32 words, got {images.dtype}; pack them first")
    if images.ndim != 4 or images.shape[3] != words_of(channels):
        raise ValueError(
            f"images: expected shape (N, H, W, {words_of(channels)}) for {channels} channels, "
            f"got {tuple(images.shape)}"
        )
    kernel = (panels.words.shape[1], panels.words.shape[2])
    plan = Plan(
        KINDS["bits"], Layout.VECTORS, panels.groups, outside_of(border), channels, panels.n_out,
        (images.shape[1], images.shape[2]), kernel, pair_of(stride, "stride"),
        pair_of(padding, "padding"), (1, 1),
    )  # fmt: skip
    out_h, out_w = plan.out_size()
    spread_words = panels.groups * panels.words.shape[3]
    for what, n, limit in (
        ("products of an output", panels.group_channels * kernel[0] * kernel[1], _MAX_PRODUCTS),
        ("pixels of the output", len(images) * out_h * out_w, 1 << 31),
        ("words of the output", len(images) * out_h * out_w * words_of(panels.n_out), 1 << 31),
        ("words of the image", len(images) * plan.size[0] * plan.size[1] * spread_words, 1 << 32),
        ("words under the kernel", kernel[0] * plan.size[1] * spread_words, 1 << 31),
        ("weights of all taps", (kernel[0] + 1) * (kernel[1] + 1) * panels.n_out, 1 << 31),
    ):
        if n >= limit:
            raise ValueError(
                f"images: expected fewer than {limit} {what}, got {n}; split the batch"
            )
    return plan


def _run(
    launcher: Launcher,
    images: Tensor,
    panels: ConvPanels,
    plan: Plan,
    path: Path | None,
    results: _Results,
) -> None:
    is_bits = results[0] == _BITS
    name = default_path(launcher.capability, panels, is_bits=is_bits) if path is None else path
    if name not in ("b1", "s8", "direct"):
        raise ValueError(f"path: expected one of b1, s8, direct, got {name!r}")
    if name != "direct":
        _check_tensor_cores(launcher, panels, name, is_bits)
    if len(images) == 0:
        return
    if name == "direct":
        _run_direct(launcher, images, panels, plan, results)
    else:
        _run_tiles(launcher, images, panels, plan, name, results)


def _check_tensor_cores(launcher: Launcher, panels: ConvPanels, path: Path, is_bits: bool) -> None:
    last = PRODUCT_PATHS[path].last
    if last is not None and launcher.capability > last:
        raise ValueError(
            f"path: {path!r} needs a compute capability up to {last}, got {launcher.capability}; "
            "leave it out for the default"
        )
    if panels.groups > _MAX_GROUPS or (is_bits and not _fills_words(panels)):
        raise ValueError(
            f"path: {path!r} needs at most {_MAX_GROUPS} groups, and for bits groups of whole "
            f"words, got {panels.groups} groups of {panels.n_out} channels; leave it out"
        )


def _run_direct(
    launcher: Launcher,
    images: Tensor,
    panels: ConvPanels,
    plan: Plan,
    results: _Results,
) -> None:
    n_warps = len(images) * plan.out_size()[0] * plan.out_size()[1] * words_of(plan.n_out)
    launcher.launch(
        "convolution_direct",
        "convolve_direct",
        -(-n_warps // 8),
        *(images, panels.by_word),
        *_geometry(images, panels, plan),
        int(plan.outside == 0),
        *results,
    )


def _run_tiles(
    launcher: Launcher,
    images: Tensor,
    panels: ConvPanels,
    plan: Plan,
    path: Path,
    results: _Results,
) -> None:
    images = spread_groups(launcher, images, panels.group_channels, panels.groups)
    n_pixels = len(images) * plan.out_size()[0] * plan.out_size()[1]
    copy_words = _copy_words(images, panels.words)
    tile = default_tile(n_pixels, panels, copy_words)
    pixels, channels, _ = TILES[tile]
    needs_taps = plan.outside == 0 and plan.padding != (0, 0)
    launcher.launch(
        "convolution",
        f"convolve_{path}_{tile}",
        (-(-n_pixels // pixels) * -(-plan.n_out // plan.groups // channels), plan.groups),
        *(images, panels.panels, panels.popcounts),
        panels.tap_ones if needs_taps else None,
        *_geometry(images, panels, plan),
        copy_words,
        *results,
        shared_bytes=_shared_bytes(panels, tile, copy_words),
    )


def _geometry(images: Tensor, panels: ConvPanels, plan: Plan) -> tuple[int, ...]:
    """What both kernels are told of the shapes."""
    counts = (plan.groups, panels.words.shape[3], panels.group_channels, plan.n_out // plan.groups)
    pairs = (plan.kernel, plan.stride, plan.padding, plan.out_size())
    return (len(images), *plan.size, *counts, *(n for pair in pairs for n in pair))


def _copy_words(images: Tensor, words: Tensor) -> int:
    """Words of one asynchronous copy: they are of one tap, and aligned to their size."""
    return next(
        n for n in (4, 2, 1) if words.shape[3] % n == 0 and images.data_ptr() % (4 * n) == 0
    )


def _shared_bytes(panels: ConvPanels, tile: Tile, copy_words: int) -> int:
    n_words = panels.words[0].numel()
    return TILES[tile][2] + -(-n_words // _STEP_WORDS) * _STEP_WORDS // copy_words * _TAP_BYTES


def _fills_words(panels: ConvPanels) -> bool:
    return panels.groups == 1 or panels.n_out // panels.groups % 32 == 0
