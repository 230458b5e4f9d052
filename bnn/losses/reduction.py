"""What all losses share: checked inputs, logits, weights, masks, and the reduction to a number.

Logits z are real, targets y are in {0, 1}, both of one shape, (N,) or (N, C); C columns are C
binary problems. A loss computes its value per element and hands it to :func:`reduce`.
"""

import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
Normalize = Literal["elements", "weights"]

PROBABILITY_EPS = 1e-7
"""Probabilities are clamped to [eps, 1 - eps] before they become logits."""
_SUSPICIOUS = 16
"""From this many different values in [0, 1] on, logits look like probabilities."""
_SQUASHED = ("SigmoidBackward0", "SoftmaxBackward0")


def reduce(
    values: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    normalize: Normalize = "elements",
) -> Tensor:
    r"""Weighted and masked loss values, as they are, summed or averaged.

    .. math:: L = \frac{1}{D} \sum_i m_i w_i \ell_i, \qquad
              D = \max(\sum_i m_i, 1) \text{ or } \sum_i m_i w_i

    Parameters
    ----------
    values
        The loss per element, any shape.
    weight
        Finite and not negative; broadcasts to ``values``: (C,) weighs columns, (N, 1) samples.
    mask
        1 where an element counts, 0 where it is ignored; broadcasts to ``values``. An ignored
        element adds nothing, whatever its value.
    reduction
        "mean", "sum", or "none" for the elements after weights and mask.
    normalize
        What "mean" divides by: the number of "elements" that count, as torch does, or their summed
        "weights". Without a single element, or with a sum of 0, the mean is 0.

    Returns
    -------
    Tensor
        Shape () or, for "none", of ``values``; dtype of ``values``.

    Raises
    ------
    ValueError
        If a shape does not broadcast, a weight is negative or not finite, a mask is not 0 or 1, or
        a choice is unknown.
    """
    _check_choice("reduction", reduction, get_args(Reduction))
    _check_choice("normalize", normalize, get_args(Normalize))
    if weight is not None:
        weight = _expanded("weight", weight, values)
        if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
            raise ValueError(
                f"weight: expected finite values >= 0, got {_span(weight)}; drop samples by mask"
            )
        values = values * weight
    if mask is not None:
        mask = _expanded("mask", mask, values)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"mask: expected values in {{0, 1}}, got {_span(mask)}; see weight")
        # A product would keep the NaN of an element that does not count.
        values = torch.where(mask == 1, values, torch.zeros_like(values))
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if normalize == "elements" or weight is None:
        count = values.new_tensor(values.numel()) if mask is None else mask.sum()
        return values.sum() / count.clamp(min=1)
    total = weight.sum() if mask is None else (weight * mask).sum()
    return values.sum() / torch.where(total > 0, total, torch.ones_like(total))


def check(logits: Tensor, targets: Tensor, *, soft: bool = False) -> Tensor:
    """Refuse logits and targets that no loss can mean, and return the targets as floats.

    Parameters
    ----------
    logits
        Any shape, floating, finite.
    targets
        Shape of ``logits``, any dtype, values in {0, 1}.
    soft
        Allow targets anywhere in [0, 1].

    Returns
    -------
    Tensor
        The targets in the dtype of ``logits``.

    Raises
    ------
    TypeError
        If one is not a tensor, or the logits are not floating.
    ValueError
        If the shapes differ, a logit is NaN or infinite, or a target is out of range.
    """
    for name, value in (("logits", logits), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"logits: expected a floating dtype, got {logits.dtype}; use .float()")
    if logits.shape != targets.shape:
        raise ValueError(
            f"targets: expected the shape of the logits {tuple(logits.shape)}, got "
            f"{tuple(targets.shape)}; reshape, or one-hot the class numbers"
        )
    if not bool(torch.isfinite(logits).all()):
        n_wrong = int((~torch.isfinite(logits)).sum())
        raise ValueError(
            f"logits: expected finite values, got {n_wrong} NaN or infinite of {logits.numel()}; "
            "look at the learning rate and at the layer before the loss"
        )
    within = (targets >= 0) & (targets <= 1) if soft else (targets == 0) | (targets == 1)
    if not bool(within.all()):
        expected = "[0, 1]" if soft else "{0, 1}"
        raise ValueError(
            f"targets: expected values in {expected}, got {_span(targets)}; {_way_out(targets)}"
        )
    return targets.to(logits.dtype)


def logits_of(scores: Tensor, from_probs: bool) -> Tensor:
    r"""Logits from what a loss was given: logits, or probabilities if the caller says so.

    .. math:: z = \log p - \log(1 - p), \qquad p \leftarrow \operatorname{clip}(p, 10^{-7},
              1 - 10^{-7})

    Half precision is raised to float32, for the loss and for the clamp.

    Parameters
    ----------
    scores
        Any shape, floating.
    from_probs
        Whether ``scores`` are probabilities.

    Returns
    -------
    Tensor
        Shape of ``scores``; the scores themselves if they are logits of at least 32 bits.

    Raises
    ------
    ValueError
        If probabilities lie outside [0, 1], or logits come right out of a sigmoid or softmax.

    Warns
    -----
    UserWarning
        If 16 or more logits, not all equal, all lie in [0, 1].
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        return scores  # ``check`` names what is wrong with it
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if scores.numel() == 0:
        return scores
    lowest, highest = (float(value) for value in torch.aminmax(scores.detach()))
    is_within = lowest >= 0 and highest <= 1
    if from_probs:
        if not is_within:
            raise ValueError(
                f"scores: expected probabilities in [0, 1] (from_probs=True), got {lowest:g} to "
                f"{highest:g}; pass logits with from_probs=False"
            )
        clamped = scores.clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS)
        return torch.log(clamped) - torch.log1p(-clamped)
    if scores.grad_fn is not None and scores.grad_fn.name() in _SQUASHED:
        raise ValueError(
            f"logits: expected values before the sigmoid, got the result of "
            f"{scores.grad_fn.name()}; drop it, or pass from_probs=True"
        )
    if is_within and lowest < highest and scores.numel() >= _SUSPICIOUS:
        warnings.warn(
            f"logits: all {scores.numel()} values lie in [0, 1], like probabilities; if they are, "
            "pass from_probs=True",
            stacklevel=3,
        )
    return scores


def softplus(u: Tensor) -> Tensor:
    """``max(u, 0) + log1p(exp(-|u|))``; ``torch``'s own is cut off at 20, which float64 sees."""
    return -torch.nn.functional.logsigmoid(-u)


def signs_of(targets: Tensor) -> Tensor:
    """Labels of margin losses: t = 2y - 1, so {0, 1} becomes {-1, +1}; soft labels lie between."""
    return 2 * targets - 1


def check_one_hot(logits: Tensor, targets: Tensor) -> Tensor:
    """As :func:`check`, for one class per sample: shape (N, C), C >= 2, one 1 per row."""
    targets = check(logits, targets)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits: expected shape (N, C >= 2), got {tuple(logits.shape)}")
    if not bool((targets.sum(1) == 1).all()):
        raise ValueError(
            f"targets: expected one 1 per row, got {_span(targets.sum(1))}; a sample with several "
            "labels needs a multi-label loss"
        )
    return targets


def _expanded(name: str, factor: Tensor, values: Tensor) -> Tensor:
    try:
        return factor.to(values).expand(values.shape)
    except RuntimeError:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to {tuple(values.shape)}, got "
            f"{tuple(factor.shape)}; one number per sample is (N, 1), per column (C,)"
        ) from None


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _span(values: Tensor) -> str:
    return f"{float(values.min()):g} to {float(values.max()):g}"


def _way_out(targets: Tensor) -> str:
    lowest, highest = float(targets.min()), float(targets.max())
    if lowest == -1 and highest <= 1:
        return "turn -1 and +1 into 0 and 1 by (targets + 1) / 2"
    if lowest >= 0 and highest > 1:
        return "one-hot the class numbers first"
    if lowest >= 0:
        return "this loss takes no soft labels"
    return "map the labels to 0 and 1"
