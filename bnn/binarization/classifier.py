"""A user's own module as a classifier of the library."""

import torch
from torch import Tensor, nn

from bnn.models.classifier import Classifier, check_architecture


class ModuleClassifier(Classifier):
    """Any module from pixels to logits, so that it trains, is summed up and ships like a model.

    Parameters
    ----------
    module
        Takes pixels p / 256, (N, C, H, W) in [0, 1), to logits, (N, n_classes). It is held, not
        copied, and its weights are as they are.
    input_shape
        (H, W, C) of the uint8 images.
    n_classes
        2 or more.
    full_precision
        Whether it is a real-valued twin, which does not ship.

    Raises
    ------
    ValueError
        If the shape or the number of classes is not possible.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, int, int],
        n_classes: int,
        *,
        full_precision: bool = False,
    ) -> None:
        # The base builds a topology from widths; here it is given.
        nn.Module.__init__(self)
        check_architecture(input_shape, n_classes, (1,), "ste_sign")
        self.input_shape = (input_shape[0], input_shape[1], input_shape[2])
        self.n_classes = n_classes
        self.widths = ()
        self.full_precision = full_precision
        self.module = module

    def pixels(self, images: Tensor) -> Tensor:
        """As the base; a real-valued module may view its memory, so that is contiguous."""
        x = super().pixels(images)
        # Of one channel both orders count as contiguous, and a convolution would pick the other.
        return x.clone(memory_format=torch.contiguous_format) if self.full_precision else x

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (N, n_classes), of the output of :meth:`pixels`."""
        logits: Tensor = self.module(x)
        return logits
