"""Step functions with pseudo-gradients, and the rounding of int8 weights.

Bit 1 is +1, bit 0 is -1 and ``sign(0) = +1`` everywhere. What distinguishes two binarisers is only
the derivative used in backward. Whoever wants options, learned shifts, a schedule or random draws
takes the module; the functions have no state.
"""

from bnn.quantizers.base import Quantizer
from bnn.quantizers.bireal import ApproxSign, approx_sign
from bnn.quantizers.bnn_plus import SwishSign, swish_sign
from bnn.quantizers.dorefa import DoReFa, dorefa_activations, dorefa_weights
from bnn.quantizers.int8 import INT8_MAX, int8_scale, int8_weights, int32_bias
from bnn.quantizers.irnet import EdeSign, IRNetSign, ede_schedule, ede_sign, irnet_sign
from bnn.quantizers.pseudo_gradients import sign
from bnn.quantizers.react import RPReLU, RSign
from bnn.quantizers.recu import (
    ReCUActivations,
    ReCUSign,
    recu_activations,
    recu_schedule,
    recu_sign,
)
from bnn.quantizers.ste import (
    IdentitySign,
    SteHeaviside,
    SteSign,
    identity_sign,
    ste_heaviside,
    ste_sign,
)
from bnn.quantizers.stochastic import StochasticSign, stochastic_sign
from bnn.quantizers.table import QUANTIZER_MODULES, QUANTIZERS
from bnn.quantizers.ternary import SteTern, ste_tern, twn_threshold
from bnn.quantizers.xnor import MagnitudeAware, magnitude, magnitude_aware_sign

__all__ = [
    "INT8_MAX",
    "QUANTIZERS",
    "QUANTIZER_MODULES",
    "ApproxSign",
    "DoReFa",
    "EdeSign",
    "IRNetSign",
    "IdentitySign",
    "MagnitudeAware",
    "Quantizer",
    "RPReLU",
    "RSign",
    "ReCUActivations",
    "ReCUSign",
    "SteHeaviside",
    "SteSign",
    "SteTern",
    "StochasticSign",
    "SwishSign",
    "approx_sign",
    "dorefa_activations",
    "dorefa_weights",
    "ede_schedule",
    "ede_sign",
    "identity_sign",
    "int8_scale",
    "int8_weights",
    "int32_bias",
    "irnet_sign",
    "magnitude",
    "magnitude_aware_sign",
    "recu_activations",
    "recu_schedule",
    "recu_sign",
    "sign",
    "ste_heaviside",
    "ste_sign",
    "ste_tern",
    "stochastic_sign",
    "swish_sign",
    "twn_threshold",
]
