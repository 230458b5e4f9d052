"""Ranges of work on a pool of threads that lives as long as the process.

The compiled kernels release the interpreter's lock and take a range, so threads are all that a
product needs to use several cores. The pool never holds more threads than the process may run on.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

_lock = threading.Lock()
_worker = threading.local()
_pool: ThreadPoolExecutor | None = None


def default_threads() -> int:
    """How many threads a call uses: as many as torch, at most the cores this process may use.

    Torch takes its number from ``OMP_NUM_THREADS``, which Ray sets to the cores of a worker. Where
    torch is not loaded the variable is read here, since loading torch takes a second.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        wanted = int(torch.get_num_threads())
    else:
        variable = os.environ.get("OMP_NUM_THREADS", "")
        wanted = int(variable) if variable.isdecimal() else available_cores()
    return max(1, min(wanted, available_cores()))


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def run_ranges(
    function: Callable[[int, int], object],
    n_items: int,
    *,
    n_threads: int | None = None,
    grain: int = 1,
) -> None:
    """Call ``function(begin, end)`` on consecutive ranges that make up ``range(n_items)``.

    The caller's thread takes the first range. All ranges have ended when this returns or raises,
    also if one of them failed. Inside a range a call of this function uses one thread.

    Parameters
    ----------
    function
        Must not depend on how the items are split. Context variables (a forced back end) are those
        of the caller in its own range only: read them before.
    n_items
        May be 0: nothing is called.
    n_threads
        By default :func:`default_threads`; more than the cores of this process are not started.
    grain
        Ranges begin at multiples of it.

    Raises
    ------
    ValueError
        If a count is out of range.
    Exception
        What ``function`` raised in the first range that failed.
    """
    if n_items < 0 or grain < 1 or (n_threads is not None and n_threads < 1):
        raise ValueError(
            "expected n_items >= 0, grain >= 1 and n_threads >= 1, "
            f"got {n_items}, {grain} and {n_threads}"
        )
    ranges = split(n_items, _allowed(n_threads), grain)
    if len(ranges) <= 1:
        for begin, end in ranges:
            function(begin, end)
        return
    pool = _get_pool()
    others = [pool.submit(_run, function, begin, end) for begin, end in ranges[1:]]
    _finish(function, ranges[0], others)


def split(n_items: int, n_ranges: int, grain: int = 1) -> list[tuple[int, int]]:
    """At most ``n_ranges`` consecutive ranges, none empty, of nearly equal numbers of grains."""
    n_grains = -(-n_items // grain)
    n_ranges = max(1, min(n_ranges, n_grains))
    bounds = [min(i * n_grains // n_ranges * grain, n_items) for i in range(n_ranges + 1)]
    return [(begin, end) for begin, end in pairwise(bounds) if begin < end]


def _allowed(n_threads: int | None) -> int:
    if getattr(_worker, "is_busy", False):
        return 1  # a range that waits for ranges behind it in the pool would wait for ever
    return min(n_threads, available_cores()) if n_threads is not None else default_threads()


def _run(function: Callable[[int, int], object], begin: int, end: int) -> None:
    _worker.is_busy = True
    try:
        function(begin, end)
    finally:
        _worker.is_busy = False


def _finish(
    function: Callable[[int, int], object], first: tuple[int, int], others: list[Future[None]]
) -> None:
    """Run the first range here, wait for all; the earliest failure is raised."""
    failures: list[BaseException] = []
    try:
        _run(function, *first)
    except BaseException as error:
        failures.append(error)
    failures += [error for error in (future.exception() for future in others) if error]
    if failures:
        raise failures[0]


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="bitspin")
        return _pool


def _forget_pool() -> None:
    """In a forked child, where the threads of the parent do not exist."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
