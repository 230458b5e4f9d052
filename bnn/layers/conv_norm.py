"""Convolution, max-pool and batch normalisation as one node that saves bits.

Training a binary network is bound by memory: between two convolutions stand four tensors of
floats, all of them saved. Here the sums are made once, statistics on the way, and saved in 16 bits
with the bits of the input and, with the sign, one more bit per output: whether the gradient passes
its clip (:mod:`bnn.layers.stage_chain`).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers.batch_norm import BatchNorm
from bnn.layers.binary_conv2d import BinaryConv2d, check_input
from bnn.layers.fused_stages import FusedStages, Link
from bnn.layers.int8 import INT8_UNIT, Int8Conv2d
from kernels.stage import LARGEST_POOL, LARGEST_SUM, Stage, is_compiled

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
    CPU, the bits of ``x``, the sums in 16 bits and the choices of the pool are saved (of int8,
    ``x`` itself and nothing else). The statistics are summed in float64, so they differ from
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
        link = self.link(tuple(x.shape), x)
        return self._composed(x) if link is None else run_fused([self], [link], x)

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"pool={self.pool}"

    def _composed(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        y = F.max_pool2d(y, self.pool) if self.pool > 1 else y
        result: Tensor = self.norm(y)
        return result

    def link(
        self, shape: tuple[int, ...], x: Tensor | None, clip: float | None = None
    ) -> Link | None:
        """Geometry of the fused node, None where it does not serve.

        Parameters
        ----------
        shape
            Of the input.
        x
            The input; None is packed signs of the stage before.
        clip
            Bound of the clipped estimator of the sign that follows; None is no sign.
        """
        conv, norm = self.conv, self.norm
        if not (
            norm.training
            and (x is None or _is_plain(x))
            and len(shape) == 4
            and shape[0] > 0
            and norm.weight.dtype == torch.float32
            and isinstance(conv, BinaryConv2d | Int8Conv2d)
            and conv.groups == 1
            and conv.n_out == norm.n_channels
            and conv.n_in == shape[1]
            and self.pool <= LARGEST_POOL
            and math.prod(conv.window.kernel) * conv.n_in <= LARGEST_SUM
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and is_compiled()
            and _serves(conv, x)
        ):
            return None
        window = conv.window
        if any(p >= k for p, k in zip(window.padding, window.kernel, strict=True)):
            return None
        rows, columns = (n // self.pool for n in window.out_size(*shape[2:]))
        if min(rows, columns) < 1 or rows * columns < _LEAST_POSITIONS:
            return None
        if shape[0] * rows * columns < 2:
            return None
        stage = Stage(
            channels=conv.n_in,
            n_out=conv.n_out,
            size=(int(shape[2]), int(shape[3])),
            kernel=window.kernel,
            stride=window.stride,
            padding=window.padding,
            pool=self.pool,
            border=-1 if getattr(conv, "border", "zero") == "minus_one" else 0,
        )
        return Link(stage, norm.eps, clip, isinstance(conv, BinaryConv2d))

    def weights(self, x: Tensor | None) -> Tensor:
        """Weights as the fused node takes them; a look at ``x`` unless it is packed signs."""
        conv = self.conv
        if isinstance(conv, Int8Conv2d):
            return conv.integer_weight() * INT8_UNIT
        assert isinstance(conv, BinaryConv2d)
        if x is not None:
            check_input(x, conv.n_in, n_axes=4)
            conv.inspect(x)
        return conv.factors()[0]


def run_fused(stages: Sequence[ConvNorm], links: Sequence[Link], x: Tensor) -> Tensor:
    """Run stages as one node, and leave the statistics where the modules would."""
    parameters: list[Tensor] = []
    for number, stage in enumerate(stages):
        weight = stage.weights(None if number else x)
        parameters += [weight, stage.norm.weight, stage.norm.bias]
    y, *statistics = FusedStages.apply(links, x, *parameters)  # type: ignore[no-untyped-call]
    for number, stage in enumerate(stages):
        stage.norm.batch_mean, stage.norm.batch_var = statistics[2 * number : 2 * number + 2]
    result: Tensor = y
    return result


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _serves(conv: BinaryConv2d | Int8Conv2d, x: Tensor | None) -> bool:
    if isinstance(conv, Int8Conv2d):
        is_float32 = conv.weight.dtype == torch.float32
        has_few = conv.n_in <= _MOST_REAL_CHANNELS
        return is_float32 and has_few and x is not None and not x.requires_grad
    # The gradient of a scaled weight needs the factor, which the plain modules know.
    quantizer, weight = conv.weight_quantizer, conv.latent_weight
    is_packed = conv.is_packed(weight if x is None else x)
    return weight.dtype == torch.float32 and is_packed and not quantizer.is_scaled
