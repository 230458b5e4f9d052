"""Kinds of operations between layers with weights, and the form in which they are rewritten."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import fx, nn

Modules = Mapping[str, nn.Module]

NONNEGATIVE: Final = frozenset(
    {
        *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus),
        *(F.relu, F.relu6, F.sigmoid, F.hardsigmoid, F.softplus, torch.relu, torch.sigmoid),
        *("relu", "sigmoid"),
    }
)
"""Activations whose sign is +1 everywhere."""
ACTIVATIONS: Final = frozenset(
    {
        *NONNEGATIVE,
        *(nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softsign),
        *(F.leaky_relu, F.prelu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardswish),
        *(F.hardtanh, F.tanh, torch.tanh, F.softsign, "tanh"),
    }
)
"""What a sign takes the place of: types of modules, functions, names of methods."""
DROPOUTS: Final = frozenset({nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout})
MAX_POOLS: Final = frozenset({nn.MaxPool1d, nn.MaxPool2d, F.max_pool1d, F.max_pool2d})
PASSING: Final = frozenset(
    {
        *DROPOUTS,
        *MAX_POOLS,
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        *(nn.Flatten, nn.Identity, torch.flatten, torch.squeeze, torch.unsqueeze),
        *("flatten", "squeeze", "unsqueeze", "contiguous", "view", "reshape", "permute"),
    }
)
"""What may stand between an activation and the layer that reads it."""
JOINS: Final = frozenset({operator.add, torch.add, operator.mul, torch.mul, "add", "mul"})
"""Of values that are not negative they make one that is not."""
CONCATENATIONS: Final = frozenset({torch.cat, torch.concat})


def kind(node: fx.Node, modules: Modules) -> Any:
    """Type of a node's module, its function, or the name of its method; None for inputs."""
    if node.op == "call_module":
        return type(modules[str(node.target)])
    return node.target if node.op in ("call_function", "call_method") else None


def described(node: fx.Node, modules: Modules) -> str:
    """``kind`` in words."""
    found = kind(node, modules)
    return str(getattr(found, "__name__", found))


def is_nonnegative(node: fx.Node, modules: Modules) -> bool:
    """Whether no value of a node is known to be below 0: then its sign says nothing."""
    if node.op == "placeholder":
        return True  # pixels
    found = kind(node, modules)
    if found in NONNEGATIVE:
        return True
    if found in CONCATENATIONS or found in JOINS:
        parts = node.all_input_nodes
        return bool(parts) and all(is_nonnegative(part, modules) for part in parts)
    return found in PASSING and is_nonnegative(node.all_input_nodes[0], modules)


def normalise(traced: fx.GraphModule) -> list[fx.Node]:
    """Rewrite functions as the modules that train, lower and switch modes; nothing is in place.

    An operation in place would change what the sign of another branch reads.

    Parameters
    ----------
    traced
        Changed; nodes have ``meta["shape"]``.

    Returns
    -------
    list
        Views that became a flattening, which has an integer form.
    """
    modules = dict(traced.named_modules())
    for module in modules.values():
        if getattr(module, "inplace", False):
            module.inplace = False
    views = []
    for node in list(traced.graph.nodes):
        _out_of_place(node)
        if node.op == "call_function" and node.target in MODULE_FORMS:
            _as_module(traced, node)
        elif node.op == "call_method" and node.target == "reshape" and _flattens(node):
            node.op, node.target = "call_function", torch.flatten
            node.args, node.kwargs = (node.args[0], 1), {}
            views.append(node)
    traced.graph.eliminate_dead_code()
    return views


def add_module(traced: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add a submodule under ``name``, or the next free one; the name it got."""
    free, n = name, 1
    taken = dict(traced.named_modules())
    while free in taken:
        n += 1
        free = f"{name}_{n}"
    traced.add_submodule(free, module)
    return free


def _out_of_place(node: fx.Node) -> None:
    """Give the operation that leaves its operand as it is."""
    if "inplace" in node.kwargs:
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    if node.op in ("call_function", "call_method") and node.target in OUT_OF_PLACE:
        node.target = OUT_OF_PLACE[node.target]


def _as_module(traced: fx.GraphModule, node: fx.Node) -> None:
    """The same as a call of a module, whose mode is that of the network."""
    options = dict(node.kwargs)
    options.pop("training", None)
    data = node.args[0] if node.args else options.pop("input")
    made = MODULE_FORMS[node.target](*node.args[1:], **options)
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(add_module(traced, node.name, made), (data,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    traced.graph.erase_node(node)


def _dropout(p: float = 0.5, training: bool = True) -> nn.Module:
    return nn.Dropout(p)


def _flattens(node: fx.Node) -> bool:
    """Whether a view joins all axes behind the batch."""
    data = node.args[0]
    if not isinstance(data, fx.Node):
        return False
    before, after = data.meta.get("shape"), node.meta.get("shape")
    return before is not None and after == (before[0], before[1:].numel())


MODULE_FORMS: Final[dict[Any, Callable[..., nn.Module]]] = {
    F.relu: nn.ReLU,
    F.dropout: _dropout,
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
"""Function -> module with the same arguments after the data."""
OUT_OF_PLACE: Final[dict[Any, Any]] = {
    torch.relu_: torch.relu,
    F.relu_: F.relu,
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    **{f"{name}_": name for name in ("relu", "tanh", "sigmoid", "add", "mul")},
    "view": "reshape",  # memory may be channels-last
}
"""Function or method -> the same that neither changes nor shares its operand."""
