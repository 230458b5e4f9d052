r"""From a trained network to the integer network: rounding, and batch normalisation as thresholds.

For integer accumulators and :math:`\sigma = \sqrt{\text{var} + \epsilon}`, the sign of
:math:`\gamma (\text{acc} \cdot u - \mu) / \sigma + \beta` is +1 exactly where

.. math:: \text{acc} \ge \lceil t \rceil \ (\gamma > 0), \qquad
          \text{acc} \le \lfloor t \rfloor \ (\gamma < 0), \qquad
          t = (\mu - \beta \sigma / \gamma) / u

with u the value of one unit of the accumulator; for :math:`\gamma = 0` it is the constant
:math:`\beta \ge 0`. The second form is the first one, inverted: ``not acc >= floor(t) + 1``.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bnn.integer import IntegerLayer, IntegerNet, Kind
from bnn.layers import BatchNorm, BinaryConv2d, Int8Conv2d, Int8Head
from bnn.models import BinaryConvNet, Stage
from bnn.quantizers import sign

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]


def integerize(net: BinaryConvNet) -> IntegerNet:
    """Fold a trained network into integers.

    Parameters
    ----------
    net
        Trained; its running statistics are what is folded.

    Returns
    -------
    IntegerNet
        Whose bits are those of ``net`` in evaluation mode, up to float ties at a threshold.

    Raises
    ------
    ValueError
        If ``net`` is a full-precision twin, a normalisation is not finite, or an accumulator could
        leave int32; the layer is named.
    """
    if net.full_precision:
        raise ValueError("net: expected a binary network, got a full-precision twin")
    height, width, n_in = net.input_shape
    layers: list[IntegerLayer] = []
    for number, stage in enumerate(net.stages):
        assert isinstance(stage, Stage)
        layer = _integer_stage(stage, f"stages.{number}", (height, width, n_in))
        height, width, n_in = layer.output_shape
        layers.append(layer)
    head = net.head
    assert isinstance(head, Int8Head)
    layers.append(
        IntegerLayer(
            name="head",
            kind="conv_b1_i8",
            weights=_to_int8(head.integer_weight()),
            input_shape=(height, width, n_in),
            bias=_integer_bias(head),
        )
    )
    return IntegerNet(layers=tuple(layers), output_scale=float(head.scale()))


def fold_norm(
    norm: BatchNorm, low: _Integers, high: _Integers, *, unit: float = 1.0, spacing: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Fold a normalisation followed by sign into one integer threshold per channel.

    Parameters
    ----------
    norm
        C channels; its running statistics are used.
    low, high
        Least and greatest reachable accumulator, each shape (C,).
    unit
        Value of one unit of the accumulator in the normalisation's input.
    spacing
        Distance of reachable accumulators: 2 for sums of ±1, all of one parity. Then every
        reachable one is checked; for 1 (int8 layers, millions of values) the ends and the two at
        the threshold, which is enough because each rounded step of the normalisation is monotone.

    Returns
    -------
    tuple
        Thresholds (C,) int32, in ``low ... high + 1``, and flips (C,) bool:
        ``bit = (acc >= threshold) ^ flip``.

    Raises
    ------
    ValueError
        If a parameter or a statistic is not finite.
    """
    mean, var, gamma, beta = (
        tensor.detach().cpu().double().numpy()
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    if not all(np.isfinite(values).all() for values in (mean, var, gamma, beta)):
        raise ValueError("norm: expected finite parameters and statistics, got nan or infinity")
    sigma = np.sqrt(var + norm.eps)

    def is_positive(acc: _Integers) -> NDArray[np.bool_]:
        return np.asarray(gamma * ((acc * unit - mean) / sigma) + beta >= 0)

    flip = gamma < 0
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        root = (mean - beta * sigma / gamma) / unit
    start = np.where(gamma == 0, np.where(beta >= 0, low, high + 1), np.floor(root) - 1)
    threshold = np.clip(start, low, high + 1).astype(np.int64)
    # The root and the normalisation round differently, and the latter is the definition: from one
    # below the floor, the first sum that it makes positive is at most three steps away.
    for _ in range(3):
        threshold += (threshold <= high) & ~(is_positive(threshold) ^ flip)
    if spacing == 1:
        checked = np.stack([low, np.maximum(threshold - 1, low), np.minimum(threshold, high), high])
    else:
        checked = low + spacing * np.arange((high - low).max() // spacing + 1)[:, None]
    if (((checked >= threshold) ^ flip) != is_positive(checked)).any():
        raise RuntimeError("fold_norm: a threshold differs from the normalisation it replaces")
    return threshold.astype(np.int32), flip


def _integer_stage(stage: Stage, name: str, input_shape: tuple[int, int, int]) -> IntegerLayer:
    conv = stage.conv
    assert isinstance(conv, Int8Conv2d | BinaryConv2d)
    kind: Kind
    if isinstance(conv, BinaryConv2d):
        kind, weights, unit, spacing = "conv_b1", sign(conv.latent_weight), 1.0, 2
    else:
        kind, weights, unit, spacing = "conv_u8", conv.integer_weight(), Int8Conv2d.UNIT, 1
    bare = IntegerLayer(
        name=name,
        kind=kind,
        weights=_to_int8(weights),
        input_shape=input_shape,
        padding=conv.padding,
        pool=stage.pool,
    )
    try:
        threshold, flip = fold_norm(stage.norm, *bare.bounds(), unit=unit, spacing=spacing)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return dataclasses.replace(bare, threshold=threshold, flip=flip)


def _integer_bias(head: Int8Head) -> NDArray[np.int32]:
    bias = head.integer_bias().detach().cpu().double().numpy()
    if not (np.abs(bias) < 1 << 31).all():  # also false for nan
        raise ValueError(f"head: expected a bias that fits int32, got up to {np.abs(bias).max()}")
    return bias.astype(np.int32)


def _to_int8(weights: Tensor) -> NDArray[np.int8]:
    """Reorder (C_out, C_in, KH, KW) to (C_out, KH, KW, C_in) and convert integral floats."""
    rows = weights.detach().permute(0, 2, 3, 1)
    return np.ascontiguousarray(rows.cpu().numpy().astype(np.int8))
