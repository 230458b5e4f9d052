"""Where a network binarises: every sign of an activation, and the layers that read its bits."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from bnn.hybrid.graph import layer_graph, record_outputs
from bnn.layers import ConvNorm, Sign
from bnn.models import Classifier
from bnn.quantizers import Quantizer, RSign

BINARY_MACS_PER_OP = 64
"""A multiply-accumulate of two bits counts as 1/64 of a real one (Bi-Real Net, ReActNet)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryInput:
    """A sign of an activation. Layers that share a sign get real inputs together or not at all."""

    name: str
    """Full name of the module that takes the sign."""
    layers: tuple[str, ...]
    """Full names of the layers with weights that read its bits, in order of evaluation."""
    macs: int
    """Multiply-accumulates of these layers for one image."""

    @property
    def added_ops(self) -> float:
        """OPs that a real input adds: each multiply-accumulate counts 1 instead of 1/64."""
        return self.macs * (1 - 1 / BINARY_MACS_PER_OP)


def is_sign(module: nn.Module) -> bool:
    """Whether a module maps activations to ±1."""
    if isinstance(module, Quantizer):
        return module.levels == (-1.0, 1.0) and not module.is_scaled
    return isinstance(module, Sign)


def binary_inputs(net: Classifier) -> dict[str, BinaryInput]:
    """Find the binarised activations of a network, by name of their sign, in order of evaluation.

    Between a sign and the layers that read it there may be anything without weights, such as a
    pool or a flattening. A sign that no layer with weights reads is left out.

    Raises
    ------
    ValueError
        If there is none: the network is a full-precision twin, or all its inputs are real.
    """
    graph = layer_graph(net)
    modules = dict(net.named_modules())
    outputs = record_outputs(net, graph)
    macs: dict[str, dict[str, int]] = {}
    for node in graph.nodes:
        if node.op != "call_module" or not is_sign(modules[str(node.target)]):
            continue
        found = macs.setdefault(str(node.target), {})
        for reader in _readers(node, modules):
            layer = modules[str(reader.target)]
            found[str(reader.target)] = _count_macs(layer, outputs[reader.all_input_nodes[0]])
    inputs = {
        name: BinaryInput(name=name, layers=tuple(found), macs=sum(found.values()))
        for name, found in macs.items()
        if found
    }
    if not inputs:
        raise ValueError(
            f"net: expected a network that takes signs of activations, got {type(net).__name__} "
            "without; pass the binary network, not its twin"
        )
    return inputs


def resolve_inputs(net: Classifier, names: Iterable[str]) -> list[BinaryInput]:
    """Binarised activations by the names of their signs or of layers that read them.

    Raises
    ------
    ValueError
        If a name is neither.
    """
    names = list(names)
    if not names:
        return []
    inputs = binary_inputs(net)
    for name in names:
        if not any(name == own.name or name in own.layers for own in inputs.values()):
            choices = [choice for own in inputs.values() for choice in (own.name, *own.layers)]
            raise ValueError(f"layers: expected some of {choices}, got {name!r}")
    wanted = set(names)
    return [own for own in inputs.values() if wanted & {own.name, *own.layers}]


def before_sign(module: nn.Module, x: Tensor) -> Tensor:
    """The values whose sign ``module`` takes when it is given ``x``: RSign adds its shift."""
    if isinstance(module, RSign):
        return x + module.shift.detach().to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))
    return x


def convolution_of(module: nn.Module) -> nn.Module:
    """The layer with the weights: the module itself, or the convolution that it wraps."""
    return module.conv if isinstance(module, ConvNorm) else module


def _readers(sign: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """Nodes of layers with weights that the output of ``sign`` reaches, nearest first."""
    readers: list[fx.Node] = []
    seen: set[fx.Node] = set()
    front = list(sign.users)
    while front:
        node = front.pop(0)
        if node in seen:
            continue
        seen.add(node)
        module = modules[str(node.target)] if node.op == "call_module" else None
        if module is not None and _weight(module) is not None:
            readers.append(node)
        elif module is None or not (is_sign(module) or any(True for _ in module.parameters())):
            front.extend(node.users)
    order = {node: number for number, node in enumerate(sign.graph.nodes)}
    return sorted(readers, key=order.__getitem__)


def _weight(module: nn.Module) -> Tensor | None:
    """Weights that are multiplied with the input, (C_out, ...); None for layers without."""
    conv = convolution_of(module)
    for name in ("latent_weight", "weight"):
        weight = getattr(conv, name, None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            return weight
    return None


def _count_macs(module: nn.Module, x: Tensor) -> int:
    """One multiply-accumulate per weight and output position, padding included, before a pool."""
    weight = _weight(module)
    assert weight is not None
    with torch.no_grad():
        y: Tensor = convolution_of(module)(x)
    return weight.numel() * y[0, 0].numel()
