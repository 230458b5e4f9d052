"""The whole training in one call."""

import numpy as np
from numpy.typing import NDArray

from bnn.models import Classifier
from bnn.training.config import TrainConfig
from bnn.training.step_info import StepInfo
from bnn.training.trainer import Trainer


def fit(
    net: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    config: TrainConfig | None = None,
    *,
    teacher: Classifier | None = None,
) -> list[StepInfo]:
    """Train ``net`` in place from its first step to its last, on this thread.

    Parameters
    ----------
    net
        As built or as trained before; the optimizer starts afresh. In the end it holds the average
        if ``averaging_decay`` asks for one.
    images
        Shape (n_samples, H, W, C), uint8.
    labels
        Shape (n_samples,), integers in 0 ... n_classes - 1.
    config
        None for the defaults, which suit any amount of data.
    teacher
        As for :class:`Trainer`.

    Returns
    -------
    list
        One record per step.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :class:`Trainer` and :meth:`Trainer.train_step`.
    """
    trainer = Trainer(net, config or TrainConfig(), len(images), teacher=teacher)
    infos = [trainer.train_step(images, labels) for _ in range(trainer.n_steps)]
    net.load_state_dict(trainer.trained_state())
    return infos
