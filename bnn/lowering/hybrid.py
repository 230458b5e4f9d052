"""Lowerings of the layers of hybrid networks: weights of ±1 over real activations."""

import numpy as np

from bnn.hybrid.layers import BinaryWeightConv1d, BinaryWeightConv2d, BinaryWeightLinear
from bnn.hybrid.partition import PartitionedConv2d
from bnn.layers.windows import Window
from bnn.lowering.context import Context
from bnn.lowering.values import Value, as_tensor
from bnn.lowering.weighted import (
    binary_weights,
    check_rank,
    covering,
    lower_binary_conv,
    lower_int8_conv,
    of_anything,
)
from kernels import DType, OpCode


def lower_binary_weight_conv(context: Context, layer: BinaryWeightConv2d, value: Value) -> Value:
    """Weights of ±1 as int8 over pixels, bits or a stream, with a border of 0."""
    rank = 3 if isinstance(layer, BinaryWeightConv1d) else 4
    check_rank(context, value, rank)
    weights, scale = binary_weights(layer)
    return of_anything(context, value, weights, layer.window, layer.groups, scale, None, rank)


def lower_binary_weight_linear(context: Context, layer: BinaryWeightLinear, value: Value) -> Value:
    """Dense layer: a convolution whose kernel covers the image."""
    check_rank(context, value, 2)
    rows, scale = binary_weights(layer)
    weights = covering(context, rows, value)
    return of_anything(context, value, weights, _DENSE, 1, scale, None, 2)


def lower_partitioned_conv(context: Context, layer: PartitionedConv2d, value: Value) -> Value:
    """Two convolutions, concatenated, and their channels put in order by a 1x1 convolution.

    The order is weights of 0 and 1: n_out^2 products a place, small beside those of the layer, and
    what follows reads channels where it expects them.
    """
    program = context.program
    binary, first = as_tensor(program, lower_binary_conv(context, layer.binary, value))
    real, second = as_tensor(program, lower_int8_conv(context, layer.real, value))
    joined = program.append(context.name, OpCode.CONCAT, first, residual=second)
    order = layer.order.cpu().numpy()
    taps = np.eye(len(order), dtype=np.int8)[order][:, None, None, :]
    tensor = program.append(
        context.name, OpCode.CONV_I32, joined, weights=program.constant(DType.I8, taps)
    )
    unit = np.concatenate([binary.unit, real.unit])[order]
    return Value(label=context.label, source=tensor, unit=unit, dims=program.dims(tensor))


_DENSE = Window((1, 1), (1, 1), (0, 0))
