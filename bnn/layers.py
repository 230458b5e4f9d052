"""Layers of a binary convolutional network, NCHW tensors in channels-last memory.

Every convolution that will ship as integers is evaluated on integers held in floats (times one
power of two), so its float result is the integer accumulator exactly, as long as that fits in
24 bits. Spatial padding of binary activations is -1, a zero bit, because 0 is no spin.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.quantizers import int8_scale, int8_weights, int32_bias, ste_sign
from kernels import torch_ops

PIXEL_UNIT = 2.0**-8
"""A uint8 pixel p enters the network as p * PIXEL_UNIT, in [0, 1); exact in any float."""
INT8_UNIT = 2.0**-7
"""An int8 weight q counts as q * INT8_UNIT, in (-1, 1); exact in any float."""


class BatchNorm(nn.Module):
    r"""Batch normalisation whose running statistics move only when they are told to.

    .. math:: y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

    In training mode the statistics are those of the batch it is given (one logical shard) and are
    left in :attr:`batch_mean` and :attr:`batch_var`; nothing else changes, so that a forward pass
    on one worker and on another is the same function. In evaluation mode they are the running ones.

    Parameters
    ----------
    n_channels
        C, the second axis of the input.
    eps
        Added to the variance.
    momentum
        Weight of the newest batch in :meth:`update_running`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("running_mean", torch.zeros(n_channels))
        self.register_buffer("running_var", torch.ones(n_channels))
        self.batch_mean = torch.zeros(n_channels)
        """Mean over the last batch seen in training mode, shape (C,)."""
        self.batch_var = torch.ones(n_channels)
        """Unbiased variance over the last batch seen in training mode, shape (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, H, W)."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        # With momentum 1 the "running" buffers become the statistics of this very batch.
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        self.batch_mean, self.batch_var = mean, var
        return y

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards ``mean`` and ``var`` (shape (C,)) by ``momentum``."""
        self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
        self.running_var.mul_(1 - self.momentum).add_(var, alpha=self.momentum)


class BinaryConv2d(nn.Module):
    r"""Convolution of ±1 activations with the signs of its latent weights.

    .. math:: y = \operatorname{sign}(w) \star x, \qquad x \text{ padded with } -1

    The result is an integer with the parity of K = C_in * kernel². Weights are binarised with the
    clipped straight-through estimator; the trainer clips the latent weights to [-1, 1] after each
    step, since a latent weight beyond that would never receive a gradient again.

    The product is one of bits, on the CPU and on CUDA the same integers, and for backward one bit
    per activation is saved; float64 is computed by torch's own convolution.

    Parameters
    ----------
    n_in, n_out
        Channels.
    kernel
        Height and width of the window.
    padding
        Rows and columns of -1 on every side.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.latent_weight = nn.Parameter(torch.zeros(n_out, n_in, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, C_in, H, W), values ±1."""
        if torch.float64 not in (x.dtype, self.latent_weight.dtype):
            padding = (self.padding, self.padding)
            return torch_ops.binary_conv2d(x, self.latent_weight, padding=padding, clip_input=False)
        if self.padding:
            x = F.pad(x, (self.padding,) * 4, value=-1.0)
        return F.conv2d(x, channels_last(ste_sign(self.latent_weight)))

    @torch.no_grad()
    def clip_latent(self) -> None:
        """Clip the latent weights to [-1, 1]."""
        self.latent_weight.clamp_(-1.0, 1.0)


class Int8Conv2d(nn.Module):
    r"""First layer: convolution of pixels with int8 weights, zero padding.

    .. math:: y = (q(w) \cdot 2^{-7}) \star (p \cdot 2^{-8})

    with the integers q of :func:`~bnn.quantizers.int8_weights`, one scale per output channel. The
    scale itself is left out: batch normalisation follows, and it undoes a positive factor per
    channel (up to its eps). So y * 2^15 is the int32 accumulator of the shipped network.

    Parameters
    ----------
    n_in, n_out
        Channels.
    kernel
        Height and width of the window.
    padding
        Rows and columns of zeros on every side.
    """

    UNIT = PIXEL_UNIT * INT8_UNIT
    """Value of one unit of the integer accumulator."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, kernel, kernel))

    def integer_weight(self) -> Tensor:
        """Int8 weights as floats, shape of ``weight``."""
        return int8_weights(self.weight, int8_scale(self.weight, per_channel=True))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, C_in, H, W): pixels times ``PIXEL_UNIT``."""
        weight = channels_last(self.integer_weight() * INT8_UNIT)
        return F.conv2d(x, weight, padding=self.padding)


class Int8Head(nn.Module):
    r"""Last layer: one int8 dense layer over all ±1 activations of an image.

    .. math:: \text{logits} = s \, (q(w) \star x + \operatorname{round}(b / s)),
              \qquad s = \max |w| / 127

    One scale for the whole tensor, so float logits are the integer logits times one positive
    number and the predicted class is the same.

    Parameters
    ----------
    n_in
        Channels of the activations.
    n_out
        Classes.
    kernel
        (height, width) of the activations.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, *kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def scale(self) -> Tensor:
        """Value of one unit of the integer logits; shape ()."""
        return int8_scale(self.weight, per_channel=False)

    def integer_weight(self) -> Tensor:
        """Int8 weights as floats, shape of ``weight``."""
        return int8_weights(self.weight, self.scale())

    def integer_bias(self) -> Tensor:
        """Bias in units of the scale, rounded straight-through; shape (n_out,)."""
        return int32_bias(self.bias, self.scale())

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_out), of ``x``, shape (N, n_in, *kernel), values ±1."""
        accumulators = F.conv2d(x, channels_last(self.integer_weight())).flatten(1)
        return (accumulators + self.integer_bias()) * self.scale()


class RealConv2d(nn.Module):
    """Ordinary convolution with zero padding: the full-precision twin of the layers above.

    Parameters
    ----------
    n_in, n_out
        Channels.
    kernel
        (height, width) of the window.
    padding
        Rows and columns of zeros on every side.
    bias
        Whether a bias is added.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: tuple[int, int],
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, *kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, n_in, H, W)."""
        return F.conv2d(x, channels_last(self.weight), self.bias, padding=self.padding)


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` (rank 4) in channels-last memory, which is 2-5 times faster on CPUs here."""
    return x.contiguous(memory_format=torch.channels_last)
