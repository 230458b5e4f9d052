r"""Binary cross-entropy whose weight of a positive follows the knee of the F-beta score's law.

Re-derived from the paper's abstract; not a transcription. :math:`1/F_\beta = \alpha/P +
(1-\alpha)/R` with :math:`\alpha = 1/(1+\beta^2)`: a law for precision P and recall R gives one for
F_beta (:mod:`bnn.losses.fbeta_law`); the beta at the knee of ``cdf(score; beta)`` is the weight.
"""

import logging
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from bnn.losses.cross_entropy import binary_cross_entropy
from bnn.losses.fbeta_law import LAWS, f_beta, f_beta_cdf, uniform_f_beta_cdf
from bnn.losses.reduction import Normalize, Reduction

Side = Literal["recall", "precision"]

LARGEST_BETA = 10.0
"""Betas lie in [1 / LARGEST_BETA, LARGEST_BETA]."""
_N_BETAS = 51
"""Points of one side: 101 on both, beta = 1 shared."""
_LEAST_KNEE = 0.01
"""Height over the chord, of a curve in the unit square, below which there is no knee."""
_FLAT = 1e-6
"""Extent, relative to the largest value, below which a curve is constant up to rounding."""

_logger = logging.getLogger(__name__)


def fbeta_bce(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    beta: float | Tensor = 1.0,
    weight_power: int = 2,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Binary cross-entropy in which a missed positive costs a power of beta.

    .. math:: \ell = -\beta^q y \log \sigma(z) - (1 - y) \log(1 - \sigma(z)), \qquad
              \frac{\partial \ell}{\partial z} = \sigma(z) (1 - y + \beta^q y) - \beta^q y

    Parameters
    ----------
    logits
        z, shape (N,) or (N, C); C columns are C binary problems.
    targets
        y, shape of ``logits``, values in [0, 1].
    beta
        A number, or shape (C,), usually :attr:`KneeBeta.beta`. Above 1 it is for recall, below 1
        for precision; 1 is the plain loss.
    weight_power
        q: 2, because F_beta counts a false negative as beta² false positives, or 1, beta itself.
        With rare positives and a tenth of the labels wrong, 2 can call everything positive.
    weight, mask, reduction, normalize
        As :func:`~bnn.losses.reduction.reduce`.
    from_probs
        Whether ``logits`` are probabilities.

    Returns
    -------
    Tensor
        Shape () or, for "none", of ``logits``.

    Raises
    ------
    ValueError
        If beta is not positive and finite or ``weight_power`` is not 1 or 2; and as
        :func:`~bnn.losses.cross_entropy.binary_cross_entropy`.

    Notes
    -----
    Re-derived from the abstract of [1]_; the improvement it reports was not reproduced.

    References
    ----------
    .. [1] Ramdhani (2022), Reformulating van Rijsbergen's F_beta metric for weighted binary
       cross-entropy, arXiv:2210.16458.
    """
    if weight_power not in (1, 2):
        raise ValueError(f"weight_power: expected 1 or 2, got {weight_power}")
    betas = torch.as_tensor(beta)
    if not bool((torch.isfinite(betas) & (betas > 0)).all()):
        raise ValueError(f"beta: expected finite values > 0, got {betas.tolist()}")
    return binary_cross_entropy(
        logits,
        targets,
        weight,
        reduction,
        pos_weight=betas**weight_power,
        mask=mask,
        normalize=normalize,
        from_probs=from_probs,
    )


class KneeBeta:
    r"""The beta of each label, chosen anew after every epoch from precision and recall.

    .. math:: \hat k \leftarrow d \hat k + (1 - d) F_1, \qquad
              \beta = \operatorname{knee}_{\log \beta} G(\hat k; \beta)

    Parameters
    ----------
    n_labels
        C, independent labels.
    side
        Search 1 to 10 ("recall") or 1/10 to 1 ("precision"): with equal laws of precision and
        recall, G does not tell beta from 1 / beta.
    law
        Key of :data:`~bnn.losses.fbeta_law.LAWS`, fitted in every update to the batches' values.
    decay
        d in [0, 1), of the running F_1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    G over log beta bends twice, and the larger bend is taken: for uniform laws beta on the recall
    side is 4 to 4.8 for scores up to 0.5 and 1.7 to 2.9 from 0.7 on.
    """

    def __init__(
        self,
        n_labels: int = 1,
        *,
        side: Side = "recall",
        law: str = "uniform",
        decay: float = 0.9,
    ) -> None:
        if n_labels < 1:
            raise ValueError(f"n_labels: expected 1 or more, got {n_labels}")
        if side not in get_args(Side):
            raise ValueError(f"side: expected one of {', '.join(get_args(Side))}, got {side!r}")
        if law not in LAWS:
            raise ValueError(f"law: expected one of {', '.join(sorted(LAWS))}, got {law!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {decay}")
        self.side = side
        self.law = law
        self.decay = decay
        self.score: Tensor | None = None
        """Running F_1, shape (C,), float64; None before the first update."""
        self.beta = torch.ones(n_labels, dtype=torch.float64)
        """Shape (C,); 1 before the first update and wherever there is no knee."""

    @torch.no_grad()
    def update(self, precision: Tensor, recall: Tensor) -> Tensor:
        """Take in an epoch's validation and return the new betas, shape (C,).

        Parameters
        ----------
        precision, recall
            Shape (n_batches, C), values in [0, 1], of the batches of the validation set.

        Raises
        ------
        ValueError
            If a shape or a value does not fit.
        """
        n_labels = len(self.beta)
        for name, values in (("precision", precision), ("recall", recall)):
            if values.shape != precision.shape or values.dim() != 2 or values.size(1) != n_labels:
                raise ValueError(
                    f"{name}: expected shape (n_batches, {n_labels}), got {tuple(values.shape)}"
                )
            if not bool(((values >= 0) & (values <= 1)).all()) or len(values) == 0:
                raise ValueError(f"{name}: expected one or more values in [0, 1]; drop NaN batches")
        precision, recall = precision.double(), recall.double()
        newest = f_beta(precision.mean(dim=0), recall.mean(dim=0), 1.0)
        old = newest if self.score is None else self.score
        self.score = torch.lerp(newest, old, self.decay)
        columns = zip(self.score.tolist(), precision.unbind(1), recall.unbind(1), strict=True)
        betas = [knee_beta(self._cdf(p, r), score, side=self.side) for score, p, r in columns]
        self.beta = torch.tensor(betas, dtype=torch.float64)
        _logger.info("beta of the labels at the knee: %s", self.beta.tolist())
        return self.beta

    def _cdf(self, precision: Tensor, recall: Tensor) -> Callable[[float, Tensor], Tensor]:
        if self.law == "uniform":
            return uniform_f_beta_cdf
        laws = LAWS[self.law](precision), LAWS[self.law](recall)
        return lambda score, beta: f_beta_cdf(score, beta, *laws)


def knee_beta(
    cdf: Callable[[float, Tensor], Tensor], score: float, *, side: Side = "recall"
) -> float:
    """Beta at the knee of ``cdf(score, beta)`` over log beta on one side of 1; 1 if there is none.

    Parameters
    ----------
    cdf
        Probability that F_beta is at most a score, at betas of shape (n,).
    score
        In [0, 1].
    side
        "recall" for betas of 1 to 10, "precision" for 1/10 to 1.
    """
    end = math.log(LARGEST_BETA)
    first, last = (0.0, end) if side == "recall" else (-end, 0.0)
    logs = torch.linspace(first, last, _N_BETAS, dtype=torch.float64)
    at = knee(logs, cdf(score, logs.exp()))
    return 1.0 if at is None else math.exp(at)


def knee(x: Tensor, y: Tensor) -> float | None:
    """Where a monotone curve bends most: the largest distance from its chord (Kneedle).

    Both axes are scaled to [0, 1] and the distance is averaged over three neighbours. A rising or
    falling, concave or convex curve is turned so that it bends upwards; of a curve that does both,
    the larger bend counts.

    Parameters
    ----------
    x, y
        Shape (n,), ``x`` increasing.

    Returns
    -------
    float | None
        The ``x``, or None if the curve stays within 0.01 of its chord.
    """
    extent = y.max() - y.min()
    if not bool(extent > _FLAT * y.abs().max()):
        return None
    chord = (x - x[0]) / (x[-1] - x[0])
    if y[-1] < y[0]:
        chord = 1 - chord
    height = (y - y.min()) / extent - chord
    smooth = height.clone()
    smooth[1:-1] = (height[:-2] + height[1:-1] + height[2:]) / 3
    if -smooth.min() > smooth.max():
        smooth = -smooth
    place = int(smooth.argmax())
    return float(x[place]) if smooth[place] >= _LEAST_KNEE else None
