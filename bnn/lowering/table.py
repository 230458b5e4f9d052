"""What can be lowered. One more layer = one function, and one line here."""

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from bnn import layers, quantizers
from bnn.hybrid import layers as hybrid_layers
from bnn.hybrid.partition import PartitionedConv2d
from bnn.layers.conv_norm import ConvNorm
from bnn.layers.recurrent_layer import Recurrent
from bnn.layers.token_embedding import TokenEmbedding
from bnn.lowering import clips, elementwise, embedding, hybrid, recurrent, transposed, weighted
from bnn.quantizers import QUANTIZERS

LOWERINGS: Final[dict[Any, Callable[..., Any]]] = {
    layers.BinaryConv2d: weighted.lower_binary_conv,
    layers.BinaryConv1d: weighted.lower_binary_conv,
    layers.BinaryLinear: weighted.lower_binary_linear,
    layers.Int8Conv2d: weighted.lower_int8_conv,
    layers.Int8Head: weighted.lower_int8_head,
    hybrid_layers.BinaryWeightConv2d: hybrid.lower_binary_weight_conv,
    hybrid_layers.BinaryWeightConv1d: hybrid.lower_binary_weight_conv,
    hybrid_layers.BinaryWeightLinear: hybrid.lower_binary_weight_linear,
    hybrid_layers.ShiftedHardtanh: clips.lower_shifted_hardtanh,
    hybrid_layers.ShiftedReLU: clips.lower_shifted_relu,
    PartitionedConv2d: hybrid.lower_partitioned_conv,
    layers.BinaryConvTranspose2d: transposed.lower_transposed,
    TokenEmbedding: embedding.lower_token_embedding,
    Recurrent: recurrent.lower_recurrent,
    ConvNorm: weighted.lower_conv_norm,
    layers.Sign: elementwise.lower_sign,
    quantizers.SteSign: elementwise.lower_sign,
    quantizers.ApproxSign: elementwise.lower_sign,
    quantizers.SwishSign: elementwise.lower_sign,
    quantizers.EdeSign: elementwise.lower_sign,
    quantizers.IdentitySign: elementwise.lower_sign,
    quantizers.ReCUActivations: elementwise.lower_sign,
    quantizers.StochasticSign: elementwise.lower_sign,
    **{function: elementwise.lower_sign for function in QUANTIZERS.values()},
    quantizers.RSign: elementwise.lower_rsign,
    quantizers.RPReLU: elementwise.lower_rprelu,
    layers.BatchNorm: elementwise.lower_norm,
    nn.BatchNorm1d: elementwise.lower_norm,
    nn.BatchNorm2d: elementwise.lower_norm,
    nn.ReLU: elementwise.lower_relu,
    F.relu: elementwise.lower_relu,
    torch.relu: elementwise.lower_relu,
    nn.PReLU: elementwise.lower_prelu,
    nn.LeakyReLU: clips.lower_leaky_relu,
    nn.Hardtanh: clips.lower_hardtanh,
    nn.ReLU6: clips.lower_hardtanh,
    nn.Identity: elementwise.lower_identity,
    nn.Dropout: elementwise.lower_identity,
    nn.MaxPool1d: elementwise.lower_max_pool,
    nn.MaxPool2d: elementwise.lower_max_pool,
    F.max_pool2d: elementwise.lower_max_pool_function,
    nn.AvgPool1d: elementwise.lower_average_pool,
    nn.AvgPool2d: elementwise.lower_average_pool,
    nn.AdaptiveAvgPool1d: elementwise.lower_global_average,
    nn.AdaptiveAvgPool2d: elementwise.lower_global_average,
    torch.mean: elementwise.lower_mean,
    operator.add: elementwise.lower_add,
    torch.add: elementwise.lower_add,
    torch.cat: elementwise.lower_concat,
    torch.concat: elementwise.lower_concat,
    nn.Flatten: elementwise.lower_flatten_module,
    torch.flatten: elementwise.lower_flatten,
    torch.squeeze: elementwise.lower_squeeze,
    torch.unsqueeze: elementwise.lower_unsqueeze,
}
"""Type of a module, or function -> lowering (context, module or None, *arguments) -> Value."""

METHODS: Final[dict[str, Any]] = {
    name: getattr(torch, name)
    for name in ("add", "flatten", "mean", "relu", "squeeze", "unsqueeze")
}
"""Tensor methods that are functions by another name."""
