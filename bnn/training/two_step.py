"""ReActNet's two-step training: first the weights are real, then they are binary too.

A layer with binary weights has a ``weight_quantizer``. While that is the identity, the layer
multiplies by its latent weights as they are; activations stay binary. Nothing else changes, neither
the parameters nor their names, and between two training steps the quantizers are always the own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from bnn.quantizers import Quantizer


class RealWeights(Quantizer):
    """The identity in place of a weight quantizer: no level, so no bit can hold the result."""

    levels: tuple[float, ...] = ()

    def forward(self, weights: Tensor) -> Tensor:
        """Return ``weights``."""
        return weights


def steps_with_real_weights(fraction: float, n_steps: int) -> int:
    """Length of the first part, at least one step of each part if there are two.

    Parameters
    ----------
    fraction
        Share of the steps, in [0, 1); 0 is no first part.
    n_steps
        Of the whole training.
    """
    if fraction == 0 or n_steps < 2:
        return 0
    return min(max(round(fraction * n_steps), 1), n_steps - 1)


@contextmanager
def real_weights(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let ``layers`` use their latent weights as they are while the context lasts."""
    quantizers = [layer.weight_quantizer for layer in layers.values()]
    try:
        for layer in layers.values():
            layer.weight_quantizer = RealWeights()
        yield
    finally:
        for layer, quantizer in zip(layers.values(), quantizers, strict=True):
            layer.weight_quantizer = quantizer


def check_layers(layers: Mapping[str, nn.Module]) -> None:
    """Refuse layers, given by name, whose weights cannot be real for a while.

    Raises
    ------
    ValueError
        Naming the first one.
    """
    for name, layer in layers.items():
        if not isinstance(getattr(layer, "weight_quantizer", None), Quantizer):
            raise ValueError(
                f"{name}: expected a layer with a weight_quantizer for real_weights_fraction > 0, "
                f"got {type(layer).__name__}; train it in one step"
            )
