r"""The F-beta score as a random variable: its distribution, given those of precision and recall.

.. math:: F_\beta = \frac{(1 + \beta^2) P R}{\beta^2 P + R}, \qquad
          \frac{1}{F_\beta} = \frac{\alpha}{P} + \frac{1 - \alpha}{R}, \qquad
          \alpha = \frac{1}{1 + \beta^2}

Re-derived from the abstract of Ramdhani (2022), arXiv:2210.16458; not a transcription. One more law
= one class with ``density``, ``cumulative`` and ``fit``, and one line in ``LAWS``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_N_NODES = 200
"""Of the Gauss-Legendre rule."""
_NARROWEST = 0.03
"""Least standard deviation that is fitted, about ten nodes wide."""
_EDGE = 1e-3
"""Fits see values no nearer to 0 and 1 than this."""


class Law(Protocol):
    """Distribution on (0, 1) of precision or recall."""

    def density(self, p: Tensor) -> Tensor:
        """Density at ``p``, any shape."""
        ...

    def cumulative(self, p: Tensor) -> Tensor:
        """Probability of at most ``p``, any shape, values in (0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every value in (0, 1) alike."""

    def density(self, p: Tensor) -> Tensor:
        """As :meth:`Law.density`."""
        return torch.ones_like(p)

    def cumulative(self, p: Tensor) -> Tensor:
        """As :meth:`Law.cumulative`."""
        return p

    @classmethod
    def fit(cls, values: Tensor) -> "Uniform":
        """Ignore the values."""
        return cls()


@dataclass(frozen=True, slots=True)
class TruncatedGaussian:
    """Normal distribution with ``mean`` and ``deviation``, cut off outside (0, 1)."""

    mean: float
    deviation: float

    def density(self, p: Tensor) -> Tensor:
        """As :meth:`Law.density`."""
        u = (p - self.mean) / self.deviation
        scale = self.deviation * math.sqrt(2 * math.pi) * self._mass()
        return torch.exp(-u.square() / 2) / scale

    def cumulative(self, p: Tensor) -> Tensor:
        """As :meth:`Law.cumulative`."""
        below: Tensor = torch.special.ndtr((p - self.mean) / self.deviation)
        return (below - self._normal(0.0)) / self._mass()

    @classmethod
    def fit(cls, values: Tensor) -> "TruncatedGaussian":
        """Take mean and deviation of the values, shape (n,), as if nothing were cut off."""
        return cls(float(values.mean()), max(float(values.std(correction=0)), _NARROWEST))

    def _mass(self) -> float:
        return self._normal(1.0) - self._normal(0.0)

    def _normal(self, p: float) -> float:
        return math.erfc((self.mean - p) / (self.deviation * math.sqrt(2))) / 2


@dataclass(frozen=True, slots=True)
class InverseExponential:
    """Of p = 1 / (1 + x) with x exponential, of rate ``rate``: 1 / p - 1 is exponential."""

    rate: float

    def density(self, p: Tensor) -> Tensor:
        """As :meth:`Law.density`."""
        return self.rate / p.square() * self.cumulative(p)

    def cumulative(self, p: Tensor) -> Tensor:
        """As :meth:`Law.cumulative`."""
        return torch.exp(-self.rate * (1 / p - 1))

    @classmethod
    def fit(cls, values: Tensor) -> "InverseExponential":
        """Take the rate of greatest likelihood for the values, shape (n,)."""
        return cls(1 / float((1 / values.clamp(_EDGE, 1 - _EDGE) - 1).mean()))


def f_beta(precision: Tensor, recall: Tensor, beta: float) -> Tensor:
    """F_beta of precision and recall, of any equal shapes; 0 where both are 0, for beta >= 0."""
    square = beta**2
    bottom = square * precision + recall
    top = (1 + square) * precision * recall
    return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1), 0)


def uniform_f_beta_cdf(score: float, beta: Tensor) -> Tensor:
    r"""Probability that F_beta is at most ``score``, for independent uniform P and R.

    .. math:: G = p_0 + (1-\alpha) k \Bigl[ 1 - p_0 +
              \alpha k \log \frac{1 - \alpha k}{p_0 - \alpha k} \Bigr], \qquad
              p_0 = \frac{\alpha k}{1 - k (1 - \alpha)}

    Parameters
    ----------
    score
        k in [0, 1].
    beta
        Any shape, positive.

    Returns
    -------
    Tensor
        Shape of ``beta``, float64; the same at beta and 1 / beta.
    """
    if not 0 < score < 1:
        return torch.full_like(beta, _limit(score), dtype=torch.float64)
    alpha = 1 / (1 + beta.double().square())
    pole = alpha * score
    start = pole / (1 - score * (1 - alpha))
    # start - pole = pole k (1 - alpha) / (1 - k (1 - alpha)), without the cancellation.
    logarithm = torch.log((1 - pole) / (start * score * (1 - alpha)))
    return start + (1 - alpha) * score * (1 - start + pole * logarithm)


def f_beta_cdf(score: float, beta: Tensor, precision: Law, recall: Law) -> Tensor:
    r"""Probability that F_beta is at most ``score``, for independent P and R of any law.

    .. math:: G = F_P(p_0) + \int_{p_0}^1 f_P(p) \, F_R\Bigl(
              \frac{1 - \alpha}{1/k - \alpha/p} \Bigr) dp

    by a Gauss-Legendre rule of 200 points; p_0 and the other arguments as
    :func:`uniform_f_beta_cdf`.
    """
    if not 0 < score < 1:
        return torch.full_like(beta, _limit(score), dtype=torch.float64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(_N_NODES))
    alpha = 1 / (1 + beta.double().square()).unsqueeze(-1)
    start = alpha * score / (1 - score * (1 - alpha))
    half = (1 - start) / 2
    p = start + half * (nodes + 1)
    r = ((1 - alpha) / (1 / score - alpha / p)).clamp(max=1)
    integral = (half * weights * precision.density(p) * recall.cumulative(r)).sum(dim=-1)
    return precision.cumulative(start.squeeze(-1)) + integral


def _limit(score: float) -> float:
    if score not in (0, 1):
        raise ValueError(f"score: expected 0 <= score <= 1, got {score}")
    return float(score)


LAWS: dict[str, Callable[[Tensor], Law]] = {
    "gaussian": TruncatedGaussian.fit,
    "inverse_exponential": InverseExponential.fit,
    "uniform": Uniform.fit,
}
