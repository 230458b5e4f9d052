"""Binary cross-entropy for one or many labels, and the weights that counter imbalance."""

import math
from typing import Literal

import torch
from torch import Tensor

from bnn.losses.reduction import Normalize, Reduction, check, logits_of, reduce, softplus

LARGEST_POSITIVE_WEIGHT = 100.0
"""N_neg / N_pos is clipped here: a label with no positive would weigh infinitely."""


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    pos_weight: Tensor | float | None = None,
    smoothing: float = 0.0,
    over_labels: Literal["mean", "sum"] = "mean",
    mask: Tensor | None = None,
    normalize: Normalize = "elements",
    from_probs: bool = False,
) -> Tensor:
    r"""Cross-entropy of C independent binary labels, in nats.

    .. math:: \ell(z, y) = -p\,y \log \sigma(z) - (1 - y) \log(1 - \sigma(z)), \qquad
              \frac{d\ell}{dz} = \sigma(z) (1 - y + p y) - p y

    Parameters
    ----------
    logits
        Shape (N,) or (N, C).
    targets
        Same shape, in [0, 1]: soft labels are legal.
    weight, reduction, mask, normalize
        As in :func:`bnn.losses.reduction.reduce`.
    pos_weight
        p, finite and not negative; a number or one per label, shape (C,). It moves the decision of
        the Bayes optimum: see :func:`unweighted_logits`.
    smoothing
        epsilon of :func:`smooth_labels`.
    over_labels
        With shape (N, C): "mean" averages over both axes; "sum" adds up a sample's labels first,
        and "mean" is then over samples with a label that counts.
    from_probs
        ``logits`` are probabilities: :func:`bnn.losses.reduction.logits_of`.

    Returns
    -------
    Tensor
        Shape (), or with "none" that of ``logits``, or (N,) if labels are added up.

    Raises
    ------
    ValueError
        If shapes differ, a value is out of range or not finite, or a choice is unknown.

    Examples
    --------
    >>> binary_cross_entropy(torch.zeros(1), torch.ones(1))
    tensor(0.6931)
    """
    logits = logits_of(logits, from_probs)
    targets = smooth_labels(check(logits, targets, soft=True), smoothing)
    positive = targets if pos_weight is None else targets * _checked(pos_weight, logits)
    values = positive * softplus(-logits) + (1 - targets) * softplus(logits)
    if over_labels == "mean":
        return reduce(values, weight=weight, mask=mask, reduction=reduction, normalize=normalize)
    if over_labels != "sum" or normalize != "elements" or values.dim() != 2:
        raise ValueError(
            f"over_labels: expected mean, or sum with shape (N, C) and normalize=elements, got "
            f"{over_labels!r}, {tuple(values.shape)} and {normalize!r}"
        )
    sums = reduce(values, weight=weight, mask=mask, reduction="none").sum(1)
    counts = None if mask is None else (mask.expand(values.shape) != 0).any(1)
    return reduce(sums, mask=counts, reduction=reduction)


def smooth_labels(targets: Tensor, smoothing: float) -> Tensor:
    r"""Labels pulled towards one half: :math:`y \leftarrow y (1 - \epsilon) + \epsilon / 2`.

    Raises
    ------
    ValueError
        If ``smoothing`` is not in [0, 1].
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: expected 0 <= smoothing <= 1, got {smoothing}")
    return targets if smoothing == 0 else targets * (1 - smoothing) + smoothing / 2


def unweighted_logits(logits: Tensor, pos_weight: Tensor | float) -> Tensor:
    r"""Calibrated logits of a model trained with ``pos_weight`` p: :math:`z - \ln p`.

    The weighted optimum is :math:`\sigma(z^*) = p \pi / (p \pi + 1 - \pi)` for true probability
    :math:`\pi`.
    """
    shift = torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
    if not bool((torch.isfinite(shift) & (shift > 0)).all()):
        raise ValueError(f"pos_weight: expected finite values > 0, got {pos_weight}")
    return logits - torch.log(shift)


def positive_weights(targets: Tensor) -> Tensor:
    """``pos_weight`` that balances each label: N_neg / N_pos, clipped to [1, 100].

    Parameters
    ----------
    targets
        Shape (N,) or (N, C), in {0, 1}.

    Returns
    -------
    Tensor
        Shape () or (C,), float32.
    """
    targets = check(torch.zeros(targets.shape, device=targets.device), targets)
    n_positive = targets.sum(0)
    n_negative = targets.shape[0] - n_positive
    return (n_negative / n_positive.clamp(min=0.5)).clamp(1.0, LARGEST_POSITIVE_WEIGHT)


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    r"""Class weights :math:`w_c = N / (C N_c)`.

    Parameters
    ----------
    counts
        Samples per class, shape (C,), each at least 1.

    Returns
    -------
    Tensor
        Shape (C,), float64; the mean weight of a sample is 1.
    """
    counts = _checked_counts(counts)
    return counts.sum() / (counts.numel() * counts)


def effective_numbers(counts: Tensor, beta: float = 0.999) -> Tensor:
    r"""Effective number of samples: :math:`E_n = (1 - \beta^n) / (1 - \beta)`.

    Parameters
    ----------
    counts
        Samples per class, shape (C,), each at least 1.
    beta
        In [0, 1); 0 counts every class once, towards 1 it counts the samples.

    Returns
    -------
    Tensor
        Shape (C,), float64.

    Notes
    -----
    Formula from memory of [1]_, not checked against its text.

    References
    ----------
    .. [1] Cui et al. (2019), Class-balanced loss based on effective number of samples,
       arXiv:1901.05555.
    """
    if not 0 <= beta < 1:
        raise ValueError(
            f"beta: expected 0 <= beta < 1, got {beta}; the limit 1 is inverse_frequency_weights"
        )
    counts = _checked_counts(counts)
    log_beta = math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(counts * log_beta) / (1 - beta)


def effective_number_weights(counts: Tensor, beta: float = 0.999) -> Tensor:
    r"""Class weights :math:`w_c \propto 1 / E_{n_c}` with :math:`\sum_c w_c = C`.

    Parameters, errors and reference are those of :func:`effective_numbers`; shape (C,), float64.
    """
    inverse = 1 / effective_numbers(counts, beta)
    return inverse * (inverse.numel() / inverse.sum())


def label_weights(targets: Tensor, class_weights: Tensor) -> Tensor:
    """Element weights for binary labels from the weights of "off" and "on".

    Parameters
    ----------
    targets
        Shape (N,) or (N, C), in {0, 1}.
    class_weights
        Shape (2,), or (C, 2) with a pair per label: weight of 0, weight of 1.

    Returns
    -------
    Tensor
        Shape of ``targets``, dtype of ``class_weights``.
    """
    if class_weights.shape not in {(2,), (*targets.shape[1:], 2)}:
        raise ValueError(
            f"class_weights: expected shape (2,) or (C, 2) for targets {tuple(targets.shape)}, got "
            f"{tuple(class_weights.shape)}"
        )
    return torch.where(targets == 1, class_weights[..., 1], class_weights[..., 0])


def _checked(pos_weight: Tensor | float, logits: Tensor) -> Tensor:
    factor = torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
    if factor.dim() > 1 or (factor.dim() == 1 and factor.numel() not in {1, logits.shape[-1]}):
        raise ValueError(
            f"pos_weight: expected a number or shape (C,) for logits {tuple(logits.shape)}, got "
            f"{tuple(factor.shape)}; weights of samples go into weight"
        )
    if not bool((torch.isfinite(factor) & (factor >= 0)).all()):
        raise ValueError(f"pos_weight: expected finite values >= 0, got {pos_weight}")
    return factor


def _checked_counts(counts: Tensor) -> Tensor:
    if counts.dim() != 1 or counts.numel() == 0 or not bool((counts >= 1).all()):
        raise ValueError(
            f"counts: expected shape (C,), every class at least once, got {counts.tolist()}; leave "
            "out classes without samples"
        )
    return counts.double()
