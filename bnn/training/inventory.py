"""What in a network takes part in its training, found once and by what it can do."""

from bnn.layers import BatchNorm
from bnn.models import Classifier
from bnn.optimizers import is_latent_weight
from bnn.quantizers import Quantizer


class Inventory:
    """Parameters, normalisations, binary layers and quantizers of a network, by name.

    Parameters
    ----------
    net
        Parameters without ``requires_grad`` are left out.
    """

    def __init__(self, net: Classifier) -> None:
        modules = dict(net.named_modules())
        self.parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
        """All that is trained, in the order of a row's gradients."""
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters.values())
        """Their values."""
        self.latent = {name: p for name, p in self.parameters.items() if is_latent_weight(name, p)}
        """Those that are binarised in the forward pass."""
        self.n_latent = sum(weight.numel() for weight in self.latent.values())
        """Their values."""
        self.norms = {name: m for name, m in modules.items() if isinstance(m, BatchNorm)}
        self.binary_layers = {name: m for name, m in modules.items() if hasattr(m, "clip_latent")}
        of_weights = {id(m) for layer in self.binary_layers.values() for m in layer.modules()}
        quantizers = [module for module in modules.values() if isinstance(module, Quantizer)]
        self._of_weights = [q for q in quantizers if id(q) in of_weights]
        self._of_activations = [q for q in quantizers if id(q) not in of_weights]

    def set_progress(self, progress: float) -> None:
        """Tell every quantizer how far the training is: epoch / epochs."""
        for quantizer in (*self._of_weights, *self._of_activations):
            quantizer.set_progress(progress)

    def set_step(self, step: int, row_begin: int) -> None:
        """Tell every quantizer which step is next and which row of the batch its first one is.

        The rows of a weight are its channels, the same for every shard: they begin at 0.
        """
        for quantizer in self._of_weights:
            quantizer.set_step(step)
        for quantizer in self._of_activations:
            quantizer.set_step(step, row_begin=row_begin)

    def clip_latent(self) -> None:
        """Clip the latent weights of all layers that have some."""
        for layer in self.binary_layers.values():
            layer.clip_latent()
