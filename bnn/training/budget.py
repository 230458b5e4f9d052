"""A budget of minutes, turned into a number of steps once, before the first one.

A training that looked at the clock at every step could be repeated by nobody. So a few steps are
timed on a copy of the network at the start; what they say fixes the number of steps, which is part
of the state. From there on the training is one of that many steps, the same bytes for everybody:
``TrainConfig(steps=...)`` repeats it. A machine that becomes slower later takes longer.
"""

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from bnn.training.shards import Gather
from kernels import Purpose, random_words

N_TIMED = 4
"""Steps of the probe that count; one more comes before them and warms up."""


def seconds_per_step(
    take_step: Callable[[], object],
    n_local: int,
    gather: Gather | None,
    *,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Time steps, and agree on the time of the slowest worker.

    Parameters
    ----------
    take_step
        Takes one step, with all its workers.
    n_local
        Shards of this worker: rows that ``gather`` wants of it.
    gather
        As for the trainer; the time travels as a row of one number, in float32.
    clock
        Seconds.

    Returns
    -------
    float
        Median over the timed steps, maximum over the workers; the same on all of them.
    """
    take_step()
    seconds = []
    for _ in range(N_TIMED):
        start = clock()
        take_step()
        seconds.append(clock() - start)
    rows = torch.full((n_local, 1), float(np.median(seconds)), dtype=torch.float32)
    return float((rows if gather is None else gather(rows)).max())


def steps_within(minutes: float, seconds: float) -> int:
    """Whole steps of ``seconds`` each that fit into ``minutes``, at least one."""
    return max(1, int(60 * minutes / max(seconds, 1e-9)))


def stand_in_images(n_images: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Noise to time steps with, shape (n_images, *shape), in the memory of one image and a bit.

    Image i is the noise from byte i on: no two are equal, as batch normalisation wants it.
    """
    height, width, channels = shape
    n_bytes = n_images + height * width * channels
    noise = random_words(0, Purpose.DIAGNOSTICS, -(-n_bytes // 4))[0].view(np.uint8)
    strides = (1, width * channels, channels, 1)
    return np.lib.stride_tricks.as_strided(noise, (n_images, *shape), strides, writeable=False)
