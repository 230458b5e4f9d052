r"""Partition inside a layer: the output channels that lose most by binary weights get int8 ones.

The error of a channel is the share of its weights' energy that no multiple of their signs holds,

.. math:: 1 - \cos^2 \angle (w, \operatorname{sign} w) = 1 - \frac{(\sum |w|)^2}{n \sum w^2}
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from bnn.hybrid.conversion import replace_convolution
from bnn.hybrid.inputs import convolution_of
from bnn.layers import BinaryConv2d, Int8Conv2d
from bnn.models import Classifier

Network = TypeVar("Network", bound=Classifier)


@torch.no_grad()
def channel_errors(weights: Tensor) -> Tensor:
    r"""Error of binary weights per output channel, as a share of their energy.

    It is the relative error of XNOR-Net's best approximation by a multiple of the signs: 0 where
    all magnitudes are equal, 1 - 2/π for normal weights, 1 - 1/n for a single weight among zeros.

    Parameters
    ----------
    weights
        Shape (C_out, ...), floating.

    Returns
    -------
    Tensor
        Shape (C_out,), float64, in [0, 1); 0 where all weights are 0, which nothing is lost of.
    """
    rows = weights.flatten(1).to(torch.float64).abs()
    energy = rows.square().sum(dim=1)
    held = rows.sum(dim=1).square() / (rows.shape[1] * energy)
    return torch.where(energy > 0, (1 - held).clamp(min=0.0), torch.zeros_like(energy))


class PartitionedConv2d(nn.Module):
    """A convolution of ±1 activations, some of whose output channels have int8 weights.

    Parameters
    ----------
    binary
        The convolution with binary weights.
    real
        The one with int8 weights: same inputs, window and stride.
    channels
        Output channels of ``real`` in the order of the whole, ascending.

    Notes
    -----
    It ships as the two convolutions, a concatenation, and the order of channels taken up by what
    follows. The border is that of each part: -1 for bits, 0 for int8 weights.
    """

    order: Tensor

    def __init__(self, binary: BinaryConv2d, real: Int8Conv2d, channels: list[int]) -> None:
        super().__init__()
        n_out = binary.n_out + real.n_out
        is_new = len(set(channels)) == real.n_out and channels == sorted(channels)
        if not is_new or not 0 <= channels[0] <= channels[-1] < n_out:
            raise ValueError(
                f"channels: expected {real.n_out} ascending numbers of 0 ... {n_out - 1}, "
                f"got {channels}"
            )
        self.binary = binary
        self.real = real
        self.channels = tuple(channels)
        others = [number for number in range(n_out) if number not in set(channels)]
        made = torch.tensor([*others, *channels])
        self.register_buffer("order", torch.argsort(made), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W), values ±1, to (N, n_out, H', W')."""
        y = torch.cat([self.binary(x), self.real(x)], dim=1)
        return y.index_select(1, self.order)


def partition(net: Network, layer: str, share: float) -> Network:
    r"""Copy a network so that a share of one layer's output channels has int8 weights.

    Those channels have the largest :func:`channel_errors`. The latent weights become the int8
    weights, at their own scale: batch normalisation has to follow, and its statistics have to be
    measured anew (:func:`~bnn.hybrid.recalibrate`) or trained.

    Parameters
    ----------
    net
        A binary network; it is not changed.
    layer
        Name of a binary convolution of images without groups.
    share
        rho in [0, 1): floor(rho * n_out) channels get int8 weights; 0 of them: nothing changes.

    Raises
    ------
    ValueError
        If the layer is another one or the share out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected 0 <= share < 1, got {share}; 1 is an int8 layer")
    choices = _partible(net)
    if layer not in choices:
        raise ValueError(
            f"layer: expected one of {choices} (binary convolutions without groups), got {layer!r}"
        )
    parted = copy.deepcopy(net)
    conv = convolution_of(parted.get_submodule(layer))
    assert isinstance(conv, BinaryConv2d)
    n_real = math.floor(share * conv.n_out)
    if n_real:
        errors = channel_errors(conv.latent_weight)
        ranked = torch.argsort(errors, descending=True, stable=True)[:n_real]
        channels = sorted(int(channel) for channel in ranked)
        made = _part(conv, channels).train(conv.training)
        replace_convolution(parted, layer, made)
    return parted


def _partible(net: nn.Module) -> list[str]:
    """Names of what can be parted: a fused stage as a whole, not the convolution inside of it."""
    found = []
    inside: set[nn.Module] = set()
    for name, module in net.named_modules():
        conv = convolution_of(module)
        if conv is not module:
            inside.add(conv)
        if type(conv) is BinaryConv2d and conv.groups == 1 and module not in inside:
            found.append(name)
    return found


@torch.no_grad()
def _part(conv: BinaryConv2d, channels: list[int]) -> PartitionedConv2d:
    window = conv.window
    others = [number for number in range(conv.n_out) if number not in set(channels)]
    binary = BinaryConv2d(
        conv.n_in,
        len(others),
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        border=conv.border,
        weight_quantizer=conv.weight_quantizer,
        simulate=conv.simulate,
    )
    real = Int8Conv2d(
        conv.n_in,
        len(channels),
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
    )
    made = PartitionedConv2d(binary, real, channels).to(conv.latent_weight.device)
    made.binary.latent_weight.copy_(conv.latent_weight[others])
    made.real.weight.copy_(conv.latent_weight[channels])
    return made
