"""A moving average of a network's weights in the course of training."""

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""Exponential moving average of everything in a network's ``state_dict``.

    .. math:: \bar w \leftarrow d_t \bar w + (1 - d_t) w, \qquad
              d_t = \min\left(d, \frac{t}{t + 9}\right)

    so it starts as a copy (t = 0) and looks back over about a tenth of the way at first. Latent
    weights are averaged as they are and binarised when used; running statistics of batch
    normalisation are averaged with the same decay, instead of being measured anew for the averaged
    weights: once the learning rate is small, both are the same. Integer buffers are copied.

    Parameters
    ----------
    net
        Its present state is the first average.
    decay
        d, in [0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.clone() for name, value in net.state_dict().items()}
        """The average by name in ``net.state_dict()``; what a state is restored into."""

    @torch.no_grad()
    def update(self, net: nn.Module, n_before: int) -> None:
        """Take in ``net`` after a step; ``n_before`` steps were taken in since the last start."""
        decay = min(self.decay, n_before / (n_before + 9))
        for name, value in net.state_dict().items():
            average: Tensor = self.tensors[name]
            if decay and value.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
