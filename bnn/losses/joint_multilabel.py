"""JBNN's loss: all labels of a sample in one cross-entropy, plus what is known of their relations.

The "binary" of JBNN means binary classifiers, not binary weights. One shared encoder, binary or
not, feeds C logistic heads, which are the rows of one linear layer's weight.
"""

import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from bnn.losses.cross_entropy import binary_cross_entropy
from bnn.losses.reduction import Normalize, Reduction

Mode = Literal["cosine", "positive", "raw"]


def joint_multilabel(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    pos_weight: Tensor | float | None = None,
    heads: Tensor | None = None,
    penalty: "RelationPenalty | None" = None,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Joint binary cross-entropy of C labels and a penalty that ties related heads together.

    .. math:: L = -\sum_{ij} [y_{ij} \ln \sigma(z_{ij}) + (1 - y_{ij}) \ln(1 - \sigma(z_{ij}))]
              + \lambda_1 R(W) + \tfrac{\lambda_2}{2} \|W\|^2

    Parameters
    ----------
    logits
        Shape (N, C), or (N,) for one label. Heads of two logits each: :func:`two_way_logits`.
    targets
        Shape of ``logits``, in [0, 1]: soft labels are legal.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`. The sum of the formula is "sum"; with "mean", the
        default, the cross-entropy is averaged and the penalty stays what it is.
    pos_weight
        As in :func:`bnn.losses.binary_cross_entropy`.
    heads
        W, shape (C, D): the weight of the layer that made the logits, for ``penalty``.
    penalty
        The terms in W; none by default, and the loss is then binary cross-entropy.
    from_probs
        ``logits`` are probabilities: :func:`bnn.losses.reduction.logits_of`.

    Returns
    -------
    Tensor
        Shape () or, for reduction "none", of ``logits``.

    Raises
    ------
    ValueError
        If one of ``heads`` and ``penalty`` is missing, a penalty meets reduction "none", or a shape
        or value is refused by :func:`bnn.losses.reduction.check`.

    Notes
    -----
    The authors' heads are two-way softmaxes whose log-likelihood is averaged over all 2C outputs,
    which is half of this mean on the difference of the two logits. Their λ_2 covers all parameters;
    leave the encoder's to weight decay. The formula is from memory, its relation term and heads
    agree with the authors' code; the paper's results were not reproduced.

    References
    ----------
    .. [1] He, Xia (2018), Joint binary neural network for multi-label learning with applications to
       emotion classification, arXiv:1802.00891.
    """
    if (heads is None) != (penalty is None):
        given, missing = ("heads", "penalty") if penalty is None else ("penalty", "heads")
        raise ValueError(f"{missing}: expected along with {given}, got None; pass both or neither")
    values = binary_cross_entropy(
        logits,
        targets,
        weight,
        reduction,
        pos_weight=pos_weight,
        mask=mask,
        normalize=normalize,
        from_probs=from_probs,
    )
    if heads is None or penalty is None:
        return values
    if reduction == "none":
        raise ValueError(
            "reduction: expected mean or sum with a penalty, got 'none'; add it to the mean later"
        )
    return values + penalty(heads)


class RelationPenalty:
    r"""What is known of the labels' relations, as a function of the heads' weights.

    .. math:: \lambda_1 R(W) + \tfrac{\lambda_2}{2} \|W\|^2

    Parameters
    ----------
    relations
        Ω, shape (C, C), finite: positive where two labels go together, negative where they exclude
        each other. Only its symmetric part matters. See
        :mod:`bnn.losses.label_relations`.
    mode
        R as in :func:`relation_term`.
    strength
        λ_1, not negative.
    l2
        λ_2, not negative.

    Raises
    ------
    ValueError
        If ``relations`` is not square or finite, a factor is negative, or ``mode`` is unknown.

    Warns
    -----
    UserWarning
        In mode "raw" if the penalty has no lower bound. With zero row sums it has one if and only
        if λ_2 >= 2 λ_1 λ_max(Ω); the authors' 1e-4 for both violates that for their Ω, whose
        largest eigenvalue is 3.41, and only few epochs hide it.
    """

    def __init__(
        self, relations: Tensor, *, mode: Mode = "cosine", strength: float = 1e-4, l2: float = 1e-4
    ) -> None:
        _check_relations(relations, mode)
        for name, value in (("strength", strength), ("l2", l2)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a finite value >= 0, got {value}")
        self.relations = relations
        self.mode: Mode = mode
        self.strength = strength
        self.l2 = l2
        if mode == "raw":
            lowest = float(torch.linalg.eigvalsh(_laplacian(relations.double()))[0])
            # Eigenvalues that are zero are off by a few roundings.
            if l2 + 2 * strength * lowest < -1e-12 * strength:
                warnings.warn(
                    f"penalty: unbounded below, expected l2 >= {-2 * strength * lowest:g} in mode "
                    f"'raw', got {l2:g}; use mode='cosine'",
                    stacklevel=2,
                )

    def __call__(self, heads: Tensor) -> Tensor:
        """Penalty of the weights W, shape (C, D); shape ()."""
        relation = relation_term(heads, self.relations, self.mode)
        return self.strength * relation + self.l2 / 2 * heads.square().sum()


def relation_term(heads: Tensor, relations: Tensor, mode: Mode = "cosine") -> Tensor:
    r"""How far the heads are from their relations, R(W).

    .. math:: R_{raw} = \sum_{jk} \omega_{jk} \tfrac12 \|w_j - w_k\|^2, \qquad
              R_{cosine} = \sum_{jk} \omega_{jk} (1 - \cos(w_j, w_k))

    .. math:: \frac{\partial R_{raw}}{\partial w_j} = 2 \sum_k \omega_{jk} (w_j - w_k)

    "raw" is the paper's. For rows of Ω that sum to 0 it is -tr(Wᵀ Ω W), which a negative ω can
    drive to minus infinity; "cosine" looks at directions only and is bounded; "positive" is "raw"
    without the negative ω, a graph Laplacian, convex and not negative.

    Parameters
    ----------
    heads
        W, shape (C, D), floating. The cosine with a row of zeros is 0.
    relations
        Ω, shape (C, C).
    mode
        "cosine", "positive" or "raw".

    Returns
    -------
    Tensor
        Shape (), dtype of ``heads``.

    Raises
    ------
    ValueError
        If the shapes do not fit, Ω is not finite, or ``mode`` is unknown.
    """
    _check_relations(relations, mode)
    if heads.dim() != 2 or len(heads) != len(relations):
        raise ValueError(
            f"heads: expected shape ({len(relations)}, D), a row per label of the relations, got "
            f"{tuple(heads.shape)}"
        )
    relations = relations.to(heads)
    if mode == "cosine":
        squares = heads.square().sum(dim=1, keepdim=True)
        # The root of 0 would put a NaN into the gradient.
        directions = heads / torch.where(squares == 0, 1.0, squares).sqrt()
        # A head's cosine with itself is no constant in floats, and none at all for zeros.
        others = relations - relations.diagonal().diag()
        return (others * (1 - directions @ directions.T)).sum()
    if mode == "positive":
        relations = relations.clamp(min=0)
    return (heads * (_laplacian(relations) @ heads)).sum()


def two_way_logits(pairs: Tensor) -> Tensor:
    """Logits z = b - a of heads with two logits (a, b) each, b that of the label; shape (..., 2).

    The two-way softmax probability of b is exactly σ(b - a).
    """
    if pairs.dim() < 1 or pairs.shape[-1] != 2:
        raise ValueError(f"pairs: expected shape (..., 2), got {tuple(pairs.shape)}")
    return pairs[..., 1] - pairs[..., 0]


def _laplacian(relations: Tensor) -> Tensor:
    """L with R_raw = tr(Wᵀ L W), shape (C, C)."""
    symmetric = (relations + relations.T) / 2
    return symmetric.sum(dim=1).diag() - symmetric


def _check_relations(relations: Tensor, mode: str) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
    if relations.dim() != 2 or len(relations) != relations.shape[1]:
        raise ValueError(f"relations: expected shape (C, C), got {tuple(relations.shape)}")
    if not bool(torch.isfinite(relations).all()):
        raise ValueError("relations: expected finite values, got NaN or infinite ones")
