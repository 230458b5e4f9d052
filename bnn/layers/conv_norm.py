"""Convolution, max-pool, batch normalisation and sign as one node that saves bits.

Training a binary network is bound by memory: between two convolutions stand four tensors of
floats, all of them saved. Here the sums are made once, statistics on the way, and again in backward
(a product of bits costs less than reading what was saved); what is saved are the bits of the input
and, with the sign, one more bit per output: whether the gradient passes its clip.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bnn.layers.batch_norm import BatchNorm
from bnn.layers.binary_conv2d import BinaryConv2d, check_input
from bnn.layers.int8 import INT8_UNIT, Int8Conv2d
from bnn.quantizers import ste_sign
from kernels import torch_ops
from kernels.stage import LARGEST_POOL, Stage, is_compiled

_MOST_REAL_CHANNELS = 4
"""Real inputs of more channels are convolved by torch, whose blocking then pays."""
_LEAST_POSITIONS = 4
"""With fewer outputs per image a convolution is a product of matrices, better done as one."""


class ConvNorm(nn.Module):
    r"""Convolution, max-pool and batch normalisation, as one node of the graph.

    .. math:: y = \gamma \, (\operatorname{pool}(q(w) \star x) - \mu) / \sqrt{\sigma^2 + \epsilon}
              + \beta

    Values and gradients are those of the three modules in a row. Where a convolution of bits
    (one group, ±1 weights) or an int8 convolution of few channels is trained in float32 on the
    CPU, nothing but the bits of ``x`` is saved (of int8, ``x`` itself): sums and choices of the
    pool are computed again in backward. The statistics are summed in float64, so they differ from
    torch's in the last bits. Elsewhere the modules run one after the other.

    Parameters
    ----------
    conv
        Any convolution of :mod:`bnn.layers`.
    n_channels
        Output channels of ``conv``.
    pool
        Window and stride of the max-pool, incomplete windows dropped; 1 is none.

    Raises
    ------
    ValueError
        If ``pool`` or ``n_channels`` is not positive.
    """

    _clip: float | None = None

    def __init__(self, conv: nn.Module, n_channels: int, *, pool: int = 1) -> None:
        super().__init__()
        if pool < 1:
            raise ValueError(f"pool: expected 1 or more, got {pool}")
        self.conv = conv
        self.pool = pool
        self.norm = BatchNorm(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H' // pool, W' // pool).

        Raises
        ------
        TypeError, ValueError
            As the convolution and the normalisation.
        """
        operands = self._operands(x)
        if operands is None:
            return self._composed(x)
        stage, weight, is_binary = operands
        node = _Node(stage, self.norm.eps, self._clip, is_binary)
        y, mean, var = _Fused.apply(x, weight, self.norm.weight, self.norm.bias, node)  # type: ignore[no-untyped-call]
        self.norm.batch_mean, self.norm.batch_var = mean, var
        result: Tensor = y
        return result

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"pool={self.pool}"

    def _composed(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        y = F.max_pool2d(y, self.pool) if self.pool > 1 else y
        result: Tensor = self.norm(y)
        return result

    def _operands(self, x: Tensor) -> tuple[Stage, Tensor, bool] | None:
        """Geometry and weights of the fused node, None where it does not serve."""
        conv, parameter = self.conv, self.norm.weight
        if not (
            self.norm.training
            and x.device.type == "cpu"
            and x.dim() == 4
            and len(x) > 0
            and x.dtype == parameter.dtype == torch.float32
            and isinstance(conv, BinaryConv2d | Int8Conv2d)
            and conv.groups == 1
            and conv.n_out == self.norm.n_channels
            and self.pool <= LARGEST_POOL
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and is_compiled()
        ):
            return None
        is_binary = isinstance(conv, BinaryConv2d)
        if x.shape[1] != conv.n_in or not self._serves(conv, x):
            return None
        height, width = (int(n) for n in x.shape[2:])
        window, border = conv.window, getattr(conv, "border", "zero")
        if any(p >= k for p, k in zip(window.padding, window.kernel, strict=True)):
            return None
        rows, columns = (n // self.pool for n in window.out_size(height, width))
        n_values = len(x) * rows * columns
        if min(rows, columns) < 1 or rows * columns < _LEAST_POSITIONS or n_values < 2:
            return None
        stage = Stage(
            channels=conv.n_in,
            n_out=conv.n_out,
            size=(height, width),
            kernel=window.kernel,
            stride=window.stride,
            padding=window.padding,
            pool=self.pool,
            border=-1 if border == "minus_one" else 0,
        )
        return stage, self._weight(conv, x), is_binary

    def _serves(self, conv: BinaryConv2d | Int8Conv2d, x: Tensor) -> bool:
        if isinstance(conv, Int8Conv2d):
            is_float32 = conv.weight.dtype == torch.float32
            return is_float32 and conv.n_in <= _MOST_REAL_CHANNELS and not x.requires_grad
        # The gradient of a scaled weight needs the factor, which the plain modules know.
        quantizer = conv.weight_quantizer
        is_float32 = conv.latent_weight.dtype == torch.float32
        return is_float32 and conv.is_packed(x) and not quantizer.is_scaled

    def _weight(self, conv: BinaryConv2d | Int8Conv2d, x: Tensor) -> Tensor:
        if isinstance(conv, Int8Conv2d):
            return conv.integer_weight() * INT8_UNIT
        check_input(x, conv.n_in, n_axes=4)
        conv.inspect(x)
        return conv.factors()[0]


class ConvNormSign(ConvNorm):
    r"""Convolution, max-pool, batch normalisation and sign, as one node of the graph.

    .. math:: z = \operatorname{sign}(y), \qquad \partial y = \partial z \, [|y| \le c]

    with y of :class:`ConvNorm` and the clipped straight-through estimator of
    :func:`~bnn.quantizers.ste_sign`. One bit per output is saved beside the input's.

    Parameters
    ----------
    conv, n_channels, pool
        As for :class:`ConvNorm`.
    clip
        The bound c of the estimator.

    Raises
    ------
    ValueError
        If an argument is not positive.
    """

    def __init__(
        self, conv: nn.Module, n_channels: int, *, pool: int = 1, clip: float = 1.0
    ) -> None:
        super().__init__(conv, n_channels, pool=pool)
        if not clip > 0:
            raise ValueError(f"clip: expected clip > 0, got {clip}")
        self._clip = clip

    @property
    def clip(self) -> float:
        """The bound of the estimator."""
        assert self._clip is not None
        return self._clip

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{super().extra_repr()}, clip={self.clip}"

    def _composed(self, x: Tensor) -> Tensor:
        return ste_sign(super()._composed(x), self.clip)


@dataclass(frozen=True)
class _Node:
    """What the fused node is told beside tensors."""

    stage: Stage
    eps: float
    clip: float | None
    is_binary: bool

    def sums(self, images: Tensor, weight: Tensor) -> tuple[NDArray[Any], Any, NDArray[Any]]:
        """Convolve and pool what was saved of the input."""
        kernels = weight.permute(0, 2, 3, 1).numpy()
        if self.is_binary:
            return self.stage.sums_of_signs(_words(images), kernels >= 0)
        return self.stage.sums_of_reals(images.numpy(), kernels)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, node: _Node
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels = x.permute(0, 2, 3, 1).contiguous()
        images = torch_ops.pack(pixels) if node.is_binary else pixels
        sums, _, totals = node.sums(images, weight.detach())
        n = sums.size // node.stage.n_out
        mean = totals[0] / n
        var = np.maximum(totals[1] / n - mean * mean, 0.0)
        inverse = 1.0 / np.sqrt(var + node.eps)
        scale = (gamma.detach().double().numpy() * inverse).astype(np.float32)
        shift = (beta.detach().double().numpy() - mean * scale).astype(np.float32)
        out, within = node.stage.normalise(sums, scale, shift, node.clip)
        mask = None if within is None else torch.from_numpy(within.view(np.int32))
        ctx.save_for_backward(images, mask, weight, gamma)
        # Two numbers per channel; not tensors, because nothing but this node reads them.
        ctx.node, ctx.mean, ctx.inverse = node, mean, inverse
        batch_mean = torch.from_numpy(mean.astype(np.float32))
        batch_var = torch.from_numpy((var * (n / (n - 1))).astype(np.float32))
        ctx.mark_non_differentiable(batch_mean, batch_var)
        return torch.from_numpy(out).permute(0, 3, 1, 2), batch_mean, batch_var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, mask, weight, gamma = ctx.saved_tensors
        node, stage, weight = ctx.node, ctx.node.stage, weight.detach()
        gradient = gradients[0].permute(0, 2, 3, 1).contiguous().numpy()
        within = None if mask is None else _words(mask)
        sums, choices, _ = node.sums(images, weight)
        mean = ctx.mean.astype(np.float32)
        total, product = stage.gradient_totals(sums, gradient, within, mean)
        product = (product - total * (ctx.mean - mean)) * ctx.inverse
        n = sums.size // stage.n_out
        a = gamma.detach().double().numpy() * ctx.inverse
        b = -ctx.inverse * product / n
        # The mean has its own place: rounded inside c it would be the same mistake n times.
        c = -total / n - b * (ctx.mean - mean)
        coefficients = np.stack([a, b, c, mean]).astype(np.float32)
        operands = (sums, choices, gradient, within, coefficients)
        grad_x = None
        if node.is_binary:
            kernels = weight.permute(0, 2, 3, 1).numpy() >= 0 if ctx.needs_input_grad[0] else None
            grad_kernels, grad_images = stage.gradients_of_signs(_words(images), *operands, kernels)
            if grad_images is not None:
                grad_x = torch.from_numpy(grad_images).permute(0, 3, 1, 2)
        else:
            grad_kernels = stage.gradients_of_reals(images.numpy(), *operands)
        grad_weight = torch.from_numpy(np.ascontiguousarray(grad_kernels)).permute(0, 3, 1, 2)
        if node.is_binary:  # a quantised weight is ±1, a latent one has the clip of its sign here
            grad_weight = grad_weight * (weight.abs() <= 1)
        grad_gamma, grad_beta = (torch.from_numpy(t.astype(np.float32)) for t in (product, total))
        return grad_x, grad_weight, grad_gamma, grad_beta, None


def _words(tensor: Tensor) -> NDArray[np.uint32]:
    return tensor.numpy().view(np.uint32)
