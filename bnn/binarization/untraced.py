"""The conversion of a module whose order of layers cannot be traced, module by module."""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from bnn.binarization.counterparts import (
    COUNTERPARTS,
    NORMS,
    binary_counterpart,
    int8_counterpart,
    norm_counterpart,
    why_none,
)
from bnn.binarization.report import Row
from bnn.binarization.traced import Choices
from bnn.layers import BatchNorm, Int8Conv2d, Sign


def convert_untraced(module: nn.Module, choices: Choices) -> list[Row]:
    """Replace the layers of ``module`` in place, in order of registration.

    What is in front of a layer is not known, a ReLU perhaps, whose sign would be +1 everywhere: so
    each binary layer becomes normalisation, sign, layer, as in XNOR-Net [1]_, and a normalisation
    behind it unless the next module registered is one.

    Returns
    -------
    list
        Rows of the report.

    Raises
    ------
    ValueError
        If ``keep`` names no layer.

    References
    ----------
    .. [1] Rastegari et al. (2016), XNOR-Net, arXiv:1603.05279.
    """
    named = [(name, child) for name, child in module.named_modules() if name]
    layers = [name for name, child in named if type(child) in COUNTERPARTS]
    unknown = choices.keep - set(layers)
    if unknown:
        raise ValueError(
            f"keep: expected names of layers with weights ({', '.join(layers)}), "
            f"got {min(unknown)!r}"
        )
    ends = set(choices.keep)
    if choices.keep_first_last and layers:
        ends |= {layers[0], layers[-1]}
    before_norm = {name for (name, _), (_, child) in pairwise(named) if type(child) in NORMS}
    rows = []
    for name, child in named:
        was, why = type(child).__name__, ""
        made: nn.Module | None = None
        try:
            if type(child) in NORMS:
                made = norm_counterpart(child)
            elif name in ends:
                made = _int8(child, has_norm=name in before_norm)
                why = "int8, first or last registered, or to be kept"
            elif type(child) in COUNTERPARTS:
                made = _binary(child, choices, has_norm=name in before_norm)
            elif any(True for _ in child.parameters(recurse=False)):
                why = why_none(child)
        except ValueError as error:
            why = str(error)
        if made is not None:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, made)
        if made is not None or why:
            rows.append(Row(layer=name, was=was, now=_described(made) or was, why=why))
    return rows


def _int8(layer: nn.Module, *, has_norm: bool) -> nn.Module:
    made = int8_counterpart(layer)
    if has_norm or not isinstance(made, Int8Conv2d):
        return made
    return nn.Sequential(OrderedDict(layer=made, norm=BatchNorm(made.n_out).to(made.weight)))


def _binary(layer: nn.Module, choices: Choices, *, has_norm: bool) -> nn.Module:
    counterpart = COUNTERPARTS[type(layer)]
    made = binary_counterpart(layer, choices.weight_quantizer)
    if not counterpart.makes_sums:
        if not counterpart.takes_signs:
            return made
        raise ValueError("a recurrent cell takes a state beside its data; put a Sign() before it")
    n_in: int = made.n_in  # type: ignore[assignment]
    n_out: int = made.n_out  # type: ignore[assignment]
    weight = next(made.parameters())
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        input_norm=BatchNorm(n_in).to(weight), sign=Sign(choices.quantizer), layer=made
    )
    if not has_norm:
        parts["norm"] = BatchNorm(n_out).to(weight)
    return nn.Sequential(parts)


def _described(made: nn.Module | None) -> str:
    if isinstance(made, nn.Sequential):
        return ", ".join(type(part).__name__ for part in made)
    return "" if made is None else type(made).__name__
