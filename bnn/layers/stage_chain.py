"""Stages of convolution, pool, normalisation and sign in a row that hand on bits."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from bnn.layers.conv_norm import ConvNorm, run_fused
from bnn.layers.fused_stages import Link
from bnn.layers.sign import Sign
from bnn.quantizers import SteSign


def run_stages(stages: Iterable[nn.Module], signs: Iterable[nn.Module], x: Tensor) -> Tensor:
    r"""Apply ``sign(stage(x))`` for every pair, in training as few nodes that hold bits.

    .. math:: z = \operatorname{sign}(y), \qquad \partial y = \partial z \, [|y| \le c]

    Values and gradients are those of the modules one after the other. Neighbours that are a
    :class:`ConvNorm` and a sign with the clipped straight-through estimator, and that are trained
    in float32 on the CPU, become one node, in which only packed signs go from stage to stage. A
    module with hooks is called by itself, so that it can be watched.

    Parameters
    ----------
    stages, signs
        Of equal number.
    x
        (N, C, H, W), or what the first stage takes.

    Returns
    -------
    Tensor
        Output of the last sign.

    Raises
    ------
    TypeError, ValueError
        As the modules; or if there are not as many signs as stages.
    """
    pairs: list[tuple[Any, nn.Module]] = list(zip(stages, signs, strict=True))
    while pairs:
        links = _links(pairs, x)
        n_done = max(len(links), 1)
        if links:
            x = run_fused([stage for stage, _ in pairs[:n_done]], links, x)
        else:
            stage, sign = pairs[0]
            x = sign(stage(x))
        pairs = pairs[n_done:]
    return x


def _links(pairs: Sequence[tuple[Any, nn.Module]], x: Any) -> list[Link]:
    """Links of the stages, from the first on, that can be one node for ``x``."""
    links: list[Link] = []
    if not isinstance(x, Tensor):  # torch.fx traces module by module
        return links
    shape: tuple[int, ...] = tuple(x.shape)
    for stage, sign in pairs:
        clip = _clip_of(sign)
        if clip is None or type(stage) is not ConvNorm or _is_watched(stage) or _is_watched(sign):
            break
        link = stage.link(shape, None if links else x, clip)
        if link is None:
            break
        links.append(link)
        shape = (shape[0], link.stage.n_out, *link.stage.out_size())
    return links


def _clip_of(sign: nn.Module) -> float | None:
    """Bound of the clipped straight-through estimator; None of any other module."""
    if type(sign) is SteSign:
        return sign.clip
    return 1.0 if type(sign) is Sign and sign.quantizer == "ste_sign" else None


def _is_watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks)
