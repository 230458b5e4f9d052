"""Times several functions fairly on a noisy machine: in turns, in short bursts, best and median."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_BURST_SECONDS = 2e-3
_MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    min_seconds: float
    median_seconds: float
    n_calls: int


def time_in_turns(
    functions: Mapping[str, Callable[[], Any]], *, budget_seconds: float
) -> dict[str, Timing]:
    """Time each function, all of them in every round, so that a disturbance hits all alike.

    A function runs in bursts of a few milliseconds, because a single call of the next one would
    leave the caches to it. One that has used its budget sits out the remaining rounds.

    Parameters
    ----------
    functions
        Each has run once before, so that nothing is compiled or allocated for the first time here.
    budget_seconds
        For each function; a call that is longer is still made once.

    Returns
    -------
    dict
        Timings by the names of ``functions``.

    Raises
    ------
    ValueError
        If the budget is not positive.
    """
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds: expected a positive number, got {budget_seconds}")
    samples: dict[str, list[float]] = {name: [] for name in functions}
    used = dict.fromkeys(functions, 0.0)
    for _ in range(_MAX_ROUNDS):
        active = [name for name in functions if used[name] < budget_seconds]
        if not active:
            break
        for name in active:
            burst = _burst(functions[name])
            used[name] += sum(burst)
            samples[name] += burst
    return {
        name: Timing(min(seconds), statistics.median(seconds), len(seconds))
        for name, seconds in samples.items()
    }


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let torch, and the kernels that follow it, use this many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _burst(function: Callable[[], Any]) -> list[float]:
    seconds: list[float] = []
    total = 0.0
    while total < _BURST_SECONDS:
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
        total += seconds[-1]
    return seconds
