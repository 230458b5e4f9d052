"""The two nets that the training bench compares: one topology, plain torch and this library.

Convolutions 32, 32, pool, 64, 64, pool, dense 256 and 10, batch normalisation after each, the
first and the last layer int8 (plain torch: real), the rest binary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.layers import (
    PIXEL_UNIT,
    BatchNorm,
    BinaryConv2d,
    BinaryLinear,
    ConvNorm,
    Int8Conv2d,
    Int8Head,
    Sign,
    channels_last,
    run_stages,
)
from kernels import Purpose, uniform

SIZE, N_CLASSES = 28, 10
CONVOLUTIONS = ((1, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2))
"""Channels in and out, and the pool."""
N_DENSE = 256
N_FLAT = (SIZE // 4) ** 2 * 64


class PlainNet(nn.Module):
    """What one writes in plain torch: convolutions of floats, sign as an autograd function.

    Parameters
    ----------
    seed
        Of the initial weights; :class:`PackedNet` of the same seed has the same.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        kernels = [nn.Parameter(torch.zeros(o, i, 3, 3)) for i, o, _ in CONVOLUTIONS]
        self.kernels = nn.ParameterList(kernels)
        self.dense = nn.Parameter(torch.zeros(N_DENSE, N_FLAT))
        self.head = nn.Parameter(torch.zeros(N_CLASSES, N_DENSE))
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in CONVOLUTIONS)
        self.dense_norm, self.head_norm = nn.BatchNorm1d(N_DENSE), nn.BatchNorm1d(N_CLASSES)
        self.pool = nn.MaxPool2d(2)
        initialise([*self.kernels, self.dense, self.head], seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``, (N, 28, 28, 1), uint8."""
        x = pixels(images).to(self.head.dtype)
        for number, (kernel, norm) in enumerate(zip(self.kernels, self.norms, strict=True)):
            weight = kernel if number == 0 else plain_sign(kernel)
            x = F.conv2d(x, channels_last(weight), padding=1)
            if CONVOLUTIONS[number][2] > 1:
                x = self.pool(x)
            x = plain_sign(norm(x))
        x = plain_sign(self.dense_norm(F.linear(x.flatten(1), plain_sign(self.dense))))
        logits: Tensor = self.head_norm(F.linear(x, self.head))
        return logits


class PackedNet(nn.Module):
    """The same net of the layers of this library.

    Parameters
    ----------
    seed
        Of the initial weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.stages, self.signs = nn.ModuleList(), nn.ModuleList()
        for number, (n_in, n_out, pool) in enumerate(CONVOLUTIONS):
            layer = BinaryConv2d if number else Int8Conv2d
            conv = layer(n_in, n_out, kernel=3, padding=1)
            self.stages.append(ConvNorm(conv, n_out, pool=pool))
            self.signs.append(Sign())
        self.dense = BinaryLinear(N_FLAT, N_DENSE)
        self.dense_norm, self.head_norm = BatchNorm(N_DENSE), BatchNorm(N_CLASSES)
        self.sign = Sign()
        self.head = Int8Head(N_DENSE, N_CLASSES)
        initialise([p for p in self.parameters() if p.dim() > 1], seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``, (N, 28, 28, 1), uint8."""
        x = pixels(images).to(self.head.weight.dtype)
        x = run_stages(self.stages, self.signs, x).flatten(1)
        x = self.sign(self.dense_norm(self.dense(x)))
        logits: Tensor = self.head_norm(self.head(x))
        return logits


def pixels(images: Tensor) -> Tensor:
    """Images (N, H, W, C), uint8, as floats (N, C, H, W) in channels-last memory."""
    return channels_last(images.permute(0, 3, 1, 2).to(torch.float32) * PIXEL_UNIT)


@torch.no_grad()
def initialise(weights: list[nn.Parameter], seed: int) -> None:
    """Fill with uniform draws in ±0.5 / sqrt(fan in): streams in the order of the list."""
    for number, weight in enumerate(weights):
        draws = uniform(seed, Purpose.INITIAL_WEIGHTS, weight.numel(), index=number)[0]
        values = torch.from_numpy(draws).reshape(weight.shape)
        weight.copy_((values - 0.5) / weight[0].numel() ** 0.5)


class _PlainSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = gradients[0] * (x.abs() <= 1)
        return gradient


def plain_sign(x: Tensor) -> Tensor:
    """Sign with the clipped straight-through estimator, as plain torch has it."""
    result: Tensor = _PlainSign.apply(x)  # type: ignore[no-untyped-call]
    return result
