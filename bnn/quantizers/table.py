"""All quantizers by name. One more = one file, and one line at the foot of this one.

``QUANTIZERS`` are the functions of x alone that give exactly ±1, which is what the activations of a
network may be; ``QUANTIZER_MODULES`` are all, with their options, parameters and schedules.
"""

from collections.abc import Callable

from torch import Tensor

from bnn.quantizers.base import Quantizer
from bnn.quantizers.bireal import ApproxSign, approx_sign
from bnn.quantizers.bnn_plus import SwishSign, swish_sign
from bnn.quantizers.dorefa import DoReFa
from bnn.quantizers.irnet import EdeSign, IRNetSign, ede_sign
from bnn.quantizers.react import RSign
from bnn.quantizers.recu import ReCUActivations, ReCUSign
from bnn.quantizers.ste import (
    IdentitySign,
    SteHeaviside,
    SteSign,
    identity_sign,
    ste_sign,
)
from bnn.quantizers.stochastic import StochasticSign
from bnn.quantizers.ternary import SteTern
from bnn.quantizers.xnor import MagnitudeAware

QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "approx_sign": approx_sign,
    "ede_sign": ede_sign,
    "identity_sign": identity_sign,
    "ste_sign": ste_sign,
    "swish_sign": swish_sign,
}

QUANTIZER_MODULES: dict[str, type[Quantizer]] = {
    "approx_sign": ApproxSign,
    "dorefa": DoReFa,
    "ede_sign": EdeSign,
    "identity_sign": IdentitySign,
    "irnet_sign": IRNetSign,
    "magnitude_aware": MagnitudeAware,
    "recu_activations": ReCUActivations,
    "recu_sign": ReCUSign,
    "rsign": RSign,
    "ste_heaviside": SteHeaviside,
    "ste_sign": SteSign,
    "ste_tern": SteTern,
    "stochastic_sign": StochasticSign,
    "swish_sign": SwishSign,
}
