"""Which layer of the library stands for which of torch's, and how its weights are taken over."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from bnn.layers import (
    INT8_UNIT,
    BatchNorm,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryEmbedding,
    BinaryGRUCell,
    BinaryLayer,
    BinaryLinear,
    BinaryLSTMCell,
    Int8Conv2d,
    Int8Head,
)
from bnn.models.initial import LATENT_LIMIT
from bnn.quantizers import int8_scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """What a layer of torch can become."""

    binary: Callable[[Any, str], nn.Module]
    """(layer, weight quantizer) -> layer with its weights as latent ones. Raises ValueError."""
    int8: Callable[[Any], nn.Module] | None = None
    """layer -> layer of int8 weights; None where the library has none. Raises ValueError."""
    takes_signs: bool = True
    """Whether the binary layer reads ±1."""
    makes_sums: bool = True
    """Whether it gives sums of ±1, which have to be normalised."""


def binary_counterpart(layer: nn.Module, weight_quantizer: str) -> nn.Module:
    """Build the binary layer for ``layer``, a key of :data:`COUNTERPARTS`.

    Raises
    ------
    ValueError
        If an option of the layer has no binary form, or a weight is not finite.
    """
    _check_plain(layer)
    made = COUNTERPARTS[type(layer)].binary(layer, weight_quantizer)
    return _placed(made, layer)


def int8_counterpart(layer: nn.Module) -> nn.Module:
    """Build the int8 layer for ``layer``, a key of :data:`COUNTERPARTS`.

    Raises
    ------
    ValueError
        If there is none, an option of the layer has no int8 form, or a weight is not finite.
    """
    make = COUNTERPARTS[type(layer)].int8
    if make is None:
        raise ValueError("bnn.layers has no int8 layer of this kind")
    _check_plain(layer)
    return _placed(make(layer), layer)


def norm_counterpart(layer: nn.Module) -> BatchNorm:
    """Take over a normalisation of torch with its parameters and running statistics.

    Raises
    ------
    ValueError
        If it keeps no statistics.
    """
    norm: Any = layer
    if norm.running_mean is None:
        raise ValueError("keeps no running statistics")
    momentum = 0.1 if norm.momentum is None else norm.momentum
    made = BatchNorm(norm.num_features, eps=norm.eps, momentum=momentum)
    made.to(norm.running_mean)
    with torch.no_grad():
        made.running_mean.copy_(norm.running_mean)
        made.running_var.copy_(norm.running_var)
        if norm.affine:
            made.weight.copy_(norm.weight)
            made.bias.copy_(norm.bias)
    return made


def why_none(layer: nn.Module) -> str:
    """Why a layer with parameters stays as it is."""
    if isinstance(layer, nn.LSTM | nn.GRU):
        cell = type(layer).__name__ + "Cell"
        return f"bnn.layers has the cell only; write the loop with nn.{cell}"
    if isinstance(layer, tuple(COUNTERPARTS)):
        return "a subclass of torch's layer, whose forward may be another"
    return "bnn.layers has no counterpart"


@torch.no_grad()
def move_statistics(norm: BatchNorm, layer: nn.Conv2d) -> None:
    r"""Adapt the statistics behind ``layer`` to its int8 form, which has no scale and no bias.

    .. math:: y = k \, y_8 + b, \quad k_c = s_c / 2^{-7}
              \quad\Rightarrow\quad \mu_8 = (\mu - b) / k, \quad \sigma_8^2 = \sigma^2 / k^2

    so that the normalised values are the same up to rounding of the weights and eps.
    """
    scale = int8_scale(layer.weight, per_channel=True).flatten() / INT8_UNIT
    bias = 0.0 if layer.bias is None else layer.bias
    norm.running_mean.copy_((norm.running_mean - bias) / scale)
    norm.running_var.div_(scale**2)


def _linear(layer: nn.Linear, quantizer: str) -> nn.Module:
    made = BinaryLinear(layer.in_features, layer.out_features, weight_quantizer=quantizer)
    return _with_latent(made, layer.weight)


def _conv1d(layer: nn.Conv1d, quantizer: str) -> nn.Module:
    made = BinaryConv1d(
        layer.in_channels,
        layer.out_channels,
        kernel=layer.kernel_size[0],
        stride=layer.stride[0],
        padding=_padding(layer)[0],
        groups=layer.groups,
        weight_quantizer=quantizer,
    )
    return _with_latent(made, layer.weight.unsqueeze(2))


def _conv2d(layer: nn.Conv2d, quantizer: str) -> nn.Module:
    made = BinaryConv2d(
        layer.in_channels,
        layer.out_channels,
        kernel=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=_pair(_padding(layer)),
        groups=layer.groups,
        weight_quantizer=quantizer,
    )
    return _with_latent(made, layer.weight)


def _conv_transpose2d(layer: nn.ConvTranspose2d, quantizer: str) -> nn.Module:
    if any(layer.output_padding):
        raise ValueError(f"output_padding: expected 0, got {layer.output_padding}")
    made = BinaryConvTranspose2d(
        layer.in_channels,
        layer.out_channels,
        kernel=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=_pair(_padding(layer)),
        groups=layer.groups,
        weight_quantizer=quantizer,
    )
    # torch has (n_in, n_out / groups, KH, KW), a group after the other.
    n_out, n_in, *kernel = made.latent_weight.shape
    groups = layer.groups
    by_group = layer.weight.reshape(groups, n_in, n_out // groups, *kernel)
    return _with_latent(made, by_group.transpose(1, 2).reshape(n_out, n_in, *kernel))


def _embedding(layer: nn.Embedding, quantizer: str) -> nn.Module:
    if layer.padding_idx is not None or layer.max_norm is not None or layer.sparse:
        raise ValueError("expected no padding_idx, max_norm or sparse, which signs cannot have")
    made = BinaryEmbedding(layer.num_embeddings, layer.embedding_dim, weight_quantizer=quantizer)
    return _with_latent(made, layer.weight)


@torch.no_grad()
def _lstm_cell(layer: nn.LSTMCell, quantizer: str) -> nn.Module:
    made = BinaryLSTMCell(layer.input_size, layer.hidden_size, weight_quantizer=quantizer)
    _with_latent(made.input, layer.weight_ih)
    _with_latent(made.hidden, layer.weight_hh)
    if layer.bias:
        made.bias.copy_(layer.bias_ih + layer.bias_hh)
    return made


@torch.no_grad()
def _gru_cell(layer: nn.GRUCell, quantizer: str) -> nn.Module:
    made = BinaryGRUCell(layer.input_size, layer.hidden_size, weight_quantizer=quantizer)
    _with_latent(made.input, layer.weight_ih)
    _with_latent(made.hidden, layer.weight_hh)
    if layer.bias:
        n_gates = 2 * layer.hidden_size
        made.bias.copy_(layer.bias_ih)
        made.bias[:n_gates].add_(layer.bias_hh[:n_gates])
        made.hidden_bias.copy_(layer.bias_hh[n_gates:])
    return made


@torch.no_grad()
def _int8_conv2d(layer: nn.Conv2d) -> nn.Module:
    made = Int8Conv2d(
        layer.in_channels,
        layer.out_channels,
        kernel=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=_pair(_padding(layer)),
        groups=layer.groups,
    )
    made.weight.copy_(_finite(layer.weight))
    return made


@torch.no_grad()
def _int8_linear(layer: nn.Linear) -> nn.Module:
    made = Int8Head(layer.in_features, layer.out_features)
    made.weight.copy_(_finite(layer.weight)[:, :, None, None])
    if layer.bias is not None:
        made.bias.copy_(layer.bias)
    return made


@torch.no_grad()
def _with_latent(made: BinaryLayer, weight: Tensor) -> BinaryLayer:
    """Take over weights, scaled so that the largest of the layer is LATENT_LIMIT of the clip.

    Signs are what is taken over; nearer to the clip they would hardly change in training.
    """
    largest = float(_finite(weight).abs().max())
    is_scaled = largest > 0 and made.latent_limit < math.inf
    factor = LATENT_LIMIT * made.latent_limit / largest if is_scaled else 1.0
    made.latent_weight.copy_(weight * factor)
    return made


def _finite(weight: Tensor) -> Tensor:
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight: expected finite values, got nan or infinity")
    return weight


def _padding(layer: Any) -> tuple[int, ...]:
    """Numbers of a convolution's padding; refuses what no convolution here does."""
    if any(n != 1 for n in layer.dilation):
        raise ValueError(f"dilation: expected 1, got {layer.dilation}")
    if layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode: expected 'zeros', got {layer.padding_mode!r}")
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        if any(n % 2 == 0 for n in layer.kernel_size):
            raise ValueError(f"padding: expected odd kernels with 'same', got {layer.kernel_size}")
        return tuple(n // 2 for n in layer.kernel_size)
    return tuple(layer.padding)


def _pair(numbers: Any) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)


def _check_plain(layer: nn.Module) -> None:
    """Refuse hooks: they may compute the weights, and would be lost."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError("expected a layer without hooks; remove them first")


def _placed(made: nn.Module, layer: nn.Module) -> nn.Module:
    """On the device and of the dtype of ``layer``."""
    parameter = next(layer.parameters())
    return made.to(device=parameter.device, dtype=parameter.dtype)


COUNTERPARTS: Final[dict[type[nn.Module], Counterpart]] = {
    nn.Linear: Counterpart(binary=_linear, int8=_int8_linear),
    nn.Conv1d: Counterpart(binary=_conv1d),
    nn.Conv2d: Counterpart(binary=_conv2d, int8=_int8_conv2d),
    nn.ConvTranspose2d: Counterpart(binary=_conv_transpose2d),
    nn.Embedding: Counterpart(binary=_embedding, takes_signs=False, makes_sums=False),
    nn.LSTMCell: Counterpart(binary=_lstm_cell, makes_sums=False),
    nn.GRUCell: Counterpart(binary=_gru_cell, makes_sums=False),
}
"""Layer of torch -> what it can become. Subclasses are other layers: their forward may differ."""

NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d)
"""Become :class:`~bnn.layers.BatchNorm`, whose statistics belong to the logical shards."""
