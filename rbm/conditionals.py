"""Distributions of the units of a layer given its neighbours: what samplers draw from.

A draw is named by an :class:`Address` and nothing else: it does not depend on how the chains are
split into calls, processes or machines.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import torch_ops
from kernels.philox import Purpose, normal, uniform
from kernels.sampling import bernoulli_probabilities

_UNIFORM_STEPS = 2.0**24


class Address(NamedTuple):
    """Names the random numbers of a draw; element = unit."""

    seed: int
    """64-bit."""
    purpose: Purpose
    """What the numbers are for."""
    chains: Tensor
    """Global number of each row, shape (n_rows,), int64, on the CPU; draws are fastest where
    numbers of neighbours follow each other."""
    step: int
    """Sweep or temperature number."""
    stream: int = 0
    """Layer, replica or estimate number, 24 bits: the index of :mod:`kernels.philox`."""


class Conditional(Protocol):
    """Independent units, one distribution each."""

    @property
    def mean(self) -> Tensor:
        """Expected states, shape (n_rows, n_units)."""

    def draw(self, address: Address) -> Tensor:
        """Draw states, shape (n_rows, n_units), dtype of the mean."""

    def log_probability(self, states: Tensor) -> Tensor:
        """Log p (density, for reals) of whole rows, (..., n_units) -> (...), nats, float64."""


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Bits that are on with probability ``mean``."""

    mean: Tensor

    def draw(self, address: Address) -> Tensor:
        """Units that are on iff their uniform number is below ``mean``."""
        bits: Tensor = bernoulli(self.mean, *address)
        return bits

    def log_probability(self, states: Tensor) -> Tensor:
        """Sum of log p or log(1 - p) over the units."""
        p, on = self.mean.to(torch.float64), states.to(torch.float64)
        off: Tensor = torch.special.xlog1py(1.0 - on, -p)
        return (torch.xlogy(on, p) + off).sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Spin:
    """Spins {-1, +1} that are up with probability ``p_up``."""

    p_up: Tensor

    @property
    def mean(self) -> Tensor:
        """2 p - 1."""
        return 2.0 * self.p_up - 1.0

    def draw(self, address: Address) -> Tensor:
        """Spins that are up iff their uniform number is below ``p_up``."""
        bits: Tensor = bernoulli(self.p_up, *address)
        return 2.0 * bits - 1.0

    def log_probability(self, states: Tensor) -> Tensor:
        """As of bits (s + 1) / 2."""
        return Bernoulli(self.p_up).log_probability((states + 1.0) / 2.0)


@dataclass(frozen=True, slots=True)
class Categorical:
    """Variables of K states each, one-hot: K neighbouring units belong to one variable."""

    mean: Tensor
    """Probabilities, shape (n_rows, n_variables * K)."""
    n_states: int
    """K."""

    def draw(self, address: Address) -> Tensor:
        """State k where the uniform number (one per variable) first is below p_0 + ... + p_k."""
        p = torch.unflatten(self.mean, -1, (-1, self.n_states))
        seed, purpose, chains, step, stream = address
        draws = uniform(seed, purpose, p.shape[-2], rows=chains.numpy(), step=step, index=stream)
        u = torch.from_numpy(draws).to(p.device, torch.float64)
        passed = (u[..., None] >= p.to(torch.float64).cumsum(dim=-1)).sum(dim=-1)
        # Rounding may leave the last sum just below 1.
        state = passed.clamp(max=self.n_states - 1)
        return torch.nn.functional.one_hot(state, self.n_states).flatten(-2).to(self.mean.dtype)

    def log_probability(self, states: Tensor) -> Tensor:
        """Sum of log p of the states that are on."""
        on = states.to(torch.float64)
        return torch.xlogy(on, self.mean.to(torch.float64)).sum(dim=-1)


@dataclass(frozen=True, slots=True)
class Normal:
    """Real units with a common or own standard deviation."""

    mean: Tensor
    std: Tensor
    """Shape () or (n_units,)."""

    def draw(self, address: Address) -> Tensor:
        """Mean plus standard normals of the address (Box-Muller)."""
        seed, purpose, chains, step, stream = address
        n_units = self.mean.shape[-1]
        z = normal(seed, purpose, n_units, rows=chains.numpy(), step=step, index=stream)
        return self.mean + self.std * torch.from_numpy(z).to(self.mean)

    def log_probability(self, states: Tensor) -> Tensor:
        """Log density, summed over the units."""
        std = self.std.to(torch.float64).expand(states.shape[-1])
        z = (states.to(torch.float64) - self.mean.to(torch.float64)) / std
        constant = std.log().sum() + 0.5 * std.shape[0] * math.log(2.0 * math.pi)
        return -0.5 * z.square().sum(dim=-1) - constant


@dataclass(frozen=True, slots=True)
class Joined:
    """Neighbouring parts of a layer, each with a distribution of its own.

    Part k draws from ``stream + k``, so parts share no numbers.
    """

    parts: tuple[Conditional, ...]

    @property
    def mean(self) -> Tensor:
        """Of all parts, side by side."""
        return torch.cat([part.mean for part in self.parts], dim=-1)

    def draw(self, address: Address) -> Tensor:
        """Draw every part."""
        drawn = [
            part.draw(address._replace(stream=address.stream + number))
            for number, part in enumerate(self.parts)
        ]
        return torch.cat(drawn, dim=-1)

    def log_probability(self, states: Tensor) -> Tensor:
        """Sum over the parts."""
        pieces = torch.split(states, [part.mean.shape[-1] for part in self.parts], dim=-1)
        logs = [p.log_probability(piece) for p, piece in zip(self.parts, pieces, strict=True)]
        return torch.stack(logs).sum(dim=0)


def bernoulli(
    p_on: Tensor, seed: int, purpose: Purpose, chains: Tensor, step: int, index: int = 0
) -> Tensor:
    """Units that are on iff their uniform number is below ``p_on``: shape and dtype of ``p_on``."""
    p = p_on.detach()
    if p.dtype == torch.float64:
        # Uniforms are multiples of 2^-24: they are below p iff below p rounded up to one of those,
        # which float32 holds.
        p = (p.clamp(max=1.0) * _UNIFORM_STEPS).ceil() / _UNIFORM_STEPS
    draw = _draw_on_cpu if p.device.type == "cpu" else _draw_on_device
    words = draw(p.float().contiguous(), seed, purpose, chains.cpu().numpy(), step, index)
    return torch_ops.unpack(words, p_on.shape[-1]).to(p_on.dtype)


def _draw_on_cpu(
    p_on: Tensor, seed: int, purpose: Purpose, rows: NDArray[np.int64], step: int, index: int
) -> Tensor:
    """Packed states, int32 words; the chains in any order."""
    words = bernoulli_probabilities(
        p_on.numpy(), seed=seed, purpose=purpose, rows=rows, step=step, index=index
    )
    return torch.from_numpy(words.view(np.int32))


def _draw_on_device(
    p_on: Tensor, seed: int, purpose: Purpose, rows: NDArray[np.int64], step: int, index: int
) -> Tensor:
    """The same on the device of ``p_on``: one draw for every run of neighbouring chains."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    words = [
        torch_ops.bernoulli_probabilities(
            p_on[begin:end],
            seed=seed,
            purpose=purpose,
            step=step,
            index=index,
            row_begin=int(rows[begin]),
        )
        for begin, end in pairwise([0, *breaks.tolist(), len(rows)])
        if begin < len(rows)
    ]
    return torch.cat(words) if words else torch_ops.pack(p_on)
