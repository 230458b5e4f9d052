"""Times functions on a GPU by its own clock: events around replays of a CUDA graph, in turns.

A graph of several calls hides what a launch costs, so that small kernels are timed and not Python.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from kernels.bench_timing import Timing

LEAST_SAMPLES: Final = 10
_WARM_UP: Final = 3
_SAMPLE_SECONDS: Final = 3e-4  # an event resolves half a microsecond
_MAX_CALLS: Final = 200
_EAGER_CALLS: Final = 20
"""At least, without a graph: so many that the GPU does not wait for Python at the beginning."""


@dataclass(frozen=True)
class Contender:
    """What is timed: functions that do the same on other operands, called one after the other.

    With operands that together are larger than the cache, none finds its own there.
    """

    runs: Sequence[Callable[[], Any]]
    is_graph: bool = True
    """Whether calls can be captured in a CUDA graph."""


def n_copies(n_bytes: int, cache_bytes: int) -> int:
    """How many sets of operands of ``n_bytes`` are needed to pass twice the cache."""
    return max(1, math.ceil(2 * cache_bytes / max(1, n_bytes)))


def calls_per_sample(seconds: float, n_runs: int) -> int:
    """Calls in a sample: a multiple of ``n_runs`` that takes long enough to be timed."""
    wanted = min(_MAX_CALLS, max(1, math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9))))
    return -(-wanted // n_runs) * n_runs


def time_on_device(contenders: Mapping[str, Contender], *, n_samples: int) -> dict[str, Timing]:
    """Time each contender, all of them in every round, so that a change of clock hits all alike.

    Parameters
    ----------
    contenders
        Their results have been checked already.
    n_samples
        Of each, at least 10.

    Returns
    -------
    dict
        Seconds of one call by the names of ``contenders``.

    Raises
    ------
    ValueError
        If ``n_samples`` is less than 10.
    """
    if n_samples < LEAST_SAMPLES:
        raise ValueError(f"n_samples: expected at least {LEAST_SAMPLES}, got {n_samples}")
    prepared = {name: _prepare(contender) for name, contender in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(n_samples):
        for name, (run, n_calls) in prepared.items():
            samples[name].append(_seconds(run) / n_calls)
    return {
        name: Timing(min(seconds), statistics.median(seconds), len(seconds))
        for name, seconds in samples.items()
    }


def _prepare(contender: Contender) -> tuple[Callable[[], Any], int]:
    """What one sample runs, and how many calls that is."""

    def run_all() -> None:
        for run in contender.runs:
            run()

    for _ in range(_WARM_UP):
        run_all()
    torch.cuda.synchronize()
    n_runs = len(contender.runs)
    n_calls = calls_per_sample(_seconds(run_all) / n_runs, n_runs)
    if not contender.is_graph:
        n_calls = max(n_calls, -(-_EAGER_CALLS // n_runs) * n_runs)

    def sample() -> None:
        for _ in range(n_calls // n_runs):
            run_all()

    if not contender.is_graph:
        return sample, n_calls
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        sample()
    graph.replay()
    return graph.replay, n_calls


def _seconds(run: Callable[[], Any]) -> float:
    begin, end = _event(), _event()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
