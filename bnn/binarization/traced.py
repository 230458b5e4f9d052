"""The conversion of a module whose order of layers is known, on its traced graph."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnn.binarization.counterparts import (
    COUNTERPARTS,
    NORMS,
    binary_counterpart,
    int8_counterpart,
    move_statistics,
    norm_counterpart,
    why_none,
)
from bnn.binarization.operators import (
    ACTIVATIONS,
    DROPOUTS,
    MAX_POOLS,
    PASSING,
    add_module,
    described,
    is_nonnegative,
    kind,
    normalise,
)
from bnn.binarization.report import Row
from bnn.layers import BatchNorm, Int8Head, Sign


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What the caller of a conversion decides."""

    keep_first_last: bool
    keep: frozenset[str]
    quantizer: str
    weight_quantizer: str


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_own = type(m).__module__.startswith(("bnn.layers", "bnn.quantizers"))
        is_known = is_own or isinstance(m, tuple(COUNTERPARTS))  # subclasses too
        return is_known or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = result.shape
        return result


def trace(module: nn.Module) -> fx.GraphModule:
    """Trace with the modules of torch and of the library as nodes.

    Raises
    ------
    torch.fx.proxy.TraceError, TypeError
        If a value decides what is computed.
    """
    return fx.GraphModule(module, _Tracer().trace(module))


class TracedConversion:
    """Conversion of a traced module in place: :meth:`run`, once.

    Parameters
    ----------
    traced
        A copy that may be changed.
    example
        Inputs, from which shapes are learned.
    choices
        Of the caller.
    """

    def __init__(self, traced: fx.GraphModule, example: Sequence[Tensor], choices: Choices) -> None:
        self.traced = traced
        self.graph = traced.graph
        self.choices = choices
        self._rows: list[tuple[int, Row]] = []
        self._signs: dict[fx.Node, fx.Node] = {}
        traced.eval()
        with torch.no_grad():
            _Shapes(traced).run(*example)
        views = normalise(traced)
        for place, node in enumerate(self.graph.nodes):
            node.meta["place"] = place
        for node in views:
            self._report(node, node.name, "view", now="flatten")
        self._calls: dict[str, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module" and kind(node, self.modules) in COUNTERPARTS:
                self._calls.setdefault(str(node.target), []).append(node)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Submodules by path."""
        return dict(self.traced.named_modules())

    def run(self) -> list[Row]:
        """Convert everything; the rows of the report in running order."""
        ends = self._ends()
        for target in ends - self._calls.keys():
            raise ValueError(
                f"keep: expected names of layers with weights ({', '.join(self._calls)}), "
                f"got {target!r}"
            )
        originals = self.modules
        kept, binary = self._chosen(ends)
        for node in binary:
            if COUNTERPARTS[type(originals[str(node.target)])].takes_signs:
                self._put_sign(node)
        self._report_removed()
        for node in [*kept, *binary]:
            self._put_norm(node, originals[str(node.target)])
        self._convert_norms(kept, originals)
        self._report_others()
        self.traced.delete_all_unused_submodules()
        self.graph.lint()
        self.traced.recompile()
        return [row for _, row in sorted(self._rows, key=lambda entry: entry[0])]

    def _ends(self) -> set[str]:
        """Layers that are to have int8 weights: the first, the last, and those to be kept."""
        if not self.choices.keep_first_last:
            return set(self.choices.keep)
        nodes = {node for calls in self._calls.values() for node in calls}
        first = {node for node in nodes if not nodes & _reached(node, lambda n: n.all_input_nodes)}
        last = {node for node in nodes if not nodes & _reached(node, lambda n: n.users)}
        return {str(node.target) for node in first | last} | self.choices.keep

    def _chosen(self, ends: set[str]) -> tuple[list[fx.Node], list[fx.Node]]:
        """Replace the layers; the calls of those with int8 weights, and of the binary ones."""
        kept: list[fx.Node] = []
        binary: list[fx.Node] = []
        for target, calls in self._calls.items():
            layer = self.traced.get_submodule(target)
            try:
                for call in calls:
                    _check_call(call, layer)
                if target in ends:
                    made = int8_counterpart(layer)
                else:
                    made = binary_counterpart(layer, self.choices.weight_quantizer)
            except ValueError as error:
                self._report(calls[0], target, described(calls[0], self.modules), why=str(error))
                continue
            self._report(
                calls[0],
                target,
                type(layer).__name__,
                now=type(made).__name__,
                why=_why(layer, is_end=target in ends, is_kept=target in self.choices.keep),
            )
            _replace(self.traced, target, made)
            (kept if target in ends else binary).extend(calls)
        return kept, binary

    def _put_sign(self, layer: fx.Node) -> None:
        """Binarise what a layer reads: of what is before the activation in front of it.

        The sign of what a ReLU gives would be +1 everywhere. Other readers keep the activation.
        """
        data = layer.args[0]
        assert isinstance(data, fx.Node)  # checked with the call
        if data not in self._signs:
            self._signs[data] = self._sign_of(data, layer)
        layer.args = (self._signs[data], *layer.args[1:])

    def _sign_of(self, data: fx.Node, layer: fx.Node) -> fx.Node:
        modules, chain, root = self.modules, [], data
        while kind(root, modules) in PASSING:
            chain.append(root)
            root = root.all_input_nodes[0]
        source = root
        while kind(source, modules) in ACTIVATIONS:
            source = source.all_input_nodes[0]
        at, current, name = data, source, str(layer.target)
        if is_nonnegative(source, modules):
            n_channels = source.meta["shape"][1]
            norm = add_module(self.traced, f"{name}_input_norm", self._like(layer, n_channels))
            at = current = self._call_after(at, norm, source)
            self._report(layer, norm, "", now="BatchNorm", why="its input is nowhere below 0")
        for link in reversed(chain):
            if kind(link, modules) in DROPOUTS:
                continue
            first, *others = link.all_input_nodes
            operands = {first: current, **{other: other for other in others}}
            with self.graph.inserting_after(at):
                at = self.graph.node_copy(link, operands.__getitem__)
            at.meta, current = dict(link.meta), at
        sign = add_module(self.traced, f"{name}_sign", Sign(self.choices.quantizer))
        self._report(layer, sign, "", now="Sign")
        return self._call_after(at, sign, current)

    def _call_after(self, at: fx.Node, target: str, data: fx.Node) -> fx.Node:
        with self.graph.inserting_after(at):
            call = self.graph.call_module(target, (data,))
        call.meta = dict(data.meta)
        return call

    def _like(self, layer: fx.Node, n_channels: int) -> BatchNorm:
        """Normalisation where the parameters of ``layer`` are."""
        parameter = next(self.traced.get_submodule(str(layer.target)).parameters())
        return BatchNorm(n_channels).to(device=parameter.device, dtype=parameter.dtype)

    def _report_removed(self) -> None:
        """Erase what nobody reads any more, and say of activations what became of them."""
        modules = self.modules
        before = {
            node: (described(node, modules), kind(node, modules))
            for node in self.graph.nodes
            if node.op != "output" and kind(node, modules) in ACTIVATIONS | DROPOUTS
        }
        self.graph.eliminate_dead_code()
        left = set(self.graph.nodes)
        for node, (was, found) in before.items():
            name = str(node.target) if node.op == "call_module" else node.name
            if node not in left and found in DROPOUTS:
                why = "a sign follows, of which 0 is +1"
                self._report(node, name, was, now="", why=why)
            elif node not in left:
                self._report(node, name, was, now="", why="the Sign is in its place")
            elif found in DROPOUTS:
                why = "no sign follows; draws from torch's global generator"
                self._report(node, name, was, why=why)
            else:
                self._report(node, name, was, why="read by what takes no signs")

    def _put_norm(self, layer: fx.Node, original: nn.Module) -> None:
        """Insert the normalisation that sums need and the module does not have."""
        made = self.traced.get_submodule(str(layer.target))
        if not COUNTERPARTS[type(original)].makes_sums or isinstance(made, Int8Head):
            return
        at, norm = self._follower(layer)
        if norm is not None:
            return
        n_channels = at.meta["shape"][1]
        name = add_module(self.traced, f"{layer.target}_norm", self._like(layer, n_channels))
        call = self._call_after(at, name, at)
        at.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
        self._report(layer, name, "", now="BatchNorm", why="sums have to be normalised", after=True)

    def _follower(self, layer: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        """The last of the max-pools behind a layer, and the normalisation behind that, if any."""
        at, modules = layer, self.modules
        while True:
            if len(at.users) != 1:
                return at, None
            (user,) = at.users
            found = kind(user, modules)
            if found in NORMS or found is BatchNorm:
                return at, user
            if found not in MAX_POOLS:
                return at, None
            at = user

    def _convert_norms(self, kept: Iterable[fx.Node], originals: dict[str, nn.Module]) -> None:
        """Replace torch's normalisations; behind int8 layers their statistics are moved."""
        behind: dict[str, nn.Conv2d] = {}
        for layer in kept:
            original = originals[str(layer.target)]
            norm = self._follower(layer)[1]
            if isinstance(original, nn.Conv2d) and norm is not None:
                behind[str(norm.target)] = original
        calls = [node for node in self.graph.nodes if kind(node, self.modules) in NORMS]
        for node in {str(node.target): node for node in reversed(calls)}.values():
            target = str(node.target)
            norm_of_torch = self.traced.get_submodule(target)
            was = type(norm_of_torch).__name__
            try:
                made = norm_counterpart(norm_of_torch)
            except ValueError as error:
                self._report(node, target, was, why=str(error))
                continue
            if target in behind:
                move_statistics(made, behind[target])
            _replace(self.traced, target, made)
            self._report(node, target, was, now="BatchNorm")

    def _report_others(self) -> None:
        """Say what has parameters and no counterpart."""
        reported = {row.layer for _, row in self._rows}
        for node in self.graph.nodes:
            name = str(node.target)
            if node.op == "get_attr" and name not in reported:
                reported.add(name)
                why = "a bare parameter, not a layer"
                self._report(node, name, "Parameter", why=why)
            elif node.op == "call_module" and name not in reported:
                module = self.traced.get_submodule(name)
                is_own = type(module).__module__.startswith("bnn.")
                if any(True for _ in module.parameters()) and not is_own:
                    self._report(node, name, type(module).__name__, why=why_none(module))
                    reported.add(name)

    def _report(
        self,
        node: fx.Node,
        layer: str,
        was: str,
        *,
        now: str | None = None,
        why: str = "",
        after: bool = False,
    ) -> None:
        """Note a row at the place of ``node``; without ``now`` nothing changed."""
        place = node.meta.get("place", 0)
        entry = 3 * place + (1 if was else 2 * after)
        self._rows.append(
            (entry, Row(layer=layer, was=was, now=was if now is None else now, why=why))
        )


def _reached(node: fx.Node, step: Any) -> set[fx.Node]:
    """All nodes that are reached by one or more steps."""
    found: set[fx.Node] = set()
    waiting = list(step(node))
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting.extend(step(other))
    return found


def _check_call(call: fx.Node, layer: nn.Module) -> None:
    """Refuse calls of which the data is unknown, or a dense layer over more than features."""
    if not call.args or not isinstance(call.args[0], fx.Node):
        raise ValueError("expected a call with the data as its first argument")
    shape = call.args[0].meta.get("shape", ())
    if isinstance(layer, nn.Linear) and len(shape) != 2:
        raise ValueError(f"expected data (N, features), got {len(shape)} axes; flatten first")


def _why(layer: nn.Module, *, is_end: bool, is_kept: bool) -> str:
    if is_kept:
        return "int8, to be kept"
    return "int8, first or last" if is_end else ""


def _replace(traced: fx.GraphModule, target: str, made: nn.Module) -> None:
    parent, _, own = target.rpartition(".")
    setattr(traced.get_submodule(parent), own, made)
