"""One optimizer for the binary weights, another for the rest, handled as one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

Predicate = Callable[[str, nn.Parameter], bool]
"""Whether the parameter of this name belongs to a case."""
Factory = Callable[[list[tuple[str, nn.Parameter]]], Optimizer]
"""Builds the optimizer of named parameters: a class, or a ``functools.partial`` of one."""


def is_latent_weight(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is binarised in the forward pass: called ``latent_weight...``."""
    return name.rpartition(".")[2].startswith("latent_weight")


class CaseOptimizer(Optimizer):
    """Gives each parameter to exactly one optimizer, by a predicate, and the rest to a default.

    ``param_groups`` are those of all its optimizers, cases first, so a scheduler of
    ``torch.optim.lr_scheduler`` moves every learning rate by the same factor; ``state_dict()`` has
    the usual form and holds all their states. After the idea of Larq's class of the same name.

    Parameters
    ----------
    named_parameters
        ``net.named_parameters()``.
    cases
        Pairs of a predicate and what builds the optimizer of the parameters that it matches, such
        as ``(is_latent_weight, Bop)``.
    default
        Builds the optimizer of the parameters that no predicate matches; None if there may be none.

    Raises
    ------
    ValueError
        If a parameter matches two predicates, or none where there is no default, or is given twice;
        or if a predicate matches no parameter. The message names it.

    Examples
    --------
    >>> net = bnn.BinaryConvNet((8, 8, 1), 10)
    >>> adam = functools.partial(torch.optim.Adam, lr=0.01)
    >>> optimizer = CaseOptimizer(net.named_parameters(), [(is_latent_weight, Bop)], adam)
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        cases: Sequence[tuple[Predicate, Factory]],
        default: Factory | None = None,
    ) -> None:
        named = list(named_parameters)
        shares = _assign(named, [predicate for predicate, _ in cases], default is not None)
        super().__init__(named, {})
        factories = [factory for _, factory in cases]
        if default is not None and shares[-1]:
            factories.append(default)
        self.optimizers = [f(share) for f, share in zip(factories, shares, strict=False)]
        """Those of the cases, in order, then the default's unless nothing was left for it."""
        self.param_groups = [group for inner in self.optimizers for group in inner.param_groups]
        for inner in self.optimizers:
            self.state.update(inner.state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let every optimizer take a step; parameters and result as ``torch.optim``'s."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner in self.optimizers:
            inner.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse, because it is not said to which optimizer the group would belong.

        Raises
        ------
        RuntimeError
            Always, once the optimizer is built.
        """
        if hasattr(self, "optimizers"):
            raise RuntimeError(
                "add_param_group: expected all parameters at construction, got a group after it; "
                "build a new CaseOptimizer"
            )
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what ``state_dict()`` of an equal optimizer returned.

        Raises
        ------
        ValueError
            If its groups hold other parameters than these; nothing is changed then.
        """
        own = [group.get("param_names") for group in self.param_groups]
        saved = [group.get("param_names") for group in state_dict["param_groups"]]
        if own != saved:
            raise ValueError(f"state_dict: expected groups of parameters {own}, got {saved}")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Make the inner optimizers read and write this one's groups and state."""
        start = 0
        for inner in self.optimizers:
            stop = start + len(inner.param_groups)
            inner.param_groups, inner.state = self.param_groups[start:stop], self.state
            start = stop


def _assign(
    named: list[tuple[str, nn.Parameter]], predicates: list[Predicate], has_default: bool
) -> list[list[tuple[str, nn.Parameter]]]:
    """Parameters of every predicate, in order, then those of the default."""
    shares: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(len(predicates) + 1)]
    seen: dict[int, str] = {}
    for name, parameter in named:
        if id(parameter) in seen:
            raise ValueError(
                f"{name}: expected each parameter once, got it as {seen[id(parameter)]}"
            )
        seen[id(parameter)] = name
        matching = [i for i, predicate in enumerate(predicates) if predicate(name, parameter)]
        if len(matching) > 1:
            raise ValueError(f"{name}: expected one matching case, got cases {matching}")
        if not matching and not has_default:
            raise ValueError(f"{name}: expected a matching case, got none; give a default")
        shares[matching[0] if matching else -1].append((name, parameter))
    for i, share in enumerate(shares[:-1]):
        if not share:
            names = [name for name, _ in named]
            raise ValueError(f"cases: expected a parameter for case {i}, got none of {names}")
    return shares
