"""Forward and backward of a chain of stages as one autograd node that holds bits.

A stage is convolution, max-pool, batch normalisation and sign. Between two stages of a chain only
packed signs exist. For backward a stage of bits saves its input's bits, its sums in 16 bits, the
choices of the pool and a bit per output; a first stage of reals without a pool saves no sums,
since its gradient follows from moments of its input (:meth:`kernels.stage.Stage.moments_of_reals`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import torch_ops
from kernels.stage import Doubles, Floats, Stage, Words

_MOST_MOMENTS = 64
"""Terms of a window up to which its moments cost less than sums made twice."""
_SAVED = 6
"""Tensors per stage: images, sums, choices, mask, weight, gamma."""


@dataclass(frozen=True)
class Link:
    """One stage of the chain: what it is told beside tensors."""

    stage: Stage
    eps: float
    clip: float | None
    """Bound of the sign's estimator; None is no sign, possible in the last stage."""
    is_binary: bool


@dataclass(frozen=True)
class _Statistics:
    """A few numbers per channel, in float64; not tensors, because only the node reads them."""

    n: int
    mean: Doubles
    var: Doubles
    inverse: Doubles
    moments: Doubles | None


class FusedStages(torch.autograd.Function):
    """``apply(links, x, weight, gamma, beta, weight, ...)`` -> y, mean, var, mean, var, ...

    x is (N, C, H, W); weights (n_out, C, KH, KW), of bits any reals of which the signs count, with
    the clip 1 of their own straight-through estimator. The variances are unbiased.
    """

    @staticmethod
    def forward(
        ctx: Any, links: Sequence[Link], x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """Run all stages."""
        pixels = x.detach().permute(0, 2, 3, 1).contiguous()
        images: NDArray[Any] = _numbers(torch_ops.pack(pixels) if links[0].is_binary else pixels)
        saved: list[Tensor | None] = []
        ctx.links, ctx.statistics, results = links, [], []
        for k, link in enumerate(links):
            weight, gamma, beta = parameters[3 * k : 3 * k + 3]
            forward = _forward_signs if link.is_binary else _forward_reals
            packed = k + 1 < len(links)
            out, arrays, found = forward(link, images, weight.detach(), gamma, beta, packed)
            saved += [_tensor(images), *(_tensor(array) for array in arrays), weight, gamma]
            ctx.statistics.append(found)
            results += [found.mean, found.var * (found.n / (found.n - 1))]
            images = out
        ctx.save_for_backward(*saved)
        statistics = [torch.from_numpy(value.astype(np.float32)) for value in results]
        ctx.mark_non_differentiable(*statistics)
        return torch.from_numpy(images).permute(0, 3, 1, 2), *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``x``, if it wants one, and of all parameters."""
        gradient: Any = gradients[0].permute(0, 2, 3, 1).contiguous().numpy()
        saved, results = ctx.saved_tensors, []
        for k in reversed(range(len(ctx.links))):
            link, found = ctx.links[k], ctx.statistics[k]
            *arrays, weight, gamma = saved[_SAVED * k : _SAVED * k + _SAVED]
            images, sums, choices, within = (_numbers(array) for array in arrays)
            operands = (sums, choices, gradient, within)
            wants_x = k > 0 or ctx.needs_input_grad[1]
            backward = _backward_signs if link.is_binary else _backward_reals
            scale = gamma.detach().double().numpy()
            gradient, of_stage = backward(
                link, found, images, *operands, weight.detach(), scale, wants_x
            )
            results.append(of_stage)
        grad_x = None if gradient is None else torch.from_numpy(gradient).permute(0, 3, 1, 2)
        return None, grad_x, *(tensor for stage in reversed(results) for tensor in stage)


def _forward_signs(
    link: Link, images: Words, weight: Tensor, gamma: Tensor, beta: Tensor, packed: bool
) -> tuple[Any, tuple[Any, Any, Any], _Statistics]:
    sums, choices, totals = link.stage.sums_of_signs(images, _kernels(weight) >= 0)
    n = sums.size // link.stage.n_out
    found = _statistics(link, n, totals[0] / n, totals[1] / n, None)
    out, within = link.stage.normalise(sums, *_affine(found, gamma, beta), link.clip, packed=packed)
    return out, (sums, choices, within), found


def _forward_reals(
    link: Link, images: Floats, weight: Tensor, gamma: Tensor, beta: Tensor, packed: bool
) -> tuple[Any, tuple[Any, Any, Any], _Statistics]:
    stage, kernels = link.stage, _kernels(weight)
    if not _has_moments(stage):
        sums, _, totals = stage.sums_of_reals(images, kernels)
        n = sums.size // stage.n_out
        found = _statistics(link, n, totals[0] / n, totals[1] / n, None)
        affine = _affine(found, gamma, beta)
        out, within = stage.normalise(sums, *affine, link.clip, packed=packed)
        return out, (None, None, within), found
    moments, w = stage.moments_of_reals(images), _rows(kernels)
    n = len(images) * stage.full_size()[0] * stage.full_size()[1]
    mean, squares = w @ moments[-1] / n, ((w @ moments[:-1]) * w).sum(1) / n
    found = _statistics(link, n, mean, squares, moments)
    affine = _affine(found, gamma, beta)
    out, within = stage.normalise_reals(images, kernels, *affine, link.clip, packed=packed)
    return out, (None, None, within), found


def _backward_signs(
    link: Link,
    found: _Statistics,
    images: Words,
    sums: NDArray[np.int16],
    choices: NDArray[np.uint8] | None,
    gradient: Floats,
    within: Words | None,
    weight: Tensor,
    gamma: Doubles,
    wants_x: bool,
) -> tuple[Floats | None, tuple[Tensor, Tensor, Tensor]]:
    coefficients, total, product = _coefficients(link, found, sums, gradient, within, gamma)
    signs = _kernels(weight) >= 0 if wants_x else None
    operands = (sums, choices, gradient, within, coefficients)
    kernels, grad_images = link.stage.gradients_of_signs(images, *operands, signs)
    # A quantised weight is ±1, a latent one has the clip of its sign here.
    grad_weight = _grad_weight(kernels) * (weight.abs() <= 1)
    return grad_images, (grad_weight, _single(product), _single(total))


def _backward_reals(
    link: Link,
    found: _Statistics,
    images: Floats,
    sums: None,
    choices: None,
    gradient: Floats,
    within: Words | None,
    weight: Tensor,
    gamma: Doubles,
    wants_x: bool,
) -> tuple[None, tuple[Tensor, Tensor, Tensor]]:
    stage, kernels = link.stage, _kernels(weight)
    if found.moments is None:
        again, chosen, _ = stage.sums_of_reals(images, kernels)
        coefficients, total, product = _coefficients(link, found, again, gradient, within, gamma)
        operands = (again, chosen, gradient, within, coefficients)
        result = stage.gradients_of_reals(images, *operands)
    else:
        w, products = _rows(kernels), stage.products_of_reals(images, gradient, within).T
        total, sum_v, sum_vv = products[:, -1], found.moments[-1], found.moments[:-1]
        product = ((products[:, :-1] * w).sum(1) - found.mean * total) * found.inverse
        a, b, c = _factors(found, gamma, total, product)
        of_sums = w @ sum_vv - np.outer(found.mean, sum_v)
        rows = a[:, None] * (products[:, :-1] + b[:, None] * of_sums + np.outer(c, sum_v))
        result = rows.astype(np.float32).reshape(kernels.shape)
    return None, (_grad_weight(result), _single(product), _single(total))


def _coefficients(
    link: Link,
    found: _Statistics,
    sums: Any,
    gradient: Floats,
    within: Words | None,
    gamma: Doubles,
) -> tuple[Floats, Doubles, Doubles]:
    """a, b, c and the mean as the kernels take them; gradients of beta and gamma."""
    mean = found.mean.astype(np.float32)
    total, product = link.stage.gradient_totals(sums, gradient, within, mean)
    product = (product - total * (found.mean - mean)) * found.inverse
    a, b, c = _factors(found, gamma, total, product)
    # The mean has its own place: rounded inside c it would be the same mistake n times.
    c = c - b * (found.mean - mean)
    return np.stack([a, b, c, mean]).astype(np.float32), total, product


def _factors(
    found: _Statistics, gamma: Doubles, total: Doubles, product: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """The gradient of a sum is a (gradient + b (sum - mean) + c)."""
    return gamma * found.inverse, -found.inverse * product / found.n, -total / found.n


def _statistics(
    link: Link, n: int, mean: Doubles, squares: Doubles, moments: Doubles | None
) -> _Statistics:
    var = np.maximum(squares - mean * mean, 0.0)
    return _Statistics(n, mean, var, 1.0 / np.sqrt(var + link.eps), moments)


def _affine(found: _Statistics, gamma: Tensor, beta: Tensor) -> tuple[Floats, Floats]:
    scale = (gamma.detach().double().numpy() * found.inverse).astype(np.float32)
    shift = beta.detach().double().numpy() - found.mean * scale
    return scale, shift.astype(np.float32)


def _has_moments(stage: Stage) -> bool:
    return stage.pool == 1 and stage.n_terms <= _MOST_MOMENTS


def _kernels(weight: Tensor) -> NDArray[Any]:
    return weight.permute(0, 2, 3, 1).contiguous().numpy()


def _rows(kernels: NDArray[Any]) -> Doubles:
    return kernels.reshape(len(kernels), -1).astype(np.float64)


def _grad_weight(kernels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(kernels)).permute(0, 3, 1, 2)


def _single(values: Doubles) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    if array is None:
        return None
    return torch.from_numpy(array.view(np.int32) if array.dtype == np.uint32 else array)


def _numbers(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    array = tensor.numpy()
    return array.view(np.uint32) if array.dtype == np.int32 else array
