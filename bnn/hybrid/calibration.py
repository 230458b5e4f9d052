"""Batch-normalisation statistics measured anew, after something before them has changed."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnn.hybrid.graph import device_of, evaluation_mode
from bnn.layers import BatchNorm
from bnn.models import Classifier


@torch.no_grad()
def recalibrate(net: Classifier, images: NDArray[np.uint8], *, batch_size: int = 256) -> None:
    """Replace the running statistics of all batch normalisations by those of ``images``.

    Every normalisation sees inputs that were made with the statistics of the batch; its running
    ones become the means over all batches, weighted by their sizes. No parameter changes.

    Parameters
    ----------
    net
        Changed in place; its training mode is left as it was.
    images
        Shape (N, H, W, C), uint8, N of 2 or more; labels are not needed.
    batch_size
        Images at a time, 2 or more. Part of the result. A last batch of one image is left out: it
        has no variance.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two images, or they are not what the network was built for.
    """
    if len(images) < 2 or batch_size < 2:
        raise ValueError(
            f"images, batch_size: expected 2 or more, got {len(images)} and {batch_size}"
        )
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    sums: list[list[Tensor]] = [
        [torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)] for norm in norms
    ]
    n_seen = 0
    with evaluation_mode(net):
        for norm in norms:
            norm.train()
        for begin in range(0, len(images) - 1, batch_size):
            part = torch.from_numpy(images[begin : begin + batch_size].copy()).to(device_of(net))
            net(part)
            n_seen += len(part)
            for norm, (mean, var) in zip(norms, sums, strict=True):
                mean.add_(norm.batch_mean, alpha=len(part))
                var.add_(norm.batch_var, alpha=len(part))
    for norm, (mean, var) in zip(norms, sums, strict=True):
        norm.running_mean.copy_(mean / n_seen)
        norm.running_var.copy_(var / n_seen)
