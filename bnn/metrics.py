"""What the weights of a binary network do while it is trained: flips, sign balance, saturation.

Every metric is a share in [0, 1] (times 100: percent) per named tensor, from exact integer counts,
keyed by the tensor's full name. A module stands for its latent weights; pre-activations, snapshots
and anything else come as a mapping of named tensors. Signs are those of the network, sign(0) = +1.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnn.optimizers import is_latent_weight

Named = nn.Module | Mapping[str, Tensor]
"""A module, for its latent weights, or tensors by name; bool tensors are signs, True = +1."""


def latent_weights(module: nn.Module) -> dict[str, Tensor]:
    """Latent weights of a module by full name, as they are; those that are called so in layers.

    Raises
    ------
    ValueError
        If there is none.
    """
    found: dict[str, Tensor] = {
        n: p for n, p in module.named_parameters() if is_latent_weight(n, p)
    }
    if not found:
        raise ValueError(
            f"{type(module).__name__}: expected parameters called latent_weight, got none; "
            "pass a mapping of named tensors"
        )
    return found


def sign_bits(source: Named) -> dict[str, Tensor]:
    """Snapshot of the signs: a bool copy of every tensor, True where x >= 0 (bit 1, +1).

    Raises
    ------
    ValueError
        If there is no tensor, or one is empty or holds a NaN.
    """
    return {name: x.clone() if x.dtype == torch.bool else x >= 0 for name, x in _tensors(source)}


def flip_ratio(before: Named, after: Named) -> dict[str, float]:
    """Share of binary weights whose sign differs between two states, per layer.

    Parameters
    ----------
    before, after
        The same names and shapes. Since a module is trained in place, ``before`` is usually the
        :func:`sign_bits` that were taken of it.

    Returns
    -------
    dict
        Share in [0, 1] by name, the exact quotient of two integers.

    Raises
    ------
    ValueError
        If names or shapes differ, or a tensor is empty or holds a NaN.
    """
    old, new = sign_bits(before), sign_bits(after)
    return {name: n_flips / new[name].numel() for name, n_flips in _flips(old, new).items()}


class FlipRatio:
    """Mean share of binary weights that flip from one update to the next, per layer.

    Larq's metric of the same name, but with exact counts, and :meth:`reset` keeps the last state as
    the reference: a flip between the last step of an epoch and the first of the next is counted.
    """

    def __init__(self) -> None:
        self.n_updates = 0
        """Updates that were compared with one before; the very first only sets the reference."""
        self._bits: dict[str, Tensor] = {}
        self._flips: dict[str, int] = {}

    def update(self, source: Named) -> dict[str, float]:
        """Compare with the state of the last update, of which one byte per weight was kept.

        Returns
        -------
        dict
            Share of this update alone by name, in [0, 1]; 0 for the first.

        Raises
        ------
        ValueError
            As :func:`flip_ratio`.
        """
        bits = sign_bits(source)
        if not self._bits:
            self._bits, self._flips = bits, dict.fromkeys(bits, 0)
            return dict.fromkeys(bits, 0.0)
        flips = _flips(self._bits, bits)
        for name, n_flips in flips.items():
            self._flips[name] += n_flips
        self._bits, self.n_updates = bits, self.n_updates + 1
        return {name: flips[name] / bits[name].numel() for name in bits}

    def result(self) -> dict[str, float]:
        """Mean share per update since the last :meth:`reset`, in [0, 1]; 0 before any."""
        n = max(self.n_updates, 1)
        return {name: flips / (n * self._bits[name].numel()) for name, flips in self._flips.items()}

    def reset(self) -> None:
        """Start a new mean; the last state stays the reference."""
        self.n_updates, self._flips = 0, dict.fromkeys(self._bits, 0)


def sign_balance(source: Named) -> dict[str, float]:
    """Share of +1 per layer, in [0, 1]; 0.5 is balanced, 0 or 1 a layer that is constant.

    Raises
    ------
    ValueError
        As :func:`sign_bits`.
    """
    return {name: _count(bits) / bits.numel() for name, bits in sign_bits(source).items()}


def saturation(source: Named, clip: float = 1.0, *, inclusive: bool = False) -> dict[str, float]:
    r"""Share of values beyond the clip, :math:`|x| > c`, where ``ste_sign`` passes no gradient.

    Parameters
    ----------
    source
        Latent weights or pre-activations; floating.
    clip
        The bound c of the quantizer.
    inclusive
        Count :math:`|x| \ge c`. Latent weights that are clipped after every step are never beyond
        c; those that sit on it are the saturated ones.

    Returns
    -------
    dict
        Share in [0, 1] by name.

    Raises
    ------
    ValueError
        If ``clip`` is not positive, or as :func:`sign_bits`.
    """
    return Saturation(clip, inclusive=inclusive).update(source)


class Saturation:
    """Share of values beyond the clip over many batches; arguments as :func:`saturation`."""

    def __init__(self, clip: float = 1.0, *, inclusive: bool = False) -> None:
        if not clip > 0:
            raise ValueError(f"clip: expected clip > 0, got {clip}")
        self.clip = clip
        self.inclusive = inclusive
        self._counts: dict[str, tuple[int, int]] = {}

    def update(self, source: Named) -> dict[str, float]:
        """Count ``source``, whose shapes may differ each time; its own shares by name."""
        shares = {}
        for name, x in _tensors(source):
            magnitude = x.abs()
            beyond = magnitude >= self.clip if self.inclusive else magnitude > self.clip
            n_beyond, n_values = self._counts.get(name, (0, 0))
            self._counts[name] = (n_beyond + _count(beyond), n_values + x.numel())
            shares[name] = _count(beyond) / x.numel()
        return shares

    @contextmanager
    def watch(self, module: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """Count every output of submodules while the context lasts: pre-activations.

        Parameters
        ----------
        module
            Any network.
        names
            Of the submodules whose output a sign is taken of, such as ``"stages.0"``. The parts
            of a :class:`~bnn.layers.ConvNorm` are one computation: watch the whole.

        Raises
        ------
        ValueError
            If ``module`` has no submodule of a name, or one did not run in the context.
        """
        submodules = dict(module.named_modules())
        chosen = list(names)
        for name in chosen:
            if name not in submodules:
                raise ValueError(f"names: expected one of {sorted(submodules)}, got {name!r}")
        handles = [submodules[name].register_forward_hook(self._hook(name)) for name in chosen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        idle = [name for name in chosen if name not in self._counts]
        if idle:
            raise ValueError(
                f"names: expected modules that run, {idle[0]!r} did not; watch its parent"
            )

    def result(self) -> dict[str, float]:
        """Share of all values since the last :meth:`reset`, in [0, 1] by name."""
        return {name: n_beyond / n for name, (n_beyond, n) in self._counts.items()}

    def reset(self) -> None:
        """Forget all counts."""
        self._counts = {}

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(submodule: nn.Module, arguments: Any, output: Tensor) -> None:
            self.update({name: output})

        return count


def _tensors(source: Named) -> list[tuple[str, Tensor]]:
    """Named tensors, detached; none is empty or holds a NaN, which would count as a -1."""
    named = latent_weights(source) if isinstance(source, nn.Module) else source
    if not named:
        raise ValueError("source: expected a named tensor or more, got none")
    for name, x in named.items():
        if not x.numel():
            raise ValueError(f"{name}: expected a value or more, got shape {tuple(x.shape)}")
        n_nan = _count(torch.isnan(x))
        if n_nan:
            raise ValueError(f"{name}: expected numbers, got {n_nan} NaN of {x.numel()} values")
    return [(name, x.detach()) for name, x in named.items()]


def _flips(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of bits that differ by name."""
    shapes = [{name: tuple(x.shape) for name, x in bits.items()} for bits in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"names and shapes: expected {shapes[0]}, got {shapes[1]}")
    return {name: _count(old[name] ^ bits) for name, bits in new.items()}


def _count(mask: Tensor) -> int:
    return int(torch.count_nonzero(mask))
