"""All models by name. One more = one file, and one line at the foot of this one."""

from collections.abc import Sequence

from bnn.models.binary_conv_net import BinaryConvNet
from bnn.models.binary_mlp import BinaryMLP
from bnn.models.binary_vgg import BinaryVGG
from bnn.models.bireal_resnet import BiRealResNet
from bnn.models.classifier import Classifier
from bnn.models.keyword_spotter import KeywordSpotter
from bnn.models.quicknet import QuickNet
from bnn.models.react_mobilenet import ReActMobileNet
from bnn.models.react_resnet import ReActResNet


def build_model(
    name: str,
    input_shape: tuple[int, int, int],
    n_classes: int,
    widths: Sequence[int] | None = None,
    *,
    seed: int = 0,
    full_precision: bool = False,
    quantizer: str = "ste_sign",
) -> Classifier:
    """Build an untrained network by its name.

    Parameters
    ----------
    name
        Key of ``MODELS``.
    input_shape, n_classes, widths, seed, full_precision, quantizer
        As for :class:`Classifier`.

    Raises
    ------
    ValueError
        If there is no such model, or it cannot be built from the other arguments.
    """
    if name not in MODELS:
        raise ValueError(f"model: expected one of {sorted(MODELS)}, got {name!r}")
    return MODELS[name](
        input_shape,
        n_classes,
        widths,
        seed=seed,
        full_precision=full_precision,
        quantizer=quantizer,
    )


MODELS: dict[str, type[Classifier]] = {
    "binary_conv_net": BinaryConvNet,
    "binary_mlp": BinaryMLP,
    "binary_vgg": BinaryVGG,
    "bireal_resnet": BiRealResNet,
    "keyword_spotter": KeywordSpotter,
    "quicknet": QuickNet,
    "react_mobilenet": ReActMobileNet,
    "react_resnet": ReActResNet,
}
