"""Layers of binary networks: (N, C, H, W) tensors in channels-last memory, (N, C, L) or (N, F).

A binary layer takes ±1 (:class:`Sign` makes them) and gives integers held in floats. Every layer
that will ship as integers is evaluated on integers held in floats (times one power of two), so its
float result is the integer accumulator exactly, as long as that fits in 24 bits. Spatial padding of
binary activations is -1, a zero bit, unless a layer is told ``border="zero"``.
"""

from bnn.layers.batch_norm import BatchNorm
from bnn.layers.binary import BinaryLayer
from bnn.layers.binary_conv1d import BinaryConv1d
from bnn.layers.binary_conv2d import BORDERS, BinaryConv2d, Border
from bnn.layers.binary_conv_transpose2d import BinaryConvTranspose2d
from bnn.layers.binary_embedding import BinaryEmbedding
from bnn.layers.binary_gru import BinaryGRUCell
from bnn.layers.binary_linear import BinaryLinear
from bnn.layers.binary_lstm import CELL_LIMIT, BinaryLSTMCell
from bnn.layers.conv_norm import ConvNorm
from bnn.layers.int8 import INT8_UNIT, PIXEL_UNIT, Int8Conv2d, Int8Head
from bnn.layers.real import RealConv1d, RealConv2d, RealLinear
from bnn.layers.recurrent_layer import Recurrent
from bnn.layers.sign import Sign
from bnn.layers.stage_chain import run_stages
from bnn.layers.token_embedding import TokenEmbedding
from bnn.layers.unclipped import UnclippedWarning, warn_about_unclipped
from bnn.layers.windows import Window, channels_last

__all__ = [
    "BORDERS",
    "CELL_LIMIT",
    "INT8_UNIT",
    "PIXEL_UNIT",
    "BatchNorm",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConvTranspose2d",
    "BinaryEmbedding",
    "BinaryGRUCell",
    "BinaryLSTMCell",
    "BinaryLayer",
    "BinaryLinear",
    "Border",
    "ConvNorm",
    "Int8Conv2d",
    "Int8Head",
    "RealConv1d",
    "RealConv2d",
    "RealLinear",
    "Recurrent",
    "Sign",
    "TokenEmbedding",
    "UnclippedWarning",
    "Window",
    "channels_last",
    "run_stages",
    "warn_about_unclipped",
]
