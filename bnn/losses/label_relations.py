"""How labels relate to each other, as a matrix: known beforehand, or from the training labels."""

from typing import Literal, get_args

import torch
from torch import Tensor

Form = Literal["correlation", "centred", "sign"]

# Each row sums to 0; the order of the labels is that of the authors' data set.
_EMOTIONS = (
    (1.0, -0.5, 0.5, -1.0, 0.0, -0.5, 0.0, 0.5),
    (-0.5, 1.0, -1.0, 0.5, -0.5, 0.0, 0.5, 0.0),
    (0.5, -1.0, 1.0, -0.5, 0.5, 0.0, -0.5, 0.0),
    (-1.0, 0.5, -0.5, 1.0, 0.0, 0.5, 0.0, -0.5),
    (0.0, -0.5, 0.5, 0.0, 1.0, 0.5, -1.0, -0.5),
    (-0.5, 0.0, 0.0, 0.5, 0.5, 1.0, -0.5, -1.0),
    (0.0, 0.5, -0.5, 0.0, -1.0, -0.5, 1.0, 0.5),
    (0.5, 0.0, 0.0, -0.5, -0.5, -1.0, 0.5, 1.0),
)


def emotion_relations() -> Tensor:
    """Relations of eight emotions on Plutchik's wheel, shape (8, 8), float32.

    1 for an emotion and itself, 0.5 for neighbours, 0 at 90°, -0.5 at 135°, -1 for opposites.

    References
    ----------
    .. [1] He, Xia (2018), Joint binary neural network for multi-label learning with applications to
       emotion classification, arXiv:1802.00891.
    """
    return torch.tensor(_EMOTIONS)


def correlation_relations(targets: Tensor, *, form: Form = "correlation") -> Tensor:
    """Relations of labels by how they occur together in the training set.

    Parameters
    ----------
    targets
        Shape (N, C), N >= 2, values in [0, 1].
    form
        Pearson's "correlation"; the same "centred", each row less its mean; or its "sign", +1 where
        it is positive and -1 elsewhere, as in a variant of the paper's.

    Returns
    -------
    Tensor
        Shape (C, C), float64. A label that never varies is uncorrelated to every other.

    Raises
    ------
    ValueError
        If the shape or a value is not as above, or ``form`` is unknown.

    References
    ----------
    .. [1] He, Xia (2018), Joint binary neural network for multi-label learning with applications to
       emotion classification, arXiv:1802.00891.
    """
    if form not in get_args(Form):
        raise ValueError(f"form: expected one of {', '.join(get_args(Form))}, got {form!r}")
    if targets.dim() != 2 or len(targets) < 2:
        raise ValueError(f"targets: expected shape (N >= 2, C), got {tuple(targets.shape)}")
    if not bool(((targets >= 0) & (targets <= 1)).all()):
        raise ValueError(
            "targets: expected values in [0, 1], got others; map the labels to 0 and 1"
        )
    labels = targets.double()
    deviations = labels - labels.mean(dim=0)
    norms = deviations.norm(dim=0)
    # The mean of a constant label is off by a rounding, and so are its deviations.
    varies = labels.amax(dim=0) > labels.amin(dim=0)
    deviations = torch.where(varies, deviations / torch.where(varies, norms, 1.0), 0.0)
    correlation = (deviations.T @ deviations).clamp(-1, 1).fill_diagonal_(1.0)
    if form == "centred":
        return correlation - correlation.mean(dim=1, keepdim=True)
    if form == "sign":
        return torch.where(correlation > 0, 1.0, -1.0).to(correlation)
    return correlation
