r"""From element-wise float modules behind integers to thresholds and scales, per channel.

Between an integer tensor and what reads it stands a chain of modules, each of them affine
(normalisation, shift, scale) or a knee (ReLU, PReLU). A sign at its end is one comparison,

.. math:: \operatorname{sign}(\text{chain}(u \cdot \text{acc})) = +1 \iff
          (\text{acc} \ge t_c) \oplus \text{flip}_c

with u the value of one unit of the accumulator, because a chain without negative slopes of knees is
monotone, also as rounded floats. Anything else at its end reads the rounded fixed-point number
:math:`\lfloor (\text{acc} \, m_c + b_c + 2^{s-1}) / 2^s \rfloor`.

The chain is evaluated in float64: that is the definition. A float32 network rounds the same
formulas, so its bits can differ where the value is within rounding of 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnn.layers import BatchNorm

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_INT32_LIMIT: Final = 1 << 31
_MAX_OFFSET: Final = 2.0**61
"""Of |b|, the format's bound."""
_MAX_SHIFT: Final = 31
_CHUNK: Final = 1 << 20
"""Values that one step of an exhaustive check holds."""
_MAX_CHECKED: Final = 1 << 22
"""Accumulators of all channels up to which every one is checked; sums of ±1 always are."""


MAX_DEVIATIONS: Final = 1024.0
"""Beyond which a normalised value in an integer stream saturates."""


class PointTooFine(ValueError):
    """A number of the integer network would leave its integer type at this binary point."""


@dataclass(frozen=True, eq=False)
class Affine:
    r""":math:`y = \gamma (x - \mu) / \sigma + \beta`, in this order of rounding."""

    mean: Floats
    """Shape (C,), as all others."""
    sigma: Floats
    """Positive."""
    gamma: Floats
    beta: Floats

    def __call__(self, x: Floats) -> Floats:
        """Map ``x``, shape (..., C)."""
        return self.gamma * ((x - self.mean) / self.sigma) + self.beta

    @property
    def slope(self) -> Floats:
        """Factor of x."""
        return self.gamma / self.sigma

    @property
    def offset(self) -> Floats:
        """Value at 0."""
        return self.beta - self.mean * self.slope


@dataclass(frozen=True, eq=False)
class Normalisation(Affine):
    """Affine link of running statistics: sigma is what the values before it deviate by."""


@dataclass(frozen=True, eq=False)
class Knee:
    """y = x where x > 0, else slope * x: ReLU has slope 0."""

    slope: Floats
    """Of the negative side, shape (C,)."""

    def __call__(self, x: Floats) -> Floats:
        """Map ``x``, shape (..., C)."""
        return np.where(x > 0, x, self.slope * x)


Link: TypeAlias = Affine | Knee
Chain: TypeAlias = tuple[Link, ...]


@dataclass(frozen=True, eq=False)
class Scaling:
    """Operands of SCALE or AVERAGE_POOL."""

    multiplier: NDArray[np.int32]
    """Shape (1, C), or (3, C): above the knee, below it, the knee."""
    bias: Integers
    """Shape (1, C) or (2, C)."""
    shift: int
    """1 to 31."""


def affine(
    n_channels: int,
    *,
    mean: Any = 0.0,
    sigma: Any = 1.0,
    gamma: Any = 1.0,
    beta: Any = 0.0,
) -> Affine:
    """Build a link from numbers or arrays, each broadcast to (n_channels,).

    Raises
    ------
    ValueError
        If a value is not finite, a deviation not positive, or a shape does not fit.
    """
    return Affine(*(_per_channel(values, n_channels) for values in (mean, sigma, gamma, beta)))


def knee(n_channels: int, slope: Any) -> Knee:
    """Build a knee; arguments and errors as for :func:`affine`."""
    return Knee(_per_channel(slope, n_channels))


def normalisation(norm: Any) -> Normalisation:
    """Link of a normalisation in evaluation mode.

    Parameters
    ----------
    norm
        :class:`~bnn.layers.BatchNorm` or torch's, whose affine parameters may be missing.

    Raises
    ------
    ValueError
        If a parameter or a statistic is not finite, or a variance plus eps not positive.
    """
    mean, var = (t.detach().cpu().double().numpy() for t in (norm.running_mean, norm.running_var))
    gamma, beta = (
        default if t is None else t.detach().cpu().double().numpy()
        for t, default in ((norm.weight, 1.0), (norm.bias, 0.0))
    )
    if not all(np.isfinite(values).all() for values in (mean, var, gamma, beta)):
        raise ValueError("expected finite parameters and statistics, got nan or infinity")
    if (var + norm.eps <= 0).any():
        raise ValueError(f"expected positive variances, got {var.min()} with eps {norm.eps}")
    sigma = np.sqrt(var + norm.eps)
    values = (mean, sigma, gamma, beta)
    return Normalisation(*(_per_channel(each, len(mean)) for each in values))


def evaluate(chain: Iterable[Link], x: Floats) -> Floats:
    """Apply the links in order to ``x``, shape (..., C)."""
    for link in chain:
        x = link(x)
    return x


def is_monotone(chain: Iterable[Link]) -> bool:
    """Whether no channel can turn: no knee has a negative slope."""
    return all((link.slope >= 0).all() for link in chain if isinstance(link, Knee))


def direction(chain: Iterable[Link], unit: Floats) -> Integers:
    """Sign of the slope by the accumulator, shape (C,): -1 falls, 1 rises, 0 is constant."""
    signs = np.sign(unit)
    for link in chain:
        if isinstance(link, Affine):
            signs = signs * np.sign(link.gamma)
    return signs.astype(np.int64)


def value_range(chain: Iterable[Link], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Least and greatest value of the chain on [low, high], per channel."""
    for link in chain:
        ends = np.stack([link(low), link(high)])
        if isinstance(link, Knee):
            ends = np.concatenate([ends, np.where((low < 0) & (high > 0), 0.0, ends[0])[None]])
        low, high = ends.min(axis=0), ends.max(axis=0)
    return low, high


def saturated(chain: Iterable[Link], low: Floats, high: Floats) -> Chain:
    r"""Clip each normalisation that can leave ``MAX_DEVIATIONS`` of its channel to them.

    .. math:: \beta - k |\gamma| \le y \le \beta + k |\gamma|

    A channel that is constant over the training data, such as a dead ReLU, has a deviation near 0,
    so that its worst case would take all digits of a residual stream. Values that any data come
    near are left as they are; a chain that ends in a sign needs no bound and is never given here.

    Parameters
    ----------
    chain
        Links of C channels.
    low, high
        Least and greatest value before the chain, each shape (C,).
    """
    links: list[Link] = []
    for link in chain:
        links.append(link)
        low, high = value_range((link,), low, high)
        if not isinstance(link, Normalisation):
            continue
        reach = MAX_DEVIATIONS * np.abs(link.gamma)
        least, greatest = link.beta - reach, link.beta + reach
        n = len(reach)
        if (high > greatest).any():  # min(y, b) = b - max(b - y, 0)
            links += [affine(n, gamma=-1.0, beta=greatest), knee(n, 0.0)]
            links.append(affine(n, gamma=-1.0, beta=greatest))
        if (low < least).any():  # max(y, a) = a + max(y - a, 0)
            links += [affine(n, mean=least), knee(n, 0.0), affine(n, beta=least)]
        low, high = np.clip(low, least, greatest), np.clip(high, least, greatest)
    return tuple(links)


def fold_sign(
    chain: Chain, low: Integers, high: Integers, *, unit: Any = 1.0, spacing: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Fold a chain followed by sign into one integer threshold per channel.

    Parameters
    ----------
    chain
        Links of C channels, monotone.
    low, high
        Least and greatest reachable accumulator, each shape (C,).
    unit
        Value of one unit of the accumulator, a number or shape (C,).
    spacing
        Distance of reachable accumulators: 2 for sums of ±1, all of one parity. Then every one is
        checked; for 1 if there are at most 2^22 in all channels, else the ends and the two at the
        threshold, which is enough because each rounded step of the chain is monotone.

    Returns
    -------
    tuple
        Thresholds (C,) int32, in ``low ... high + 1``, and flips (C,) bool:
        ``bit = (acc >= threshold) ^ flip``.

    Raises
    ------
    ValueError
        If the chain is not monotone.
    """
    if not is_monotone(chain):
        raise ValueError("expected slopes >= 0 before a sign, got a negative one")
    low, high = np.broadcast_arrays(low, high)
    unit = np.broadcast_to(np.asarray(unit, np.float64), low.shape)
    flip = direction(chain, unit) < 0

    def reached(acc: Integers) -> NDArray[np.bool_]:
        return np.asarray((evaluate(chain, acc * unit) >= 0) ^ flip)

    # The first sum in low ... high + 1 that is reached, by halving the interval it lies in.
    first, last = low.astype(np.int64), high.astype(np.int64) + 1
    while (first < last).any():
        middle = (first + last) >> 1
        is_there = reached(middle)
        is_open = first < last
        last = np.where(is_open & is_there, middle, last)
        first = np.where(is_open & ~is_there, middle + 1, first)
    for acc in _checked(first, low, high, spacing):
        if ((acc >= first) != reached(acc)).any():
            raise RuntimeError("fold_sign: a threshold differs from the chain that it replaces")
    return first.astype(np.int32), flip


def fold_norm(
    norm: BatchNorm, low: Integers, high: Integers, *, unit: float = 1.0, spacing: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """:func:`fold_sign` of one normalisation; arguments, result and errors as there."""
    return fold_sign((normalisation(norm),), low, high, unit=unit, spacing=spacing)


def fold_scale(
    chain: Chain, low: Integers, high: Integers, *, unit: Any, point: int, window: int = 1
) -> Scaling:
    r"""Fold a chain into fixed-point numbers: int * 2^-point.

    Parameters
    ----------
    chain
        Links of C channels with one knee at most.
    low, high, unit
        As for :func:`fold_sign`.
    point
        Binary digits after the point of the result.
    window
        Number of values whose mean is wanted where their sum is given.

    Raises
    ------
    PointTooFine
        If a factor or an offset does not fit.
    ValueError
        If there are two knees, or one behind the mean of a window.
    """
    if n_knees(chain) > (window == 1):
        raise ValueError(f"expected one knee at most, got {n_knees(chain)}")
    one = np.ones(np.broadcast(low, unit).shape)
    slopes, offsets = [unit * one / window], [0.0 * one]
    turn = low.astype(np.int64)
    for link in chain:
        if isinstance(link, Affine):
            slopes = [slope * link.slope for slope in slopes]
            offsets = [offset * link.slope + link.offset for offset in offsets]
        else:
            turn, slopes, offsets = _bent(link, slopes[0], offsets[0], low, high)
    shift, multiplier, bias = _fixed_point(np.stack(slopes), np.stack(offsets), point)
    if len(slopes) == 2:
        multiplier = np.concatenate([multiplier, turn[None]])
    return Scaling(multiplier.astype(np.int32), bias, shift)


def n_knees(chain: Iterable[Link]) -> int:
    """Number of knees in a chain."""
    return sum(isinstance(link, Knee) for link in chain)


def _per_channel(values: Any, n_channels: int) -> Floats:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, np.float64).reshape(-1)
    if not np.isfinite(array).all():
        raise ValueError("expected finite parameters and statistics, got nan or infinity")
    if len(array) not in (1, n_channels):
        raise ValueError(f"expected parameters of {n_channels} channels, got {len(array)}")
    return np.broadcast_to(array, (n_channels,))


def _checked(
    threshold: Integers, low: Integers, high: Integers, spacing: int
) -> Iterable[Integers]:
    """Accumulators at which a threshold is compared with its chain, in rows of (C,)."""
    n = int((high - low).max()) // spacing + 1
    if spacing == 1 and n * len(low) > _MAX_CHECKED:
        near = np.clip(threshold, low, high), np.clip(threshold - 1, low, high)
        yield np.stack([low, *near, high])
        return
    n_rows = max(_CHUNK // len(low), 1)
    for start in range(0, n, n_rows):
        rows = np.arange(start, min(start + n_rows, n))
        yield np.minimum(low + spacing * rows[:, None], high)


def _bent(
    link: Knee, slope: Floats, offset: Floats, low: Integers, high: Integers
) -> tuple[Integers, list[Floats], list[Floats]]:
    """Accumulator of the knee, slopes and offsets above and below it."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.where(slope == 0, 0.0, -offset / slope)
    # Both sides are continuous at the root, so it does not matter to which one it counts.
    turn = np.ceil(np.clip(root, low, high + 1.0)).astype(np.int64)
    turn = np.clip(turn, -_INT32_LIMIT, _INT32_LIMIT - 1)
    positive_above = np.where(slope == 0, offset > 0, slope > 0)
    positive_below = np.where(slope == 0, offset > 0, slope < 0)
    factors = [
        np.where(is_positive, 1.0, link.slope) for is_positive in (positive_above, positive_below)
    ]
    return turn, [slope * factor for factor in factors], [offset * factor for factor in factors]


def _fixed_point(slopes: Floats, offsets: Floats, point: int) -> tuple[int, Integers, Integers]:
    """Find the largest shift at which all factors are int32 and all offsets fit."""
    for shift in range(_MAX_SHIFT, 0, -1):
        multiplier = np.rint(slopes * 2.0 ** (point + shift))
        bias = np.rint(offsets * 2.0 ** (point + shift))
        if np.abs(multiplier).max() < _INT32_LIMIT and np.abs(bias).max() <= _MAX_OFFSET:
            return shift, multiplier.astype(np.int64), bias.astype(np.int64)
    raise PointTooFine(
        f"expected factors below 2^31, got {np.abs(slopes).max() * 2.0**point:.3g} "
        f"with {point} binary digits after the point"
    )
