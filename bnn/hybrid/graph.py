"""A network as a graph of its layers, and the tensors that flow between them for one image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnn.models import Classifier

_LEAF_PACKAGES = ("bnn.layers", "bnn.quantizers", "bnn.hybrid", "torch.nn")


class _LayerTracer(fx.Tracer):
    """Traces ``logits`` with the modules of the library and of torch as nodes."""

    traced_func_name = "logits"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        home = type(m).__module__
        is_known = any(home == name or home.startswith(name + ".") for name in _LEAF_PACKAGES)
        # A container only forwards; its children are the layers.
        return is_known and not isinstance(m, nn.Sequential)


class _Recorder(fx.Interpreter):
    """Keeps what every node returned."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.outputs: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.outputs[n] = super().run_node(n)
        return self.outputs[n]


def layer_graph(net: Classifier) -> fx.Graph:
    """Graph of ``net.logits`` with one node per layer, in order of evaluation."""
    return _LayerTracer().trace(net)


def record_outputs(net: Classifier, graph: fx.Graph) -> dict[fx.Node, Any]:
    """What every node of ``graph`` returns for one black image, in evaluation mode."""
    image = torch.zeros(1, *net.input_shape, dtype=torch.uint8, device=device_of(net))
    recorder = _Recorder(fx.GraphModule(net, graph))
    with evaluation_mode(net), torch.no_grad():
        recorder.run(net.pixels(image))
    return recorder.outputs


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Use running statistics while the context lasts; every module's own mode comes back."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(net: nn.Module) -> torch.device:
    """Where the parameters are."""
    parameter: Tensor = next(net.parameters())
    return parameter.device
