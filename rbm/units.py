r"""Kinds of units: exponential families with one natural parameter (field) per unit.

.. math:: p(x \mid f) = e^{\log b(x) + f^\top T(x) - A(f)}

A layer of a machine is such a family, its field is the bias plus what its neighbours send:
conditionals, free energies and the layers' statistics follow from b, T and A alone.

References
----------
.. [1] Welling, Rosen-Zvi, Hinton (2004), Exponential family harmoniums with an application to
   information retrieval.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from rbm.conditionals import Bernoulli, Categorical, Conditional, Joined, Normal, Spin
from rbm.states import enumerate_bits

# softplus(x) = x beyond this: exp(-40) is below the rounding of 40 in float64.
_SOFTPLUS_LINEAR: Final = 40.0


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) without overflow, to full precision in float32 and float64."""
    return torch.nn.functional.softplus(x, threshold=_SOFTPLUS_LINEAR)


class Units(Protocol):
    """One kind of units; states and fields have shape (..., n_units)."""

    def conditional(self, field: Tensor) -> Conditional:
        """Distribution with this field."""

    def log_normaliser(self, field: Tensor) -> Tensor:
        """A(f), summed over the units: (..., n_units) -> (...), nats."""

    def log_base(self, states: Tensor) -> Tensor:
        """Log b(x), summed over the units: (..., n_units) -> (...), nats."""

    def statistics(self, states: Tensor) -> Tensor:
        """T(x), shape (..., n_units)."""

    def base_field(self, states: Tensor) -> Tensor:
        """Field of independent units fitted to rows of data, (n_rows, n) -> (n,), float64."""

    def n_states(self, n_units: int) -> int | None:
        """How many states a layer has; None if they cannot be counted."""

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """States number ``start`` ... ``stop - 1``, shape (stop - start, n_units), float64."""

    def check(self, name: str, states: Tensor) -> None:
        """Raise ValueError if a value is not one that such a unit takes."""


@dataclass(frozen=True, slots=True)
class BernoulliUnits:
    """Bits {0, 1}: T(x) = x, A(f) = log(1 + e^f)."""

    def conditional(self, field: Tensor) -> Conditional:
        """On with probability sigmoid(f)."""
        return Bernoulli(torch.sigmoid(field))

    def log_normaliser(self, field: Tensor) -> Tensor:
        """Sum of log(1 + e^f)."""
        return softplus(field).sum(dim=-1)

    def log_base(self, states: Tensor) -> Tensor:
        """0."""
        return states.new_zeros(states.shape[:-1])

    def statistics(self, states: Tensor) -> Tensor:
        """The bits."""
        return states

    def base_field(self, states: Tensor) -> Tensor:
        """Logits of the base rates with one count more each way: log((c + 1) / (N - c + 1))."""
        count = states.sum(dim=0, dtype=torch.float64)
        return torch.log((count + 1.0) / (states.shape[0] - count + 1.0))

    def n_states(self, n_units: int) -> int:
        """2^n."""
        return 1 << n_units

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """Bit i of state k is (k >> i) & 1."""
        return enumerate_bits(n_units, start, stop)

    def check(self, name: str, states: Tensor) -> None:
        """Values must be 0 and 1."""
        _check_values(name, (states == 0) | (states == 1), states, "values 0 and 1")


@dataclass(frozen=True, slots=True)
class SpinUnits:
    """Spins {-1, +1}: T(s) = s, A(f) = log(2 cosh f); p(s = +1) = sigmoid(2 f)."""

    def conditional(self, field: Tensor) -> Conditional:
        """Up with probability sigmoid(2 f)."""
        return Spin(torch.sigmoid(2.0 * field))

    def log_normaliser(self, field: Tensor) -> Tensor:
        """Sum of log(e^f + e^-f)."""
        return (field.abs() + softplus(-2.0 * field.abs())).sum(dim=-1)

    def log_base(self, states: Tensor) -> Tensor:
        """0."""
        return states.new_zeros(states.shape[:-1])

    def statistics(self, states: Tensor) -> Tensor:
        """The spins."""
        return states

    def base_field(self, states: Tensor) -> Tensor:
        """Half the logits of the base rates of "up", smoothed by one count each way."""
        return BernoulliUnits().base_field((states + 1.0) / 2.0) / 2.0

    def n_states(self, n_units: int) -> int:
        """2^n."""
        return 1 << n_units

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """Spin i of state k is 2 * ((k >> i) & 1) - 1."""
        return 2.0 * enumerate_bits(n_units, start, stop) - 1.0

    def check(self, name: str, states: Tensor) -> None:
        """Values must be -1 and +1."""
        _check_values(name, (states == -1) | (states == 1), states, "spins -1 and +1")


@dataclass(frozen=True, slots=True)
class SoftmaxUnits:
    """Variables of K states (Potts), one-hot in K neighbouring units.

    A variable whose units are all 0 is *missing*: it sends nothing and counts for nothing.
    """

    categories: int
    """K, at least 2."""

    def __post_init__(self) -> None:
        if self.categories < 2:
            raise ValueError(f"categories: expected at least 2, got {self.categories}")

    def conditional(self, field: Tensor) -> Conditional:
        """State k with probability softmax_k(f)."""
        return Categorical(torch.softmax(self._split(field), dim=-1).flatten(-2), self.categories)

    def log_normaliser(self, field: Tensor) -> Tensor:
        """Sum over the variables of log sum_k e^{f_k}."""
        return torch.logsumexp(self._split(field), dim=-1).sum(dim=-1)

    def log_base(self, states: Tensor) -> Tensor:
        """0."""
        return states.new_zeros(states.shape[:-1])

    def statistics(self, states: Tensor) -> Tensor:
        """The one-hot units."""
        return states

    def base_field(self, states: Tensor) -> Tensor:
        """Logs of the frequencies, smoothed by one count each, with mean 0 per variable."""
        log_count = torch.log(self._split(states.sum(dim=0, dtype=torch.float64)) + 1.0)
        return (log_count - log_count.mean(dim=-1, keepdim=True)).flatten()

    def n_states(self, n_units: int) -> int:
        """K^(n / K)."""
        return int(self.categories ** (n_units // self.categories))

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """Variable i of state k is digit i of k in base K, lowest first."""
        digit = self.categories ** torch.arange(n_units // self.categories)
        states = (torch.arange(start, stop)[:, None] // digit) % self.categories
        return torch.nn.functional.one_hot(states, self.categories).flatten(-2).to(torch.float64)

    def check(self, name: str, states: Tensor) -> None:
        """Each variable must be one-hot, or all 0 where it is missing."""
        if states.shape[-1] % self.categories:
            raise ValueError(
                f"{name}: expected a multiple of {self.categories} units, got {states.shape[-1]}"
            )
        binary = (states == 0) | (states == 1)
        groups = self._split(states)
        fine = binary & (groups.sum(dim=-1, keepdim=True) <= 1).expand_as(groups).flatten(-2)
        _check_values(name, fine, states, f"one-hot groups of {self.categories}")

    def _split(self, units: Tensor) -> Tensor:
        return torch.unflatten(units, -1, (-1, self.categories))


@dataclass(frozen=True, slots=True)
class GaussianUnits:
    r"""Reals with a fixed standard deviation: T(v) = v / std, A(f) = f^2 / 2.

    The energy of a Gaussian layer is :math:`\sum_i v_i^2 / 2\sigma^2 - f_i v_i / \sigma`: the usual
    :math:`(v_i - a_i)^2 / 2\sigma^2` less a constant, with the bias in units of the deviation.
    Standardise the data and leave ``std`` at 1.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.std < math.inf:
            raise ValueError(f"std: expected a positive number, got {self.std}")

    def conditional(self, field: Tensor) -> Conditional:
        """Normal with mean std * f."""
        return Normal(self.std * field, field.new_tensor(self.std))

    def log_normaliser(self, field: Tensor) -> Tensor:
        """Sum of f^2 / 2."""
        return 0.5 * field.square().sum(dim=-1)

    def log_base(self, states: Tensor) -> Tensor:
        """Log density of N(0, std^2), so that A has no constant."""
        constant = math.log(self.std) + 0.5 * math.log(2.0 * math.pi)
        return -(0.5 * (states / self.std).square() + constant).sum(dim=-1)

    def statistics(self, states: Tensor) -> Tensor:
        """Values in units of the deviation."""
        return states / self.std

    def base_field(self, states: Tensor) -> Tensor:
        """Means in units of the deviation."""
        return states.to(torch.float64).mean(dim=0) / self.std

    def n_states(self, n_units: int) -> None:
        """Reals cannot be enumerated."""

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """Not possible.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("units: expected a layer that can be enumerated, got Gaussian units")

    def check(self, name: str, states: Tensor) -> None:
        """Values must be finite."""
        _check_values(name, torch.isfinite(states), states, "finite values")


@dataclass(frozen=True, slots=True)
class JoinedUnits:
    """Neighbouring parts of a layer, each of its own kind: pixels and a label, for instance."""

    parts: tuple[tuple[Units, int], ...]
    """Kind and number of units of each part."""

    def conditional(self, field: Tensor) -> Conditional:
        """Every part's own."""
        pieces = zip(self.parts, self._split(field), strict=True)
        return Joined(tuple(units.conditional(piece) for (units, _), piece in pieces))

    def log_normaliser(self, field: Tensor) -> Tensor:
        """Sum over the parts."""
        pieces = zip(self.parts, self._split(field), strict=True)
        return torch.stack([units.log_normaliser(p) for (units, _), p in pieces]).sum(dim=0)

    def log_base(self, states: Tensor) -> Tensor:
        """Sum over the parts."""
        pieces = zip(self.parts, self._split(states), strict=True)
        return torch.stack([units.log_base(p) for (units, _), p in pieces]).sum(dim=0)

    def statistics(self, states: Tensor) -> Tensor:
        """Every part's own, side by side."""
        pieces = zip(self.parts, self._split(states), strict=True)
        return torch.cat([units.statistics(p) for (units, _), p in pieces], dim=-1)

    def base_field(self, states: Tensor) -> Tensor:
        """Every part's own, side by side."""
        pieces = zip(self.parts, self._split(states), strict=True)
        return torch.cat([units.base_field(p) for (units, _), p in pieces])

    def n_states(self, n_units: int) -> int | None:
        """Product over the parts."""
        total = 1
        for units, size in self.parts:
            count = units.n_states(size)
            if count is None:
                return None
            total *= count
        return total

    def enumerate(self, n_units: int, start: int, stop: int) -> Tensor:
        """The first part runs fastest."""
        number, columns = torch.arange(start, stop), []
        for units, size in self.parts:
            count = units.n_states(size)
            every = units.enumerate(size, 0, count or 0)
            columns.append(every[number % every.shape[0]])
            number = number // every.shape[0]
        return torch.cat(columns, dim=-1)

    def check(self, name: str, states: Tensor) -> None:
        """Every part's own."""
        for (units, _), piece in zip(self.parts, self._split(states), strict=True):
            units.check(name, piece)

    def _split(self, units: Tensor) -> tuple[Tensor, ...]:
        return torch.split(units, [size for _, size in self.parts], dim=-1)


BERNOULLI: Final = BernoulliUnits()
SPIN: Final = SpinUnits()
GAUSSIAN: Final = GaussianUnits()

UNITS: Final[dict[str, Units]] = {
    "bernoulli": BERNOULLI,
    "spin": SPIN,
    "softmax": SoftmaxUnits(3),
    "gaussian": GAUSSIAN,
    "joined": JoinedUnits(((BERNOULLI, 2), (SoftmaxUnits(2), 2))),
}
"""An example of each kind; tests run over them."""


def _check_values(name: str, fine: Tensor, states: Tensor, expected: str) -> None:
    if not bool(fine.all()):
        strange = states[~fine].flatten()[0].item()
        raise ValueError(f"{name}: expected {expected}, got {strange}; prepare the data first")
