"""From a user's own module to a binary one."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnn.binarization.report import Binarization
from bnn.binarization.traced import Choices, TracedConversion, trace
from bnn.binarization.untraced import convert_untraced
from bnn.quantizers import QUANTIZERS

_STATISTICS = (
    "statistics of normalisations behind binary layers are those of the real layers: train, or "
    "recalibrate, before evaluation"
)


def binarize(
    module: nn.Module,
    keep_first_last: bool = True,
    *,
    input_shape: Sequence[int] | None = None,
    example: Tensor | tuple[Tensor, ...] | None = None,
    keep: Iterable[str] = (),
    quantizer: str = "ste_sign",
    weight_quantizer: str = "ste_sign",
) -> tuple[nn.Module, Binarization]:
    r"""Copy a module so that its layers multiply ±1, and say what was changed and what was not.

    The order is that of the field: convolution, max-pool, normalisation, sign, next convolution.
    In the graph traced by torch.fx,

    - nn.Linear, Conv1d, Conv2d, ConvTranspose2d, Embedding, LSTMCell and GRUCell become binary;
      latent weights are :math:`w / \max |w|` of the layer times 0.03 of the clip, where the
      library's own models begin, and biases of sums are left to the normalisation;
    - a :class:`~bnn.layers.Sign` is put before each, of what is in front of the activation there
      (pools and reshaping are passed, a dropout on the way is removed). Whoever else reads the
      activation, a shortcut or a real layer, still does;
    - sums that nothing normalises get a :class:`~bnn.layers.BatchNorm`, behind their max-pools, as
      do inputs of a sign that are nowhere below 0;
    - nn.BatchNorm1d and 2d become :class:`~bnn.layers.BatchNorm` with parameters and statistics;
    - layers without a layer with weights before or behind them, the first and the last, become
      int8 (Conv2d, Linear), or stay where the library has none.

    A module that cannot be traced is converted module by module: the report says so.

    Parameters
    ----------
    module
        Not changed.
    keep_first_last
        Give int8 weights to the first and the last layers instead of binary ones.
    input_shape
        (H, W, C) of images; the module takes them as (N, C, H, W). Or give ``example``.
    example
        One batch for ``forward``, two rows or more, or a tuple of several arguments.
    keep
        Names of more layers that get int8 weights, such as the 1x1 convolutions of shortcuts.
    quantizer
        Pseudo-gradient of the signs, a key of ``QUANTIZERS``.
    weight_quantizer
        Of the latent weights, a key of ``QUANTIZER_MODULES``.

    Returns
    -------
    tuple
        The new module in the mode of the old one, a ``torch.fx.GraphModule`` if it was traced; and
        the report. :class:`~bnn.binarization.ModuleClassifier` makes a classifier of it.

    Raises
    ------
    ValueError
        If neither ``input_shape`` nor ``example`` is given, the module does not take it, a name in
        ``keep`` or a quantizer is unknown, or no layer could be made binary.
    """
    if quantizer not in QUANTIZERS:
        raise ValueError(f"quantizer: expected one of {sorted(QUANTIZERS)}, got {quantizer!r}")
    inputs = _inputs(module, input_shape, example)
    choices = Choices(
        keep_first_last=keep_first_last,
        keep=frozenset(keep),
        quantizer=quantizer,
        weight_quantizer=weight_quantizer,
    )
    before = _output(copy.deepcopy(module), inputs, "example")
    made, report = _converted(copy.deepcopy(module), inputs, choices)
    if not any(hasattr(part, "clip_latent") for part in made.modules()):
        raise ValueError(f"module: expected a layer that can be binary, got none:\n{report}")
    after = _output(copy.deepcopy(made), inputs, "binarised module")
    if _shapes(before) != _shapes(after):
        raise ValueError(
            f"module: expected outputs {_shapes(before)} after the conversion, got {_shapes(after)}"
        )
    return made.train(module.training), report


def _converted(
    module: nn.Module, inputs: tuple[Tensor, ...], choices: Choices
) -> tuple[nn.Module, Binarization]:
    try:
        traced = trace(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        note = (
            f"not traceable ({' '.join(str(error).split())}): converted module by module, in order "
            "of registration; activations stay, and each sign has a normalisation in front of it"
        )
        rows = convert_untraced(module, choices)
        return module, Binarization(rows=tuple(rows), notes=(note, _STATISTICS))
    rows = TracedConversion(traced, inputs, choices).run()
    return traced, Binarization(rows=tuple(rows), notes=(_STATISTICS,))


def _inputs(
    module: nn.Module,
    input_shape: Sequence[int] | None,
    example: Tensor | tuple[Tensor, ...] | None,
) -> tuple[Tensor, ...]:
    if example is not None:
        return (example,) if isinstance(example, Tensor) else tuple(example)
    if input_shape is None or len(input_shape) != 3:
        raise ValueError(
            f"input_shape: expected (H, W, C), got {input_shape}; or give a batch as example"
        )
    height, width, n_channels = input_shape
    reference = next(module.parameters(), torch.zeros(()))
    zeros = torch.zeros(2, n_channels, height, width)
    return (zeros.to(device=reference.device, dtype=reference.dtype),)


def _output(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> Any:
    """Run once in evaluation mode."""
    try:
        with torch.no_grad():
            return module.eval()(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: expected a module that takes {shapes}, got {reason}") from error


def _shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, tuple | list):
        return [_shapes(part) for part in output]
    return type(output).__name__
