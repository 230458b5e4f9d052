"""What a benchmark found, as records that become JSON, and as text."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.backends import current_backend
from kernels.bench_cases import OPERATIONS, Case
from kernels.bench_contenders import OURS
from kernels.bench_timing import Timing
from kernels.threads import available_cores


@dataclass(frozen=True)
class Measurement:
    """One contender of a case."""

    name: str
    min_seconds: float
    median_seconds: float
    n_calls: int
    gops: float
    """Operations (or units) per second by the shortest time, in 1e9."""

    @classmethod
    def of(cls, name: str, timing: Timing, n_operations: int) -> "Measurement":
        """From the times of one call and the work that it does."""
        gops = n_operations / timing.min_seconds / 1e9
        return cls(name, timing.min_seconds, timing.median_seconds, timing.n_calls, gops)


@dataclass(frozen=True)
class Row:
    """One case with one number of threads."""

    op: str
    shape: tuple[int, ...]
    counts: str
    """What ``n_operations`` counts."""
    n_operations: int
    n_bytes: int
    n_threads: int
    ports_gops: float | None
    """Limit of the vector ports in the same run; None where none is known."""
    cache_gops: float | None
    """Limit by reading the weights of the case, for work that uses them once."""
    ratio_to_limit: float | None
    """GOPS of these kernels by the lower limit."""
    times_faster: dict[str, float]
    """Precision of a competitor -> its time on its fastest path by that of these kernels."""
    measurements: tuple[Measurement, ...]
    """These kernels first."""

    @property
    def ours(self) -> Measurement:
        """Of these kernels."""
        return self.measurements[0]

    def best_of(self, word: str) -> Measurement | None:
        """The fastest contender with ``word`` in its name, None if nobody has."""
        found = [m for m in self.measurements if word in m.name]
        return min(found, key=lambda m: m.min_seconds, default=None)


@dataclass(frozen=True)
class Roofs:
    """What the machine can do at most with a number of threads."""

    n_threads: int
    ports_gops: float | None
    int8_ports_gops: float | None
    read_gb_per_second: dict[str, float]
    """By the size of what is read."""


@dataclass(frozen=True)
class Machine:
    """Where it was measured, and with what."""

    processor: str
    n_processors: int
    backend: str
    torch_version: str
    torch_capability: str

    @classmethod
    def this(cls) -> "Machine":
        """The one that this runs on."""
        return cls(
            _processor(),
            available_cores(),
            current_backend().name,
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
        )


@dataclass(frozen=True)
class Report:
    """A whole run."""

    machine: Machine
    roofs: tuple[Roofs, ...]
    rows: tuple[Row, ...]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_line(machine: Machine) -> str:
    """One line on the machine."""
    return (
        f"{machine.processor}, {machine.n_processors} processors; back end {machine.backend}; "
        f"torch {machine.torch_version} ({machine.torch_capability})"
    )


def roof_lines(roofs: Roofs) -> Iterator[str]:
    """What the machine can do at most."""
    ports = [
        f"{name} {gops:,.0f} GOPS"
        for name, gops in (("binary", roofs.ports_gops), ("int8", roofs.int8_ports_gops))
        if gops is not None
    ]
    reads = [f"{size} {gb:,.0f} GB/s" for size, gb in roofs.read_gb_per_second.items()]
    yield f"limits, {_threads(roofs.n_threads)}: {', '.join(ports + reads)}"


def row_lines(row: Row) -> Iterator[str]:
    """A case: a heading and a line per contender."""
    yield f"{Case(row.op, row.shape).name}, {_threads(row.n_threads)}: {OPERATIONS[row.op].title}"
    for measurement in row.measurements:
        if row.counts == "units":
            rate = f"{1 / measurement.gops:8.3f} ns/unit"
        else:
            rate = f"{measurement.gops:8,.0f} GOPS"
        best, median = _seconds(measurement.min_seconds), _seconds(measurement.median_seconds)
        line = f"  {measurement.name:32}{best:>10}  median {median:>10}  {rate}"
        yield f"{line}  {_remark(row, measurement)}".rstrip()


def _remark(row: Row, measurement: Measurement) -> str:
    if measurement.name != OURS:
        return f"{measurement.min_seconds / row.ours.min_seconds:6.1f} x as long"
    if row.ratio_to_limit is None:
        return ""
    is_cache = row.cache_gops is not None and row.cache_gops < (row.ports_gops or 0.0)
    limit = min(g for g in (row.ports_gops, row.cache_gops) if g is not None)
    name = "reading" if is_cache else "the ports"
    return f"{row.ratio_to_limit:6.1%} of {limit:,.0f} ({name})"


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _seconds(seconds: float) -> str:
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds:.2f} s"
