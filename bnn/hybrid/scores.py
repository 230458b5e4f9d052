r"""How much is lost where a network binarises: errors of the sign, or accuracy measured.

Errors come from averages over samples and elements of what enters a sign. They depend on the
scale of x, which batch normalisation before the sign fixes; :func:`sensitivities` do not, and cost
one evaluation per place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn.evaluation import evaluate
from bnn.hybrid.calibration import recalibrate
from bnn.hybrid.conversion import make_hybrid
from bnn.hybrid.graph import device_of, evaluation_mode
from bnn.hybrid.inputs import before_sign, binary_inputs
from bnn.models import Classifier
from bnn.quantizers import sign


@dataclass(frozen=True, kw_only=True, slots=True)
class InputMoments:
    """Averages of x over samples and elements, where x is what a sign is taken of."""

    n_values: int
    """Values averaged over."""
    square: float
    """Mean of x²."""
    sign_error: float
    """Mean of (x - sign x)²."""
    clipped_square: float
    """Mean of min(x², 1)."""


def sign_error(moments: InputMoments) -> float:
    r"""Mean squared distance to the sign, :math:`E (x - \operatorname{sign} x)^2`."""
    return moments.sign_error


def relative_error(moments: InputMoments) -> float:
    r"""Relative to the power, :math:`E (x - \operatorname{sign} x)^2 / E x^2`; inf for x = 0."""
    return moments.sign_error / moments.square if moments.square else float("inf")


def clip_deficit(moments: InputMoments) -> float:
    r"""How far the clipped values stay below ±1, :math:`1 - E \operatorname{clip}(x, -1, 1)^2`."""
    return 1 - moments.clipped_square


def measure_moments(x: Tensor) -> InputMoments:
    """Averages over all values of ``x``, any shape but empty, in float64."""
    values = x.detach().to(torch.float64)
    return InputMoments(
        n_values=values.numel(),
        square=float(values.square().mean()),
        sign_error=float((values - sign(values)).square().mean()),
        clipped_square=float(values.square().clamp(max=1.0).mean()),
    )


def input_moments(
    net: Classifier, images: NDArray[np.uint8], *, batch_size: int = 256
) -> dict[str, InputMoments]:
    """Averages of what enters every sign of a trained network, on a sample of images.

    Parameters
    ----------
    net
        Evaluated with its running statistics, by hooks; nothing of it changes.
    images
        Shape (N, H, W, C), uint8, N > 0.
    batch_size
        Images at a time; bounds memory.

    Returns
    -------
    dict
        By name of the sign, in order of evaluation.

    Raises
    ------
    ValueError, TypeError
        If there are no images, or they or the network are not fit for it.
    """
    if not len(images):
        raise ValueError("images: expected one or more, got none")
    parts: dict[str, list[InputMoments]] = {name: [] for name in binary_inputs(net)}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def collect(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            parts[name].append(measure_moments(before_sign(module, arguments[0])))

        return collect

    handles = [net.get_submodule(name).register_forward_pre_hook(hook(name)) for name in parts]
    try:
        with evaluation_mode(net), torch.no_grad():
            for begin in range(0, len(images), batch_size):
                batch = torch.from_numpy(images[begin : begin + batch_size].copy())
                net(batch.to(device_of(net)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: _combine(found) for name, found in parts.items()}


def input_errors(
    net: Classifier,
    images: NDArray[np.uint8],
    measure: str = "sign_error",
    *,
    batch_size: int = 256,
) -> dict[str, float]:
    """Error of every binarised activation: a key of ``ERROR_MEASURES``, by name of the sign.

    For x standard normal the measures are 2 - 2 sqrt(2/π) = 0.4042, the same, and 0.4839; for
    x = ±1 all are 0. Other parameters and errors are those of :func:`input_moments`.

    Raises
    ------
    ValueError, TypeError
        If the measure is unknown, or as :func:`input_moments`.

    References
    ----------
    .. [1] Prabhu et al. (2018), Hybrid binary networks, arXiv:1804.03867; the measures are those
       of the authors' code.
    """
    if measure not in ERROR_MEASURES:
        raise ValueError(f"measure: expected one of {sorted(ERROR_MEASURES)}, got {measure!r}")
    moments = input_moments(net, images, batch_size=batch_size)
    return {name: ERROR_MEASURES[measure](found) for name, found in moments.items()}


def sensitivities(
    net: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    calibration: NDArray[np.uint8],
) -> dict[str, float]:
    """Accuracy gained by leaving one input real, measured for each in turn.

    Both the network and each hybrid get the batch-normalisation statistics of ``calibration``:
    a real activation has another scale than a sign, and without them nothing after it would fit.
    No weight is trained, so a gain may be negative.

    Parameters
    ----------
    net
        A trained binary network; it is copied, not changed.
    images, labels
        Validation samples, shapes (N, H, W, C) uint8 and (N,); 256 usually do.
    calibration
        Shape (M, H, W, C), uint8: training images, without labels.

    Returns
    -------
    dict
        Accuracy of the hybrid minus that of the network, in [-1, 1], by name of the sign.

    Raises
    ------
    ValueError, TypeError
        If images or labels are not fit for the network.
    """
    base = make_hybrid(net, [])
    recalibrate(base, calibration)
    accuracy = evaluate(base, images, labels).accuracy
    gains = {}
    for name in binary_inputs(net):
        hybrid = make_hybrid(net, [name])
        recalibrate(hybrid, calibration)
        gains[name] = evaluate(hybrid, images, labels).accuracy - accuracy
    return gains


def _combine(parts: list[InputMoments]) -> InputMoments:
    """Averages over the union, weighted by the numbers of values."""
    total = sum(part.n_values for part in parts)

    def mean(attribute: str) -> float:
        return sum(float(getattr(part, attribute)) * part.n_values for part in parts) / total

    return InputMoments(
        n_values=total,
        square=mean("square"),
        sign_error=mean("sign_error"),
        clipped_square=mean("clipped_square"),
    )


ERROR_MEASURES: dict[str, Callable[[InputMoments], float]] = {
    "clip_deficit": clip_deficit,
    "relative_error": relative_error,
    "sign_error": sign_error,
}
