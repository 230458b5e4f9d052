"""Initial weights: uniform draws by Philox, one stream per parameter number."""

import torch
from torch import nn

from kernels import Purpose, uniform

LATENT_LIMIT = 0.03
"""Latent weights start uniform in ±LATENT_LIMIT: near enough to 0 that a weight can change sign
within the first hundred steps, whatever the width of the layer."""


@torch.no_grad()
def initialise(net: nn.Module, seed: int) -> None:
    """Fill the weights of all layers with uniform draws that depend on nothing but ``seed``.

    A parameter of two or more axes is a layer's weights; vectors (biases, normalisations, slopes,
    shifts) keep what their module gave them. The stream of a parameter is its number in
    ``net.parameters()``. A real or int8 weight is uniform in ±sqrt(6 / fan-in): He's variance
    2 / fan-in suits ReLU; an int8 layer and the head only need outputs of the order of 1.

    Parameters
    ----------
    net
        Changed in place; on torch's device "meta" it has shapes only, and nothing is drawn.
    seed
        64 bits, of stream 0 of the project's random numbers.
    """
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if parameter.dim() < 2 or parameter.is_meta:
            continue
        words = uniform(seed, Purpose.INITIAL_WEIGHTS, parameter.numel(), index=number)[0]
        limit = (6.0 / parameter[0].numel()) ** 0.5
        draws = torch.from_numpy(words).reshape(parameter.shape)
        parameter.copy_((2 * draws - 1) * limit)
        if name.endswith("latent_weight"):
            parameter.mul_(LATENT_LIMIT / limit)
