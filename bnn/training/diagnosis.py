"""Where a training went wrong: the first parameter or module with a value that is not finite."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bnn.training.inventory import Inventory
from bnn.training.shards import BatchTotals


class NotFiniteError(RuntimeError):
    """A loss, gradient, statistic or weight is NaN or infinite: the training cannot go on."""


def is_finite(x: Tensor) -> bool:
    """Whether ``x`` has no NaN, no infinity, and squares whose sum is in range; one pass.

    The squares too, since Adam would take them into its moments.
    """
    return math.isfinite(float(torch.linalg.vector_norm(x.detach())))


def first_bad(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that is not finite; None if all are."""
    return next((name for name, x in named if not is_finite(x)), None)


@torch.no_grad()
def first_bad_output(net: nn.Module, images: Tensor) -> str | None:
    """Name of the first module, as they are evaluated, whose output is not finite; None if none.

    Parameters
    ----------
    net
        Evaluated once more, as it is.
    images
        Of the batch that went wrong.
    """
    found: list[str] = []
    handles = []
    for name, module in net.named_modules():

        def look(_: nn.Module, __: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor) and not found and not is_finite(output):
                found.append(name or "the network's output")

        handles.append(module.register_forward_hook(look))
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def first_bad_sum(sums: BatchTotals, inventory: Inventory) -> tuple[str, str | None]:
    """Say whether weights, gradients or statistics are the first to be bad, and whose they are."""
    where = first_bad(inventory.parameters.items())
    if where is not None:
        return "weights", where
    sizes = [parameter.numel() for parameter in inventory.parameters.values()]
    where = first_bad(zip(inventory.parameters, torch.split(sums.gradients, sizes), strict=True))
    if where is not None:
        return "gradients", where
    sizes = [2 * norm.n_channels for norm in inventory.norms.values()]
    return "statistics", first_bad(
        zip(inventory.norms, torch.split(sums.statistics, sizes), strict=True)
    )
