"""Weights, multiply-accumulates and bytes of one layer; :mod:`bnn.summary` states the rules."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from bnn.layers import (
    BatchNorm,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryLayer,
    BinaryLinear,
    ConvNorm,
    Int8Conv2d,
    Int8Head,
    RealConv2d,
    RealLinear,
    Sign,
    Window,
)
from bnn.quantizers import Quantizer

FLOAT_BYTES = 4
_WORD_BITS = 32
_REAL_BITS = 32
_BYTE_BITS = 8
_PARAMETER_BYTES = 4
_FOLDED_NORM_BYTES = 8
_SCALE_BYTES = 12

_Norm = BatchNorm | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one module holds and does for one image."""

    kind: str
    """Class of what multiplies, else of the module."""
    weight_bits: int
    """Bits per weight, 0 without weights."""
    n_weights: int
    """Weights of ``weight_bits`` bits."""
    n_other: int
    """Other parameters and running statistics."""
    n_fixed: int
    """Of those, the running statistics."""
    macs: int
    """Multiply-accumulates."""
    packed_bytes: int
    """Bytes of the constants in a model file."""
    int8_bytes: int
    """Bytes if no number had more than 8 bits."""


def layers_of(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules that are rows: layers, and whatever else has parameters of its own."""
    children = dict(net.named_children())
    is_whole = isinstance(net, ConvNorm | BinaryLayer) or not children
    if is_whole and isinstance(net, nn.Identity | nn.Sequential | nn.ModuleList):
        return
    if is_whole or next(net.parameters(recurse=False), None) is not None:
        yield prefix or type(net).__name__, net
    if not is_whole:
        for name, child in children.items():
            yield from layers_of(child, f"{prefix}.{name}" if prefix else name)


def is_sign(module: nn.Module) -> bool:
    """Whether a normalisation before ``module`` is folded into its threshold."""
    return isinstance(module, Sign) or (
        isinstance(module, Quantizer) and module.levels == (-1.0, 1.0)
    )


def ships_as_integers(net: nn.Module) -> bool:
    """Whether any layer has weights of fewer than 32 bits."""
    return any(isinstance(m, BinaryLayer | Int8Conv2d | Int8Head) for m in net.modules())


def cost_of(module: nn.Module, x: Tensor, y: Tensor, *, is_signed: bool, is_float: bool) -> Cost:
    """Count what ``module`` costs that has mapped ``x`` to ``y``, both of one image.

    Parameters
    ----------
    module
        One of :func:`layers_of`.
    x, y
        First input and first output, batches of one.
    is_signed
        Whether a sign takes the output.
    is_float
        Whether the network stays in float32, so that nothing is packed.
    """
    product = module.conv if isinstance(module, ConvNorm) else module
    # A ConvNorm is whole; of anything else only what is its own, the rest has rows of its own.
    is_whole = isinstance(module, ConvNorm)
    n_fixed = sum(b.numel() for b in module.buffers(recurse=is_whole) if b.is_floating_point())
    bits, weight = _weight(product)
    n_weights = 0 if weight is None else weight.numel()
    n_other = sum(p.numel() for p in module.parameters(recurse=is_whole)) - n_weights + n_fixed
    norm = module.norm if isinstance(module, ConvNorm) else module
    # Of a normalisation a scale and an offset per channel are left, as many as its statistics.
    n_left = n_fixed if isinstance(norm, _Norm) else n_other
    of_weights = 0 if weight is None else _packed_bytes(min(bits, _BYTE_BITS), weight)
    if is_float or bits == _REAL_BITS:
        packed = FLOAT_BYTES * (n_weights + n_other)
    elif isinstance(norm, _Norm):
        packed = of_weights + n_left // 2 * (_FOLDED_NORM_BYTES if is_signed else _SCALE_BYTES)
    else:
        packed = of_weights + _PARAMETER_BYTES * n_left
    return Cost(
        kind=type(product).__name__,
        weight_bits=bits,
        n_weights=n_weights,
        n_other=n_other,
        n_fixed=n_fixed,
        macs=0 if weight is None else n_weights * _positions(module, product, x, y),
        packed_bytes=packed,
        int8_bytes=of_weights + n_left,
    )


def _weight(layer: nn.Module) -> tuple[int, Tensor | None]:
    """Bits per weight and the weights of a layer; 0 and None if it has none."""
    if isinstance(layer, BinaryLayer):
        return layer.weight_quantizer.n_bits, layer.latent_weight
    if isinstance(layer, Int8Conv2d | Int8Head):
        return 8, layer.weight
    if isinstance(layer, _REAL_LAYERS):
        assert isinstance(layer.weight, Tensor)
        return _REAL_BITS, layer.weight
    return 0, None


def _positions(module: nn.Module, layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """How often each weight of ``layer`` is multiplied for one image."""
    if isinstance(layer, BinaryEmbedding | nn.Embedding):
        return 0
    if isinstance(layer, BinaryConvTranspose2d | nn.modules.conv._ConvTransposeNd):
        return math.prod(x.shape[2:])
    if isinstance(layer, BinaryLinear | RealLinear | nn.Linear):
        return y.numel() // y.shape[-1]
    if isinstance(module, ConvNorm):
        # Of the output only what the max-pool has left is seen.
        window = layer.window
        assert isinstance(window, Window)
        return math.prod(window.out_size(int(x.shape[2]), int(x.shape[3])))
    return math.prod(y.shape[2:])


def _packed_bytes(bits: int, weight: Tensor) -> int:
    """Bytes of weights, each of its bits a plane, with the channels of a tap in whole words."""
    if bits == _BYTE_BITS:
        return weight.numel()
    n_channels = weight.shape[1]
    n_taps = weight.numel() // n_channels
    return bits * n_taps * -(-n_channels // _WORD_BITS) * _WORD_BITS // 8


_REAL_LAYERS: tuple[type[nn.Module], ...] = (
    RealConv2d,
    RealLinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.Linear,
)
"""Layers of float weights whose multiply-accumulates are counted; one more = one line."""
