r"""Lowering of embeddings of tokens: a thermometer of bits, then one product.

With bits :math:`b_v = \operatorname{sign}(k - v)`, v = 1 ... V - 1, an entry of the table is

.. math:: W_k = W_0 + \sum_v (W_v - W_{v-1}) \frac{1 + b_v}{2},

whose factors :math:`(W_v - W_{v-1}) / 2` are -1, 0 or 1 because entries are ±1. So any dimension is
two operations, and both are exact. A token beyond the table counts as its last entry.
"""

import numpy as np

from bnn.layers.token_embedding import TokenEmbedding
from bnn.lowering.context import Context
from bnn.lowering.values import Value, tensor_value
from bnn.lowering.weighted import binary_weights
from kernels import DType, OpCode


def lower_token_embedding(context: Context, layer: TokenEmbedding, value: Value) -> Value:
    """Thresholds of the token, then an int8 product with a threshold.

    Raises
    ------
    ValueError
        If the input is not pixels (1, T, 1), or entries have a scale and are not ±1.
    """
    program, embedding = context.program, layer.embedding
    if value.source != 0 or value.chain or value.dims[::2] != (1, 1):
        raise ValueError(
            f"{context.name}: expected pixels (1, T, 1), got {value.dims} of {value.name}"
        )
    quantizer = embedding.weight_quantizer
    if quantizer.is_scaled or tuple(quantizer.levels) != (-1.0, 1.0):
        raise ValueError(
            f"{context.name}: expected entries of ±1, got those of {type(quantizer).__name__}"
        )
    table = binary_weights(embedding)[0].astype(np.int64)
    table = np.concatenate([table, table[-1:]])  # one bit at least, also of a table of one entry
    steps = np.diff(table, axis=0) // 2
    levels = np.stack([np.arange(1, len(table)), np.zeros(len(steps), np.int64)])
    thermometer = program.append(
        context.name,
        OpCode.CONV_U8,
        0,
        DType.BITS,
        weights=program.constant(DType.I8, np.ones((len(steps), 1, 1, 1))),
        threshold=program.constant(DType.I32, levels),
    )
    bits = program.append(
        context.name,
        OpCode.CONV_B1_I8,
        thermometer,
        DType.BITS,
        weights=program.constant(DType.I8, steps.T[:, None, None, :]),
        bias=program.constant(DType.I32, table[0] + steps.sum(axis=0)),
        threshold=program.constant(DType.I32, np.zeros((2, table.shape[1]))),
    )
    dims = program.dims(bits)
    made = Value(label=context.label, source=bits, unit=np.ones(dims[2]), dims=dims, rank=3)
    return tensor_value(program, made, bits, 1.0)
