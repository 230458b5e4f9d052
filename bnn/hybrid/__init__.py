"""Hybrid networks: which activations stay real, chosen by score, budget or measurement."""

from bnn.hybrid.calibration import recalibrate
from bnn.hybrid.conversion import make_hybrid
from bnn.hybrid.inputs import BinaryInput, binary_inputs
from bnn.hybrid.layers import (
    REAL_ACTIVATIONS,
    BinaryWeightConv1d,
    BinaryWeightConv2d,
    BinaryWeightLinear,
    ShiftedHardtanh,
    ShiftedReLU,
)
from bnn.hybrid.partition import PartitionedConv2d, channel_errors, partition
from bnn.hybrid.scores import (
    ERROR_MEASURES,
    InputMoments,
    input_errors,
    input_moments,
    sensitivities,
)
from bnn.hybrid.selection import (
    SELECTIONS,
    budget,
    cluster_1d,
    kmeans,
    layer_metric,
    threshold,
)

__all__ = [
    "ERROR_MEASURES",
    "REAL_ACTIVATIONS",
    "SELECTIONS",
    "BinaryInput",
    "BinaryWeightConv1d",
    "BinaryWeightConv2d",
    "BinaryWeightLinear",
    "InputMoments",
    "PartitionedConv2d",
    "ShiftedHardtanh",
    "ShiftedReLU",
    "binary_inputs",
    "budget",
    "channel_errors",
    "cluster_1d",
    "input_errors",
    "input_moments",
    "kmeans",
    "layer_metric",
    "make_hybrid",
    "partition",
    "recalibrate",
    "sensitivities",
    "threshold",
]
