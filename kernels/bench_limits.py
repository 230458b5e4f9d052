"""What this machine can do at most, measured: its vector ports, and its memory at several sizes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from kernels.backends import Backend
from kernels.host import host_library

LEVELS: Final = {"16 KiB": 16 << 10, "512 KiB": 512 << 10, "8 MiB": 8 << 20, "128 MiB": 128 << 20}
"""Sizes whose read bandwidth is a roof; the caches of common processors, and memory."""
_PORT_LOOPS = 400_000  # about 2 ms, so that starting threads does not count
_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class Probe:
    """A micro-benchmark: what to time, and how much one call does."""

    run: Callable[[], object]
    amount: int
    """Operations or bytes; 0 if this machine has no such unit."""


def port_probe(backend: Backend, n_threads: int) -> Probe:
    """Products of bits from registers: two operations per bit."""
    return _probe("bsk_port_xor_popcnt_add", [(backend.code or 0, _PORT_LOOPS)] * n_threads)


def vnni_probe(n_threads: int) -> Probe:
    """Products of int8 from registers: two operations per byte."""
    return _probe("bsk_port_vnni", [(_PORT_LOOPS,)] * n_threads)


def read_probe(n_bytes: int, n_threads: int) -> Probe:
    """Bytes read, again and again; each thread has a share of ``n_bytes`` of its own."""
    share = max(256, n_bytes // n_threads // 256 * 256)
    n_passes = max(1, _READ_BYTES // share)
    buffers = [np.ones(share, np.uint8) for _ in range(n_threads)]
    return _probe("bsk_read_bandwidth", [(buffer, share, n_passes) for buffer in buffers])


def _probe(name: str, calls: list[tuple[int | np.ndarray, ...]]) -> Probe:
    library = host_library()
    amount = sum(library.call(name, *arguments) for arguments in calls)
    if len(calls) == 1:
        return Probe(lambda: library.call(name, *calls[0]), amount)
    return Probe(lambda: list(_pool().map(lambda each: library.call(name, *each), calls)), amount)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="bitspin-limits")
