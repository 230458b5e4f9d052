"""Learning from a teacher: the cross-entropy to its class probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.training.config import TrainConfig


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy of a student to the softened probabilities of its teacher.

    .. math:: L = -\frac{T^2}{N} \sum_{n, c} \operatorname{softmax}(t_n / T)_c
              \log \operatorname{softmax}(s_n / T)_c

    For T = 1 it is the distributional loss of ReActNet [1]_. The factor keeps the gradient's size
    when T changes [2]_ (from memory).

    Parameters
    ----------
    logits
        s, of the student, shape (N, C).
    teacher_logits
        t, shape (N, C); no gradient goes there.
    temperature
        T, positive.

    Returns
    -------
    Tensor
        Shape (), at least the teacher's entropy times T², which it is when the student agrees.

    References
    ----------
    .. [1] Liu et al. (2020), ReActNet, arXiv:2003.03488.
    .. [2] Hinton, Vinyals, Dean (2015), Distilling the knowledge in a neural network,
       arXiv:1503.02531.
    """
    targets = torch.softmax(teacher_logits.detach() / temperature, dim=1)
    return F.cross_entropy(logits / temperature, targets) * temperature**2


def check_teacher(
    teacher: nn.Module | None, config: TrainConfig, input_shape: tuple[int, ...], n_classes: int
) -> None:
    """Refuse a teacher that is missing, not used, or of other images or classes.

    Raises
    ------
    ValueError
        If so.
    """
    if (teacher is None) != (config.distillation_weight == 0):
        found = "none" if teacher is None else "one"
        raise ValueError(
            f"teacher: expected {'one' if teacher is None else 'none'} for distillation_weight = "
            f"{config.distillation_weight}, got {found}; change either"
        )
    if teacher is None:
        return
    found_shape, found_classes = tuple(teacher.input_shape), teacher.n_classes  # type: ignore[arg-type]
    if found_shape != tuple(input_shape) or found_classes != n_classes:
        raise ValueError(
            f"teacher: expected images {tuple(input_shape)} and {n_classes} classes, "
            f"got {found_shape} and {found_classes}"
        )
