"""Who runs in each case: these kernels, and torch in float32, bfloat16 and int8 on the same values.

Weights are prepared beforehand for everybody, activations are not. torch takes its products from
several libraries; each path is a contender of its own, and the fastest counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.bench_cases import Case
from kernels.convolution import ConvWeights, FloatConvolution, convolve
from kernels.matmul import Panels, matmul, pack_rows
from kernels.philox import Purpose
from kernels.reference_sampling import bernoulli_reference
from kernels.sampling import bernoulli
from kernels.statistics import batch_products

OURS: Final = "bitspin"
Values: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case."""

    name: str
    run: Callable[[], Any]
    values: Callable[[Any], Values] | None = None
    """Makes of a result what all exact contenders have in common; None if it is only close."""


def make_contenders(case: Case) -> list[Contender]:
    """Everybody who takes part in a case, these kernels first."""
    return _MAKERS[case.op](case)


def check_results(case: Case, contenders: list[Contender]) -> None:
    """Run everybody once and compare: nothing is timed that computes something else.

    Raises
    ------
    RuntimeError
        If two exact contenders disagree.
    """
    first: Values | None = None
    for contender in contenders:
        result = contender.run()
        if contender.values is None:
            continue
        values = contender.values(result)
        if first is None:
            first = values
        elif not np.array_equal(first, values):
            raise RuntimeError(
                f"{case.name}: expected {contender.name} to compute what {contenders[0].name} does"
            )


def _signs(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).float().mul_(2).sub_(1)


def _array(result: Any) -> Values:
    return np.asarray(result)


def _products(case: Case) -> list[Contender]:
    """Matrix products; a vector is a product of one row."""
    m, n, k = case.shape if len(case.shape) == 3 else (1, *case.shape)
    a, b = _signs(m, k, seed=0), _signs(n, k, seed=1)
    rows, floats = pack_rows(a.numpy()), a.numpy()
    panels, out = Panels.of(pack_rows(b.numpy()), k), np.empty((m, n), np.int32)
    if case.op == "gemm_float":
        ours = Contender(OURS, lambda: matmul(pack_rows(floats), panels, out=out), _array)
    else:
        ours = Contender(OURS, lambda: matmul(rows, panels, out=out), _array)
    return [ours, *_torch_products(a, b)]


def _torch_products(a: Tensor, b: Tensor) -> list[Contender]:
    prepared = torch.ops.mkldnn._reorder_linear_weight(b, a.shape[0])
    a_bf16, b_bf16 = a.bfloat16(), b.bfloat16()
    contenders = [
        Contender("torch fp32", lambda: a @ b.T, _array),
        Contender(
            "torch fp32 oneDNN",
            lambda: torch.ops.mkldnn._linear_pointwise(a, prepared, None, "none", [], ""),
            _array,
        ),
        Contender("torch bf16", lambda: a_bf16 @ b_bf16.T),
        _int8_linear(a, b),
    ]
    if a.shape[0] > 16:  # what _int_mm asks for
        a_int8, b_int8 = a.to(torch.int8), b.to(torch.int8)
        contenders.append(
            Contender("torch int8 _int_mm", lambda: torch._int_mm(a_int8, b_int8.T), _array)
        )
    return contenders


def _int8_linear(a: Tensor, b: Tensor) -> Contender:
    """The quantised product of oneDNN; its rows are unsigned, so they are 0 and 1 for -1 and +1."""
    bits, weights = (a > 0).to(torch.uint8), b.to(torch.int8)
    prepared = torch.ops.onednn.qlinear_prepack(weights, None)
    scale, zero = torch.ones(len(b)), torch.zeros(len(b), dtype=torch.int64)
    settings: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")

    def run() -> Tensor:
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            bits, 1.0, 0, prepared, scale, zero, *settings
        )
        return result

    column_sums = b.sum(1)
    return Contender("torch int8 oneDNN", run, lambda result: _array(2 * result - column_sums))


def _convolutions(case: Case) -> list[Contender]:
    """3x3 convolutions, padding 1: -1 for these kernels, 0 for torch, so the inside is compared."""
    height, width, n_in, n_out = case.shape
    x = _signs(1, n_in, height, width, seed=0).contiguous(memory_format=torch.channels_last)
    weight = _signs(n_out, n_in, 3, 3, seed=1)
    pixels = x.permute(0, 2, 3, 1).numpy()
    packed = ConvWeights.of(weight.permute(0, 2, 3, 1).numpy() >= 0)
    if case.op == "conv_float":
        layer = FloatConvolution(packed, (height, width), padding=1)
        run, source = partial(layer, out=layer(pixels)), pixels
    else:
        source = pack_rows(pixels.reshape(-1, n_in)).reshape(1, height, width, -1)
        run = partial(convolve, weights=packed, padding=1)
    ours = Contender(OURS, lambda: run(source), lambda result: _array(result[:, 1:-1, 1:-1]))
    return [ours, *_torch_convolutions(x, weight)]


def _torch_convolutions(x: Tensor, weight: Tensor) -> list[Contender]:
    ones, shape = [1, 1], list(x.shape)
    channels_last = weight.contiguous(memory_format=torch.channels_last)
    prepared = torch.ops.mkldnn._reorder_convolution_weight(weight, ones, ones, ones, 1, shape)
    x_bf16, weight_bf16 = x.bfloat16(), channels_last.bfloat16()

    def onednn() -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, prepared, None, ones, ones, ones, 1, "none", [], ""
        )
        return result

    return [
        Contender("torch fp32", lambda: F.conv2d(x, channels_last, padding=1), _inside),
        Contender("torch fp32 oneDNN", onednn, _inside),
        Contender("torch bf16", lambda: F.conv2d(x_bf16, weight_bf16, padding=1)),
        *_int8_convolutions(x, weight),
    ]


def _int8_convolutions(x: Tensor, weight: Tensor) -> list[Contender]:
    """Quantised convolutions of 0 and 1, without a zero point, which is the faster way."""
    ones, n_out = [1, 1], len(weight)
    bits = (x > 0).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    scale, zero = torch.ones(n_out), torch.zeros(n_out, dtype=torch.int64)
    prepared = torch.ops.onednn.qconv_prepack(
        weight.to(torch.int8), scale, 1.0, 0, ones, ones, ones, 1, list(x.shape)
    )

    def run(dtype: torch.dtype) -> Tensor:
        settings: tuple[Any, ...] = (None, ones, ones, ones, 1, 1.0, 0, dtype, "none", [], "")
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            bits, 1.0, 0, prepared, scale, zero, *settings
        )
        return result

    sums = weight.sum((1, 2, 3)).numpy()
    return [
        Contender(
            "torch int8 oneDNN",
            lambda: run(torch.float32),
            lambda result: 2 * _inside(result) - sums,
        ),
        # Rounded to bytes as a next layer of int8 takes them.
        Contender("torch int8 oneDNN, int8 result", lambda: run(torch.int8)),
    ]


def _inside(result: Tensor) -> Values:
    return _array(result.permute(0, 2, 3, 1)[:, 1:-1, 1:-1])


def _samplers(case: Case) -> list[Contender]:
    """Draws of units; torch's do not start from fields, nor do they pack."""
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(case.shape, generator=generator)
    p, buffer, values = torch.sigmoid(field), torch.empty(case.shape), field.numpy()
    stream: Any = {"seed": 7, "purpose": Purpose.GIBBS_HIDDEN, "rows": np.arange(case.shape[0])}
    expected = bernoulli_reference(values[:8], **{**stream, "rows": np.arange(8)})
    if not np.array_equal(bernoulli(values, **stream)[:8], expected):
        raise RuntimeError(f"{case.name}: expected the draws of the reference")
    return [
        Contender(OURS, lambda: bernoulli(values, **stream)),
        Contender("torch.bernoulli(p)", lambda: torch.bernoulli(p, generator=generator)),
        Contender("torch uniform_() < p", lambda: buffer.uniform_(generator=generator) < p),
        Contender(
            "torch uniform_() < sigmoid",
            lambda: buffer.uniform_(generator=generator) < torch.sigmoid(field),
        ),
    ]


def _statistics(case: Case) -> list[Contender]:
    """The outer product of two states, summed over a batch."""
    batch, n_visible, n_hidden = case.shape
    visible, hidden = _signs(batch, n_visible, seed=0) > 0, _signs(batch, n_hidden, seed=1) > 0
    v, h = visible.float(), hidden.float()
    v_words, h_words = (pack_rows(t.to(torch.uint8).numpy(), 1) for t in (visible, hidden))
    v_bf16, h_bf16 = v.bfloat16(), h.bfloat16()

    def onednn() -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(v.T, h.T, None, "none", [], "")
        return result

    return [
        Contender(OURS, lambda: batch_products(v_words, n_visible, h_words, n_hidden), _array),
        Contender("torch fp32", lambda: v.T @ h, _array),
        Contender("torch fp32 oneDNN", onednn, _array),
        Contender("torch bf16", lambda: v_bf16.T @ h_bf16),
    ]


_MAKERS: Final[dict[str, Callable[[Case], list[Contender]]]] = {
    "gemm": _products,
    "gemm_float": _products,
    "gemv": _products,
    "conv": _convolutions,
    "conv_float": _convolutions,
    "sampler": _samplers,
    "statistics": _statistics,
}
"""A maker for every kind of work in :data:`kernels.bench_cases.OPERATIONS`."""
