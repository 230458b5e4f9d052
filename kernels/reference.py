"""Slow, exact numpy twins of every operation: the oracle of all back ends.

Written for reading: signs are integers +-1 or 0/1 products, nothing is fused, everything is int64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.layout import CHANNEL_WORD
from kernels.model import DType, Model, Op, OpCode, Tensor
from kernels.packing import unpack_bits

_BORDER = {OpCode.CONV_U8: 0, OpCode.CONV_B1: -1, OpCode.CONV_B1_I8: -1}


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
) -> NDArray[np.int64]:
    """Integer cross-correlation.

    Parameters
    ----------
    data
        Shape (N, H, W, C_in).
    weights
        Shape (C_out, KH, KW, C_in).
    stride, padding
        Vertical and horizontal.
    border
        Value outside the image.

    Returns
    -------
    NDArray
        Accumulators, shape (N, H', W', C_out), H' = floor((H + 2 padding - KH) / stride) + 1.
    """
    (pad_h, pad_w), (stride_h, stride_w) = padding, stride
    padded = np.pad(data, ((0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)), constant_values=border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[1:3], axis=(1, 2))
    # (N, H', W', C_in, KH, KW) against (C_out, KH, KW, C_in)
    acc: NDArray[np.int64] = np.einsum(
        "nyxcij,oijc->nyxo", windows[:, ::stride_h, ::stride_w], weights
    )
    return acc


def max_pool(acc: NDArray[np.int64], pool: tuple[int, int]) -> NDArray[np.int64]:
    """Largest value of every complete window of ``pool``; shape (N, H, W, C)."""
    n, height, width, channels = acc.shape
    rows, columns = height // pool[0], width // pool[1]
    whole = acc[:, : rows * pool[0], : columns * pool[1]]
    windows = whole.reshape(n, rows, pool[0], columns, pool[1], channels)
    largest: NDArray[np.int64] = windows.max(axis=(2, 4))
    return largest


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
    kind = {DType.U8: "u1", DType.I8: "i1", DType.I32: "<i4", DType.I64: "<i8"}[tensor.dtype]
    return np.frombuffer(tensor.data, kind).astype(np.int64).reshape(tensor.dims)


def run_op(op: Op, tensors: tuple[Tensor, ...], data: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run one operation on ``data`` (N, H, W, C); bits are +-1 in ``data`` and in the result."""
    acc = convolve(
        data,
        decode(tensors[op.weights]),
        stride=op.stride,
        padding=op.padding,
        border=_BORDER[op.code],
    )
    if op.bias is not None:
        acc = acc + decode(tensors[op.bias])
    acc = max_pool(acc, op.pool)
    if op.threshold is None:
        return acc
    level, flip = decode(tensors[op.threshold])
    return np.where((acc >= level) ^ (flip == 1), np.int64(1), np.int64(-1))


def run_model(model: Model, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Run a whole model.

    Parameters
    ----------
    model
        A model that keeps the rules of the format.
    images
        Shape (N, H, W, C), uint8; 0 and 1 only if the model's input is bits.

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
        activations[op.out] = run_op(op, model.tensors, activations[op.data])
    return activations[model.ops[-1].out].reshape(len(images), -1).astype(np.int32)
