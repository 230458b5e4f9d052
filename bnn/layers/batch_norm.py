"""Batch normalisation for training by logical shards."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    r"""Batch normalisation [1]_ whose running statistics move only when they are told to.

    .. math:: y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

    In training mode the statistics are those of the batch it is given (one logical shard), over
    every axis but the second, and are left in :attr:`batch_mean` and :attr:`batch_var`; nothing
    else changes, so that a forward pass on one worker and on another is the same function. In
    evaluation mode they are the running ones.

    Parameters
    ----------
    n_channels
        C, the second axis of the input.
    eps
        Added to the variance.
    momentum
        Weight of the newest batch in :meth:`update_running`.

    Raises
    ------
    ValueError
        If ``n_channels`` is not positive.

    References
    ----------
    .. [1] Ioffe, Szegedy (2015), Batch normalization, arXiv:1502.03167.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if n_channels < 1:
            raise ValueError(f"n_channels: expected 1 or more, got {n_channels}")
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
        """Normalise ``x``, shape (N, C, ...), two axes or more.

        Raises
        ------
        ValueError
            If the second axis is not C, or in training mode there is one value per channel.
        """
        if x.dim() < 2 or x.shape[1] != self.n_channels:
            raise ValueError(
                f"x: expected shape (N, {self.n_channels}, ...), got {tuple(x.shape)}; "
                "build BatchNorm with the channels of its input"
            )
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

    def extra_repr(self) -> str:
        """Options in the printed form of a network."""
        return f"{self.n_channels}, eps={self.eps}, momentum={self.momentum}"
