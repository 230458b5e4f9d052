"""What a network costs, layer by layer: parameters, multiply-accumulates by precision, bytes.

Counting rules

- One row per layer in order of evaluation: a module of :mod:`bnn.layers`, :mod:`bnn.quantizers` or
  ``torch.nn`` that holds no other layer. A :class:`~bnn.layers.ConvNorm` is one row: convolution,
  max-pool and normalisation.
- Multiply-accumulates (MACs) are per image: one per weight and output position before the max-pool,
  padding included; of a transposed convolution, one per weight and input position. A table that is
  looked up has none, and neither have normalisations, activations, pools and additions.
- A MAC is binary if weights and inputs are ±1, of real inputs if only the weights are one bit, else
  of the precision of the weights: up to 8 bits, or 32. OPs = MACs that are not binary +
  binary MACs / 64, the convention of Bi-Real Net (arXiv:1808.00278).
- Input bits are 1 if the values of the dummy batch are ±1, 8 for pixels, else 32.
- A normalisation has 4 float32 values per channel, two of which are not trained.
- Packed bytes are those of the constants in a model file: channels of one tap in words of 32 bits,
  int8 weights a byte each, int32 biases; a normalisation 8 bytes per channel where a sign follows
  directly (threshold, flip), else 12 (int32 multiplier, int64 offset); other parameters 4 each, and
  a real layer its float32 bytes. For networks without a stream that is exact.
- Bytes with reals in 8 bits are Larq's model size (8-bit FP weights): packed weights, and a byte
  for each real weight and other parameter, two for each channel of a normalisation.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnn.cost import FLOAT_BYTES, cost_of, is_sign, layers_of, ships_as_integers
from bnn.models.classifier import Classifier
from bnn.summary_table import format_table

_BINARY_MACS_PER_OP = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """Cost of one layer, with its normalisation or bias; without weights most of it is 0."""

    name: str
    """Name of the module in the network."""
    kind: str
    """Name of its class; of what a ConvNorm holds."""
    input_shape: tuple[int, ...]
    """(H, W, C) of the first input; a vector is (1, 1, C)."""
    output_shape: tuple[int, ...]
    """(H, W, C), after the max-pool."""
    weight_bits: int
    """Bits per weight: 1, 2, 8 or 32; 0 without weights."""
    input_bits: int
    """Bits per input: 1, 8 (pixels) or 32 (reals, and the int32 they become)."""
    n_weights: int
    """Weights, of ``weight_bits`` each."""
    n_other: int
    """Other parameters, 32 bits each: biases, normalisations, slopes, shifts."""
    n_fixed: int
    """Of ``n_other``, those that are not trained: running statistics."""
    macs: int
    """Multiply-accumulates per image, of ``weight_bits`` precision."""
    packed_bytes: int
    """Bytes of the layer's constants in the model file; float32 bytes for a real layer."""
    int8_bytes: int
    """Bytes of the same layer with all that has more than 8 bits in 8."""
    float_bytes: int
    """Bytes of the same layer with all parameters in float32."""

    @property
    def is_binary_product(self) -> bool:
        """Whether its products are of bits with bits."""
        return self.weight_bits == 1 and self.input_bits == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Cost of a network; ``str()`` is a table."""

    rows: tuple[LayerSummary, ...]
    """In order of evaluation; of a layer that runs twice the second row has no parameters."""

    @property
    def layers(self) -> tuple[LayerSummary, ...]:
        """The layers with weights."""
        return tuple(row for row in self.rows if row.n_weights)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all constants as they ship."""
        return sum(row.packed_bytes for row in self.rows)

    @property
    def int8_bytes(self) -> int:
        """Bytes with all that has more than 8 bits in 8, as Larq counts them."""
        return sum(row.int8_bytes for row in self.rows)

    @property
    def float_bytes(self) -> int:
        """Bytes of the same network in float32."""
        return sum(row.float_bytes for row in self.rows)

    @property
    def compression_ratio(self) -> float:
        """Float32 bytes by packed bytes (Larq prints the inverse)."""
        return self.float_bytes / self.packed_bytes if self.packed_bytes else 1.0

    @property
    def n_trainable(self) -> int:
        """Parameters that are trained."""
        return sum(row.n_weights + row.n_other - row.n_fixed for row in self.rows)

    @property
    def n_fixed(self) -> int:
        """Values that are not trained: running statistics."""
        return sum(row.n_fixed for row in self.rows)

    def n_parameters(self, bits: int) -> int:
        """Parameters of ``bits`` bits, running statistics among those of 32."""
        weights = sum(row.n_weights for row in self.rows if row.weight_bits == bits)
        return weights + (sum(row.n_other for row in self.rows) if bits == 32 else 0)

    def macs(self, weight_bits: int) -> int:
        """Multiply-accumulates per image of the layers with ``weight_bits`` bits per weight."""
        return sum(row.macs for row in self.rows if row.weight_bits == weight_bits)

    @property
    def n_macs(self) -> int:
        """All multiply-accumulates per image."""
        return sum(row.macs for row in self.rows)

    @property
    def binary_macs(self) -> int:
        """Multiply-accumulates per image of bits with bits."""
        return sum(row.macs for row in self.rows if row.is_binary_product)

    @property
    def ops(self) -> float:
        """OPs per image: MACs that are not binary, and a 64th of those that are."""
        return self.n_macs - self.binary_macs + self.binary_macs / _BINARY_MACS_PER_OP

    def to_json(self) -> dict[str, object]:
        """All rows and totals as what JSON can hold."""
        rows: list[dict[str, object]] = [
            {**asdict(r), "input_shape": list(r.input_shape), "output_shape": list(r.output_shape)}
            for r in self.rows
        ]
        bytes_of = ("packed_bytes", "int8_bytes", "float_bytes", "compression_ratio")
        numbers = (*bytes_of, "n_trainable", "n_fixed", "n_macs", "binary_macs", "ops")
        return {"rows": rows, **{name: getattr(self, name) for name in numbers}}

    def __str__(self) -> str:
        return format_table(self)


def summary(
    net: nn.Module, input_shape: tuple[int, ...] | None = None, *, example: Tensor | None = None
) -> Summary:
    """Count parameters, multiply-accumulates and bytes of a network or any module.

    A copy of the network sees one dummy image in evaluation mode; the network itself stays as it
    is, with its mode, statistics, hooks and random numbers.

    Parameters
    ----------
    net
        Any module of :mod:`bnn.layers` and ``torch.nn`` layers. Weights of others are not counted.
    input_shape
        Of one input without its batch axis: (C, H, W), (C, L) or (F,). A :class:`Classifier` knows
        its own.
    example
        A batch of one, for a module whose input is not made of floats.

    Returns
    -------
    Summary
        One row per layer; ``str()`` of it is a table with totals.

    Raises
    ------
    ValueError
        If the shape of the input is not known, or the network does not take it.
    """
    if isinstance(net, Classifier):
        height, width, channels = net.input_shape
        if input_shape not in (None, (height, width, channels), (channels, height, width)):
            raise ValueError(
                f"input_shape: expected {net.input_shape}, for which the network was built, or "
                f"None, got {input_shape}"
            )
        example = torch.zeros(1, height, width, channels, dtype=torch.uint8)
        return Summary(rows=tuple(_rows(net, example, first_bits=8)))
    if example is None and input_shape is None:
        raise ValueError("input_shape: expected the shape of one input without batch, got None")
    if example is not None:
        return Summary(rows=tuple(_rows(net, example, first_bits=_bits(example))))
    real = torch.zeros(1, *(input_shape or ()))
    try:
        return Summary(rows=tuple(_rows(net, real, first_bits=32)))
    except ValueError as error:
        if "activations -1 and +1" not in str(error):
            raise
    return Summary(rows=tuple(_rows(net, torch.ones_like(real), first_bits=1)))


@dataclass(frozen=True, slots=True)
class _Pass:
    """One evaluation of one layer."""

    name: str
    module: nn.Module
    x: Tensor
    y: Tensor


def _rows(net: nn.Module, example: Tensor, *, first_bits: int) -> list[LayerSummary]:
    """Evaluate a copy and count every layer that it went through."""
    watched = copy.deepcopy(net).eval()
    for module in watched.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    passes: list[_Pass] = []
    for name, module in layers_of(watched):
        module.register_forward_hook(_recorder(name, passes))
    device = next((p.device for p in watched.parameters()), torch.device("cpu"))
    with torch.no_grad():
        watched(example.to(device))
    signed = {id(p.x) for p in passes if is_sign(p.module)}
    is_float = not ships_as_integers(watched)
    first_input = passes[0].x if passes else example
    rows, seen = [], set()
    for p in passes:
        cost = cost_of(p.module, p.x, p.y, is_signed=id(p.y) in signed, is_float=is_float)
        is_new = id(p.module) not in seen
        seen.add(id(p.module))
        rows.append(
            LayerSummary(
                name=p.name,
                kind=cost.kind,
                input_shape=_shape(p.x),
                output_shape=_shape(p.y),
                weight_bits=cost.weight_bits,
                input_bits=first_bits if p.x is first_input else _bits(p.x),
                n_weights=cost.n_weights * is_new,
                n_other=cost.n_other * is_new,
                n_fixed=cost.n_fixed * is_new,
                macs=cost.macs,
                packed_bytes=cost.packed_bytes * is_new,
                int8_bytes=cost.int8_bytes * is_new,
                float_bytes=FLOAT_BYTES * (cost.n_weights + cost.n_other) * is_new,
            )
        )
    return rows


def _recorder(name: str, passes: list[_Pass]) -> Callable[[nn.Module, Any, Any], None]:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        y = output[0] if isinstance(output, tuple) else output
        # The tensors are kept, so that no later one gets the identity of an earlier one.
        passes.append(_Pass(name, module, inputs[0], y))

    return record


def _bits(x: Tensor) -> int:
    """Bits that hold one of the values: ±1, unsigned bytes, or anything."""
    if x.dtype == torch.uint8:
        return 8
    return 1 if x.is_floating_point() and bool((x.abs() == 1).all()) else 32


def _shape(x: Tensor) -> tuple[int, ...]:
    """Shape of one image, channels last; a vector is (1, 1, C), a sequence (1, L, C)."""
    shape = tuple(x.shape[1:])
    if len(shape) > 3 or not shape:
        return shape
    return (*(1,) * (3 - len(shape)), *shape[1:], shape[0])
