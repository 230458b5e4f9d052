"""Slow, exact numpy twins of every operation: the oracle of all back ends.

Written for reading: signs are integers +-1 or 0/1 products, nothing is fused, everything is int64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layout import CHANNEL_WORD
from kernels.model import GROUPED, DType, Model, Op, OpCode, Tensor
from kernels.model_bounds import values
from kernels.packing import unpack_bits

_SIGMOID_HALF = 1 << 15


def pack_reference(bits: NDArray[np.bool_], word_bits: int) -> list[int]:
    """Words of one row of bits, by the definition: bit i of the row is bit i % word_bits."""
    words = [0] * -(-len(bits) // word_bits)
    for i, bit in enumerate(bits):
        words[i // word_bits] |= int(bit) << (i % word_bits)
    return words


def xor_dot(a: NDArray[Any], b: NDArray[Any], n_bits: int) -> NDArray[np.int64]:
    r"""Dot products of packed +-1 rows from the XOR.

    .. math:: \sum_i a_i b_i = K - 2 \operatorname{popc}(a \oplus b)

    Parameters
    ----------
    a, b
        Shapes (..., M, W) and (..., N, W), the same unsigned dtype, padding bits zero.
    n_bits
        True length K of a row.

    Returns
    -------
    NDArray
        Shape (..., M, N), int64.
    """
    return n_bits - 2 * _popcount(a[..., :, None, :] ^ b[..., None, :, :])


def and_dot(a: NDArray[Any], b: NDArray[Any], n_bits: int) -> NDArray[np.int64]:
    r"""Dot products of packed +-1 rows from the AND, for hardware that has no XOR product.

    .. math:: \sum_i a_i b_i = K - 2 \operatorname{popc}(a) - 2 \operatorname{popc}(b)
              + 4 \operatorname{popc}(a \wedge b)

    Arguments and result as :func:`xor_dot`.
    """
    ones_a = _popcount(a)[..., :, None]
    ones_b = _popcount(b)[..., None, :]
    both = _popcount(a[..., :, None, :] & b[..., None, :, :])
    return n_bits - 2 * ones_a - 2 * ones_b + 4 * both


def _popcount(words: NDArray[Any]) -> NDArray[np.int64]:
    """Ones along the last axis."""
    ones: NDArray[np.int64] = np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
    return ones


def convolve(
    data: NDArray[np.int64],
    weights: NDArray[np.int64],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    border: int = 0,
    groups: int = 1,
) -> NDArray[np.int64]:
    """Integer cross-correlation.

    Parameters
    ----------
    data
        Shape (N, H, W, C_in).
    weights
        Shape (C_out, KH, KW, C_in / groups).
    stride, padding
        Vertical and horizontal.
    border
        Value outside the image.
    groups
        Slices of the channels, in and out, that do not see each other.

    Returns
    -------
    NDArray
        Accumulators, shape (N, H', W', C_out), H' = floor((H + 2 padding - KH) / stride) + 1.
    """
    (pad_h, pad_w), (stride_h, stride_w) = padding, stride
    padded = np.pad(data, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)), constant_values=border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[1:3], axis=(1, 2))
    windows = windows[:, ::stride_h, ::stride_w]
    # (N, H', W', C_in / groups, KH, KW) against (C_out / groups, KH, KW, C_in / groups)
    parts = [
        np.einsum("nyxcij,oijc->nyxo", *pair)
        for pair in zip(np.split(windows, groups, 3), np.split(weights, groups), strict=True)
    ]
    return np.concatenate(parts, axis=-1)


def max_pool(acc: NDArray[np.int64], pool: tuple[int, int]) -> NDArray[np.int64]:
    """Largest value of every complete window of ``pool``; shape (N, H, W, C)."""
    n, height, width, channels = acc.shape
    rows, columns = height // pool[0], width // pool[1]
    whole = acc[:, : rows * pool[0], : columns * pool[1]]
    windows = whole.reshape(n, rows, pool[0], columns, pool[1], channels)
    largest: NDArray[np.int64] = windows.max(axis=(2, 4))
    return largest


def pool_windows(data: NDArray[np.int64], op: Op, outside: int) -> NDArray[np.int64]:
    """Windows ``op.pool`` that move by ``op.stride``; shape (N, H', W', C, window)."""
    (pad_h, pad_w), (stride_h, stride_w) = op.padding, op.stride
    padded = np.pad(data, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)), constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(padded, op.pool, axis=(1, 2))
    windows = windows[:, ::stride_h, ::stride_w]
    return windows.reshape(*windows.shape[:-2], -1)


def scale(
    x: NDArray[np.int64], multiplier: NDArray[np.int64], bias: NDArray[np.int64], shift: int
) -> NDArray[np.int64]:
    r"""Multiply by a rational number per channel and round half up, in integers.

    .. math:: y = \lfloor (x m_c + b_c + 2^{s-1}) / 2^s \rfloor

    Parameters
    ----------
    x
        Shape (..., C).
    multiplier
        Shape (1, C): m; or (3, C): m where x >= knee, m where x < knee, knee.
    bias
        Shape (1, C); or (2, C): b of the two sides.
    shift
        s, 1 to 31.
    """
    m, b = multiplier[0], bias[0]
    if len(multiplier) == 3:
        above = x >= multiplier[2]
        m, b = np.where(above, m, multiplier[1]), np.where(above, b, bias[1])
    y: NDArray[np.int64] = (x * m + b + (1 << shift - 1)) >> shift
    return y


def sigmoid_table(n_fraction_bits: int = 11) -> NDArray[np.uint16]:
    r"""Table of a LOOKUP that computes the sigmoid of a fixed-point number.

    .. math:: T_{i + 2^{15}} = \lfloor 65535\, \sigma(i / 2^f) + 1/2 \rfloor

    Parameters
    ----------
    n_fraction_bits
        f, binary digits after the point of the operation's input; 11 reaches from -16 to 16.
    """
    x = np.arange(-_SIGMOID_HALF, _SIGMOID_HALF) / 2.0**n_fraction_bits
    return np.floor(65535.0 / (1.0 + np.exp(-x)) + 0.5).astype(np.uint16)


def decode(tensor: Tensor) -> NDArray[np.int64]:
    """Values of a constant; bits become +-1.

    Raises
    ------
    ValueError
        If the tensor is an activation, which has no values.
    """
    if tensor.data is None:
        raise ValueError("tensor: expected a constant, got an activation")
    if tensor.dtype is DType.BITS:
        words = np.frombuffer(tensor.data, CHANNEL_WORD).reshape(*tensor.dims[:-1], -1)
        return 2 * unpack_bits(words, tensor.dims[-1]).astype(np.int64) - 1
    return values(tensor)


def run_op(
    op: Op,
    tensors: tuple[Tensor, ...],
    data: NDArray[np.int64],
    residual: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Run one operation on ``data`` (N, H, W, C); bits are +-1 in ``data`` and in the result."""
    constants = {
        name: decode(tensors[number])
        for name in ("weights", "threshold", "multiplier", "bias")
        if (number := getattr(op, name)) is not None
    }
    result = _run(op, constants, data, residual)
    if "threshold" not in constants:
        return result
    level, flip = constants["threshold"]
    return np.where((result >= level) ^ (flip == 1), np.int64(1), np.int64(-1))


def _run(
    op: Op,
    constants: dict[str, NDArray[np.int64]],
    data: NDArray[np.int64],
    residual: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """Everything before the threshold."""
    weights, bias = constants.get("weights"), constants.get("bias", np.int64(0))
    if op.code in GROUPED and weights is not None:
        of_bits = op.code in (OpCode.CONV_B1, OpCode.CONV_B1_I8)
        border = -1 if of_bits and not op.zero_border else 0
        geometry: dict[str, Any] = {"stride": op.stride, "padding": op.padding}
        acc = convolve(data, weights, **geometry, border=border, groups=op.groups)
        return max_pool(acc + bias, op.pool)
    if op.code is OpCode.SCALE:
        return scale(data, constants["multiplier"], constants["bias"], op.shift)
    if op.code is OpCode.AVERAGE_POOL:
        sums = pool_windows(data, op, 0).sum(axis=-1)
        return scale(sums, constants["multiplier"], constants["bias"], op.shift)
    if op.code is OpCode.ADD and residual is not None:
        return data + residual
    if op.code is OpCode.MULTIPLY and residual is not None:
        product: NDArray[np.int64] = (data * residual + (1 << op.shift - 1)) >> op.shift
        return product
    if op.code is OpCode.CONCAT and residual is not None:
        return np.concatenate([data, residual], axis=-1)
    if op.code is OpCode.SLICE:
        box = [slice(at, at + n) for at, n in zip(op.start, op.size, strict=True)]
        return data[:, *box]
    if op.code is OpCode.MAX_POOL:
        largest: NDArray[np.int64] = pool_windows(data, op, np.iinfo(np.int64).min).max(axis=-1)
        return largest
    if op.code is OpCode.LOOKUP and weights is not None:
        half = len(weights) // 2
        return weights[np.clip(data, -half, half - 1) + half]
    return data  # THRESHOLD


def run_model(model: Model, images: NDArray[Any]) -> NDArray[np.int32]:
    """Run a whole model.

    Parameters
    ----------
    model
        A model that keeps the rules of the format.
    images
        Shape (N, H, W, C), of the dtype of the model's input; 0 and 1 (uint8) if that is bits.

    Returns
    -------
    NDArray
        Shape (N, n_out), int32.
    """
    values = images.astype(np.int64)
    if model.tensors[0].dtype is DType.BITS:
        values = 2 * values - 1
    activations = {0: values}
    for op in model.ops:
        residual = None if op.residual is None else activations[op.residual]
        activations[op.out] = run_op(op, model.tensors, activations[op.data], residual)
    return activations[model.ops[-1].out].reshape(len(images), -1).astype(np.int32)
