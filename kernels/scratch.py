"""Working memory of the convolutions: the formula of ``c/conv.h``, for which the arena has room."""

from collections.abc import Sequence
from math import prod

from kernels.layout import CHANNEL_WORD, n_words
from kernels.model import CONVOLUTIONS, Model, Op, OpCode, Tensor

_STRIP = 24
_BLOCK = 64
_MANY = 8
_PLANES = 36


def model_scratch(model: Model) -> int:
    """Bytes of working memory that the largest operation of ``model`` needs."""
    return max(scratch_bytes(op, model.tensors) for op in model.ops)


def scratch_bytes(op: Op, tensors: Sequence[Tensor]) -> int:
    """Bytes of working memory of one operation; 0 for all but convolutions.

    The same for every layout of the weights, since a file keeps depthwise weights as rows.
    """
    if op.code not in CONVOLUTIONS or op.weights is None:
        return 0
    n_out, kernel_h, kernel_w, c_group = tensors[op.weights].dims
    taps, is_b1 = kernel_h * kernel_w, op.code is OpCode.CONV_B1
    words = n_words(c_group, CHANNEL_WORD)
    if is_b1 and 1 < op.groups == n_out == op.groups * c_group:
        return 64 + 4 * _ceil(n_words(n_out, CHANNEL_WORD), 8) * (taps + _PLANES)
    window, pixels = prod(op.pool), prod(tensors[op.out].dims[:2])
    windows = _STRIP // window if window < _STRIP else 1
    rows, columns = window * min(windows, pixels), _ceil(n_out, _BLOCK) + _BLOCK
    n_bytes = 64 + 4 * rows * (_BLOCK if op.groups == 1 else columns)
    if is_b1:
        n_bytes += 8 * rows * taps + 4 * (rows + 1) * _ceil(taps * words, 4)
        if op.zero_border and any(op.padding):
            geometry = zip(tensors[op.out].dims[:2], op.pool, op.padding, strict=True)
            n_bytes += 4 * columns * prod(min(n * pool, 2 * pad) + 1 for n, pool, pad in geometry)
        return n_bytes
    patch = _ceil(taps * c_group, 32)
    n_bytes += 2 * rows * patch
    if op.code is not OpCode.CONV_B1_I8 and op.groups == 1 and window * pixels >= _MANY:
        n_bytes += 2 * patch * _ceil(n_out, 32)
    return n_bytes


def _ceil(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
