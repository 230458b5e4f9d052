"""From a network with binary activations to one in which chosen activations stay real."""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from bnn.hybrid.inputs import BinaryInput, convolution_of, resolve_inputs
from bnn.hybrid.layers import REAL_ACTIVATIONS, binary_weight_layer
from bnn.layers import ConvNorm, Sign
from bnn.models import Classifier
from bnn.quantizers import (
    ApproxSign,
    EdeSign,
    IdentitySign,
    RSign,
    SteSign,
    StochasticSign,
    SwishSign,
)

Network = TypeVar("Network", bound=Classifier)

_PLAIN_SIGNS = (ApproxSign, EdeSign, IdentitySign, Sign, SteSign, StochasticSign, SwishSign)
"""Signs of x itself; the others shift or rescale it first."""


def make_hybrid(net: Network, layers: Iterable[str], *, activation: str = "hardtanh") -> Network:
    r"""Copy a network so that chosen layers take real inputs; their weights stay binary.

    The sign before a chosen layer becomes :math:`\operatorname{clip}(x, -1, 1)`, whose gradient is
    the pseudo-gradient of ``ste_sign``: a trained network can be trained on from where it is. Or it
    becomes a ReLU, which suits a network that is trained anew. RSign keeps its shift.

    The layer becomes one of :mod:`bnn.hybrid.layers` with the same latent weights, under the same
    name; batch normalisations keep their statistics, which no longer fit
    (:func:`~bnn.hybrid.recalibrate`, or train). int8 layers take real inputs as they are.

    Parameters
    ----------
    net
        A binary network; it is not changed.
    layers
        Names of layers, or of the signs before them, as in :func:`~bnn.hybrid.binary_inputs`;
        layers that share a sign change together. None at all: the copy computes the same bytes.
    activation
        Key of ``REAL_ACTIVATIONS``.

    Returns
    -------
    Classifier
        Of the same class, in the same mode.

    Raises
    ------
    ValueError
        If a name is unknown, or a layer or a sign has no real counterpart; it is named. If there
        is no such activation.

    Notes
    -----
    In the authors' code the normalisation feeds the convolution and a ReLU follows it; here the
    activation stands where the sign was, so that nothing else of the network moves.

    References
    ----------
    .. [1] Prabhu et al. (2018), Hybrid binary networks, arXiv:1804.03867.
    """
    if activation not in REAL_ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {sorted(REAL_ACTIVATIONS)}, got {activation!r}"
        )
    hybrid = copy.deepcopy(net)
    for place in resolve_inputs(hybrid, layers):
        _make_real(hybrid, place, activation)
    return hybrid


def replace_convolution(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where the layer with weights called ``name`` is.

    A convolution fused with its pool and normalisation is a binary one's privilege: it becomes the
    three in a row, with the same names of parameters.
    """
    old = net.get_submodule(name)
    if isinstance(old, ConvNorm):
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=layer)
        if old.pool > 1:
            parts["pool"] = nn.MaxPool2d(old.pool)
        parts["norm"] = old.norm
        layer = nn.Sequential(parts)
        layer.training = old.training
    replace_module(net, name, layer)


def replace_module(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where the submodule called ``name`` is."""
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, module)


def _make_real(net: Classifier, place: BinaryInput, activation: str) -> None:
    sign = net.get_submodule(place.name)
    replace_module(net, place.name, _real_activation(sign, place.name, activation))
    for name in place.layers:
        layer = convolution_of(net.get_submodule(name))
        made = binary_weight_layer(layer, name)
        if made is not layer:
            made.train(layer.training)
            replace_convolution(net, name, made)


def _real_activation(sign: nn.Module, name: str, activation: str) -> nn.Module:
    plain, shifted = REAL_ACTIVATIONS[activation]
    real: nn.Module
    if isinstance(sign, RSign):
        real = shifted.in_place_of(sign)
    elif isinstance(sign, _PLAIN_SIGNS):
        real = plain()
    else:
        known = ", ".join(kind.__name__ for kind in (*_PLAIN_SIGNS, RSign))
        raise ValueError(
            f"{name}: expected a sign with a real counterpart ({known}), got "
            f"{type(sign).__name__}; leave it binary"
        )
    return real.train(sign.training)
