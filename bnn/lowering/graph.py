"""The traced graph of a network, with the library's layers and torch's as its nodes."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from torch import fx, nn

from bnn.layers import BinaryLayer
from bnn.lowering.table import LOWERINGS, METHODS
from bnn.quantizers import Quantizer

_SIGNS: Final = (-1.0, 1.0)
_LEAVES: Final = ("torch.nn.", "bnn.layers", "bnn.quantizers", "bnn.hybrid")


class _Tracer(fx.Tracer):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.traced_func_name = method

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential | nn.ModuleList):
            return False
        return type(m) in LOWERINGS or type(m).__module__.startswith(_LEAVES)


def trace(net: nn.Module) -> fx.Graph:
    """Trace ``net.logits``, or ``net.forward`` if it has no such method.

    Raises
    ------
    ValueError
        If a value decides what is computed, so that there is no one graph; or a node or an option
        of it has no integer form: the layer is named.
    """
    method = "logits" if hasattr(net, "logits") else "forward"
    try:
        graph = _Tracer(method).trace(net)
    except (fx.proxy.TraceError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"net: expected a {method} of modules and tensor operators, got {reason}"
        ) from error
    modules = dict(net.named_modules())
    for node in graph.nodes:
        name, _, lower = lowering_of(node, modules)
        if lower is not None:
            _check_arguments(name, node, lower)
    return graph


def lowering_of(
    node: fx.Node, modules: dict[str, nn.Module]
) -> tuple[str, nn.Module | None, Callable[..., Any] | None]:
    """Layer name, module and lowering of a node; None for inputs and outputs.

    Raises
    ------
    ValueError
        If there is no lowering, or the module's quantizer is no sign.
    """
    if node.op in ("placeholder", "output"):
        return node.name, None, None
    if node.op == "call_module":
        module = modules[str(node.target)]
        name = str(node.target)
        for part in module.modules():
            check_quantizers(name, part)
        return name, module, _found(name, type(module), type(module).__name__)
    name = _path(node)
    if node.op == "call_method":
        target = METHODS.get(str(node.target))
        return name, None, _found(name, target, f"Tensor.{node.target}")
    described = getattr(node.target, "__name__", str(node.target))
    return name, None, _found(name, node.target, described)


def _check_arguments(name: str, node: fx.Node, lower: Callable[..., Any]) -> None:
    """Refuse options that the lowering does not have, and tensors passed by name."""
    found = signature(lower)
    try:
        found.bind(None, None, *node.args, **node.kwargs)
    except TypeError as error:
        known = ", ".join(list(found.parameters)[2:])
        given = [f"{len(node.args)} by position", *(f"{key}=" for key in node.kwargs)]
        raise ValueError(
            f"{name}: expected arguments ({known}), got {', '.join(given)}; pass tensors by "
            "position, and only options that have an integer form"
        ) from error


def _path(node: fx.Node) -> str:
    """Function with the path of the module that calls it, as far as torch.fx knows."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path in stack if path]
    return ".".join([*paths[-1:], node.name])


def check_quantizers(name: str, module: nn.Module) -> None:
    """Refuse quantizers whose levels are not ±1, in a layer or as an activation.

    Raises
    ------
    ValueError
        Naming the layer.
    """
    if isinstance(module, BinaryLayer):
        quantizer: nn.Module = module.weight_quantizer
    else:
        quantizer = module
    if isinstance(quantizer, Quantizer) and tuple(quantizer.levels) != _SIGNS:
        raise ValueError(
            f"{name}: expected a quantizer with the levels -1 and +1, got "
            f"{type(quantizer).__name__} with {len(quantizer.levels)} levels"
        )


def _found(name: str, key: Any, described: str) -> Callable[..., Any]:
    lowering = LOWERINGS.get(key)
    if lowering is None:
        raise ValueError(
            f"{name}: expected a layer or function with an integer form, got {described}; "
            "bnn.lowering.table lists them"
        )
    return lowering
