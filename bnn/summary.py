"""What a network costs, layer by layer: weights, multiply-accumulates by precision, bytes.

Counting rules: one multiply-accumulate per weight and output position, padding included, before
the max-pool. Packed bytes are those of the model file's constants: weights, thresholds and biases.
"""

from dataclasses import dataclass

from torch import nn

from bnn.layers import BinaryConv2d, Int8Conv2d, Int8Head, RealConv2d
from bnn.models import BinaryConvNet, Stage

_WORD_BITS = 32
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """Cost of one convolution with its normalisation or bias."""

    name: str
    """Name of the stage in the network."""
    output_shape: tuple[int, int, int]
    """(H, W, C) after the max-pool."""
    weight_bits: int
    """Bits per weight: 1, 8 or 32."""
    n_weights: int
    """Weights of the convolution."""
    macs: int
    """Multiply-accumulates per image, of ``weight_bits`` precision."""
    packed_bytes: int
    """Bytes of the layer's constants in the model file; float32 bytes for a real layer."""
    float_bytes: int
    """Bytes of the same layer with float32 weights, normalisation and bias."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Cost of a network; ``str()`` is a table."""

    layers: tuple[LayerSummary, ...]
    """In order of evaluation."""

    @property
    def packed_bytes(self) -> int:
        """Bytes of all constants as they ship."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Bytes of the same network in float32."""
        return sum(layer.float_bytes for layer in self.layers)

    def macs(self, weight_bits: int) -> int:
        """Multiply-accumulates per image of the layers with ``weight_bits`` bits per weight."""
        return sum(layer.macs for layer in self.layers if layer.weight_bits == weight_bits)

    def __str__(self) -> str:
        header = ("layer", "output", "bits", "weights", "1-bit MACs", "8-bit MACs", "32-bit MACs")
        lines = [_line((*header, "bytes", "float32"))]
        for layer in self.layers:
            macs = [layer.macs if layer.weight_bits == bits else 0 for bits in (1, 8, 32)]
            shape = "x".join(map(str, layer.output_shape))
            cells = (layer.name, shape, layer.weight_bits, layer.n_weights, *macs)
            lines.append(_line((*cells, layer.packed_bytes, layer.float_bytes)))
        n_weights = sum(layer.n_weights for layer in self.layers)
        totals = [self.macs(bits) for bits in (1, 8, 32)]
        cells = ("total", "", "", n_weights, *totals)
        lines.append(_line((*cells, self.packed_bytes, self.float_bytes)))
        return "\n".join(lines)


def summary(net: BinaryConvNet) -> Summary:
    """Count weights, multiply-accumulates and bytes of a network or of its full-precision twin.

    Returns
    -------
    Summary
        One record per convolution; ``str()`` of it is a table with totals.
    """
    height, width, _ = net.input_shape
    layers = []
    for number, stage in enumerate(net.stages):
        assert isinstance(stage, Stage)
        pooled = (height // stage.pool, width // stage.pool)
        layers.append(_layer(f"stages.{number}", stage.conv, (height, width), pooled))
        height, width = pooled
    layers.append(_layer("head", net.head, (1, 1), (1, 1)))
    return Summary(layers=tuple(layers))


def _layer(
    name: str, conv: nn.Module, extent: tuple[int, int], pooled: tuple[int, int]
) -> LayerSummary:
    assert isinstance(conv, BinaryConv2d | Int8Conv2d | Int8Head | RealConv2d)
    weight = conv.latent_weight if isinstance(conv, BinaryConv2d) else conv.weight
    n_out, n_in, kernel_h, kernel_w = weight.shape
    n_weights = weight.numel()
    # A head has a bias, a stage four normalisation values that ship as threshold and flip.
    is_head = name == "head"
    float_bytes = _FLOAT_BYTES * (n_weights + n_out * (1 if is_head else 4))
    constants = 4 * n_out * (1 if is_head else 2)
    if isinstance(conv, RealConv2d):
        bits, packed_bytes = 32, float_bytes
    elif isinstance(conv, BinaryConv2d):
        words = n_out * kernel_h * kernel_w * -(-n_in // _WORD_BITS)
        bits, packed_bytes = 1, words * _WORD_BITS // 8 + constants
    else:
        bits, packed_bytes = 8, n_weights + constants
    return LayerSummary(
        name=name,
        output_shape=(*pooled, n_out),
        weight_bits=bits,
        n_weights=n_weights,
        macs=n_weights * extent[0] * extent[1],
        packed_bytes=packed_bytes,
        float_bytes=float_bytes,
    )


def _line(cells: tuple[object, ...]) -> str:
    first, second, *rest = cells
    return f"{first!s:<10}{second!s:<12}" + "".join(f"{cell!s:>12}" for cell in rest)
