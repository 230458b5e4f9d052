"""The learning rate in the course of a training: a linear warm-up, then one of four curves."""

import math
from collections.abc import Callable

from bnn.training.config import TrainConfig

Schedule = Callable[[float, TrainConfig], float]
"""From the way after the warm-up, in [0, 1), to the share of the peak rate."""


def scheduled_rate(config: TrainConfig, peak: float, step: int, n_steps: int) -> float:
    r"""Rate of one step of a training, or of a part of it that has its own schedule.

    .. math:: \eta_k = \eta \frac{k + 1}{n_w} \text{ for } k < n_w, \qquad
              \eta_k = \eta f\left(\frac{k - n_w}{n - n_w}\right) \text{ from then on}

    Parameters
    ----------
    config
        Gives the curve f and the share of the warm-up.
    peak
        :math:`\eta`, in any unit.
    step, n_steps
        k, from 0, and n.

    Returns
    -------
    float
        In the unit of ``peak``.
    """
    n_warmup = round(config.warmup_fraction * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    progress = (step - n_warmup) / (n_steps - n_warmup)
    return peak * SCHEDULES[config.schedule](progress, config)


def cosine(progress: float, config: TrainConfig) -> float:
    """Half a cosine from 1 to 0 [1]_.

    References
    ----------
    .. [1] Loshchilov, Hutter (2017), SGDR, arXiv:1608.03983; one period, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, config: TrainConfig) -> float:
    """Straight line from 1 to 0."""
    return 1 - progress


def step(progress: float, config: TrainConfig) -> float:
    """``milestone_factor`` to the power of the number of milestones passed."""
    n_passed = sum(progress >= milestone for milestone in config.milestones)
    return config.milestone_factor**n_passed


def constant(progress: float, config: TrainConfig) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "constant": constant,
}
