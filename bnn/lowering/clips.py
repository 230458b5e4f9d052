r"""Lowerings of activations that are knees and shifts: clips, leaky and shifted rectifiers.

A clip is two knees, :math:`\min(x, b) = b - \max(b - x, 0)` and
:math:`\max(x, a) = a + \max(x - a, 0)`: one SCALE each, or a part of the threshold behind it.
"""

from torch import nn

from bnn.folding import Chain, affine, knee
from bnn.hybrid.layers import ShiftedHardtanh
from bnn.lowering.context import Context
from bnn.lowering.elementwise import named
from bnn.lowering.values import Value


def clip_links(n_channels: int, low: float, high: float) -> Chain:
    r"""Links of :math:`\min(\max(x, low), high)`."""
    return (
        affine(n_channels, gamma=-1.0, beta=high),
        knee(n_channels, 0.0),
        affine(n_channels, gamma=-1.0, beta=high - low),
        knee(n_channels, 0.0),
        affine(n_channels, beta=low),
    )


def lower_hardtanh(context: Context, module: nn.Hardtanh, value: Value) -> Value:
    """Two knees; also ReLU6, which is a clip to 0 and 6."""
    links = clip_links(value.dims[2], float(module.min_val), float(module.max_val))
    return context.value(value).linked(*links)


def lower_leaky_relu(context: Context, module: nn.LeakyReLU, value: Value) -> Value:
    """Knee of one slope."""
    return context.value(value).linked(
        named(context, knee, value.dims[2], float(module.negative_slope))
    )


def lower_shifted_hardtanh(context: Context, module: ShiftedHardtanh, value: Value) -> Value:
    """Shift, then two knees."""
    n = value.dims[2]
    shift = named(context, affine, n, mean=-module.shift)
    return context.value(value).linked(shift, *clip_links(n, -1.0, 1.0))


def lower_shifted_relu(context: Context, module: ShiftedHardtanh, value: Value) -> Value:
    """Shift, then a knee."""
    n = value.dims[2]
    shift = named(context, affine, n, mean=-module.shift)
    return context.value(value).linked(shift, knee(n, 0.0))
