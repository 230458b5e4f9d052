"""Joint loss of Direct Binary Embedding: labels that compete, and labels that stand alone.

The structure is the paper's; the constants are from memory. The embedding itself is
:mod:`bnn.losses.direct_binary_embedding`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn.losses.reduction import Normalize, Reduction, check, logits_of, reduce, softplus

_LARGEST_RHO = 10.0


def rare_positive_weight(targets: Tensor, *, mask: Tensor | None = None) -> float:
    r"""Weight of a positive: :math:`\rho = N_- / N_+`, clipped to [1, 10].

    Parameters
    ----------
    targets
        Values in {0, 1}, any shape.
    mask
        1 where a target counts; broadcasts to ``targets``.
    """
    counted = torch.ones_like(targets) if mask is None else mask.expand(targets.shape)
    n_positive = float((targets * counted).sum())
    n_negative = float(counted.sum()) - n_positive
    return min(max(n_negative / max(n_positive, 1.0), 1.0), _LARGEST_RHO)


def dbe_joint(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    nu: float = 1.0,
    rho: float | Tensor | None = None,
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Softmax over the labels that may be shared, plus a weighted BCE per label.

    .. math:: L = -\frac1N \sum_i \sum_j \Bigl[ \frac{y_{ij}}{|P_i|} \log \text{softmax}(z_i)_j
              + \nu \bigl( \rho y_{ij} \log \sigma(z_{ij})
              + (1 - y_{ij}) \log(1 - \sigma(z_{ij})) \bigr) \Bigr]

    with P_i the positive labels of sample i; a sample without any has no softmax term. In z_ij the
    gradient is softmax(z_i)_j - y_ij / |P_i| plus nu times that of the weighted BCE, over N.

    Parameters
    ----------
    logits
        z, shape (N, C) for C labels, or (N,) for a single one.
    targets
        y, shape of ``logits``, values in {0, 1}.
    nu
        Share of the BCE; 0 with one positive per sample is the usual cross-entropy.
    rho
        Weight of a positive in the BCE, a number or shape (C,). By default
        :func:`rare_positive_weight` of these targets: for batches give that of the training set.
    weight, mask, normalize
        As :func:`~bnn.losses.reduction.reduce`. A masked label counts as if it did not exist, in
        the softmax too.
    reduction
        "mean" sums over labels and divides by the samples with a label that counts (for
        ``normalize="weights"`` by their summed mean weights); "sum"; or "none" for the elements.
    from_probs
        Whether ``logits`` are probabilities, each of one label.

    Returns
    -------
    Tensor
        Shape () or, for "none", of ``logits``.

    Raises
    ------
    ValueError
        If the targets are not in {0, 1}, the logits have other axes, or nu or rho is negative or
        not finite; and as :func:`~bnn.losses.reduction.check`.

    Notes
    -----
    The structure of [1]_; nu = 1 and the clip of rho at 10 are from memory.

    References
    ----------
    .. [1] Liu, Rahimpour, Taalimi, Qi (2017), End-to-end binary representation learning via direct
       binary embedding, arXiv:1703.04960.
    """
    z = logits_of(logits, from_probs)
    y = check(z, targets)
    if z.dim() not in (1, 2):
        raise ValueError(f"logits: expected shape (N,) or (N, C), got {tuple(z.shape)}; flatten")
    counted = reduce(torch.ones_like(z), mask=mask, reduction="none")
    rho = rare_positive_weight(y, mask=counted) if rho is None else rho
    positive_weight = torch.as_tensor(rho, dtype=z.dtype, device=z.device)
    for name, value in (("nu", torch.as_tensor(nu)), ("rho", positive_weight)):
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(f"{name}: expected finite values >= 0, got {value.tolist()}")
    bce = positive_weight * y * softplus(-z) + (1 - y) * softplus(z)
    values = _shared_softmax(z, y, counted) + nu * bce
    if reduction != "mean":
        return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)
    total = reduce(values, weight=weight, mask=mask, reduction="sum", normalize=normalize)
    share = counted
    if normalize == "weights":
        share = reduce(torch.ones_like(z), weight=weight, mask=mask, reduction="none")
    n_labels = _rows(counted).sum(dim=1).clamp(min=1)
    n_samples = (_rows(share).sum(dim=1) / n_labels).sum()
    return total / torch.where(n_samples > 0, n_samples, torch.ones_like(n_samples))


def _rows(z: Tensor) -> Tensor:
    return z if z.dim() == 2 else z.unsqueeze(1)


def _shared_softmax(z: Tensor, y: Tensor, counted: Tensor) -> Tensor:
    """Elements of the softmax term; the finite floor keeps a row without labels from being NaN."""
    visible = z.masked_fill(counted == 0, torch.finfo(z.dtype).min)
    positives = _rows(y * counted)
    n_positives = positives.sum(dim=1, keepdim=True).clamp(min=1)
    return (-positives / n_positives * F.log_softmax(_rows(visible), dim=1)).reshape_as(z)
