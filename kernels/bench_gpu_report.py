"""What the benchmark of a GPU found, as records that become JSON, and as text."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from kernels.bench_timing import Timing
from kernels.cuda_launch import Launcher

NOT_MEASURED = "not measured: "
FAILED = "failed: "
"""How the note of a row begins that has no figure."""


@dataclass(frozen=True)
class Device:
    """Where it was measured, and with what."""

    name: str
    capability: str
    driver: str
    cupy_version: str
    torch_version: str
    cuda_version: str
    n_multiprocessors: int
    memory_bytes: int
    cache_bytes: int
    """L2."""

    @classmethod
    def of(cls, launcher: Launcher) -> "Device":
        """The device of a launcher of a GPU."""
        import cupy

        properties = torch.cuda.get_device_properties(launcher.device)
        return cls(
            properties.name,
            ".".join(map(str, launcher.capability)),
            _driver(cupy.cuda.runtime.driverGetVersion()),
            cupy.__version__,
            torch.__version__,
            str(torch.version.cuda),
            properties.multi_processor_count,
            properties.total_memory,
            properties.L2_cache_size,
        )


@dataclass(frozen=True)
class Rate:
    """What one unit of the device does at most."""

    name: str
    title: str
    unit: str
    """TOPS, two operations for each product, or TB/s, read and written."""
    amount: int | None = None
    """Operations or bytes of one call."""
    median_seconds: float | None = None
    min_seconds: float | None = None
    n_samples: int | None = None
    rate: float | None = None
    """By the median."""
    note: str = ""

    def measured(self, timing: Timing, amount: int) -> "Rate":
        """The same with figures."""
        return Rate(
            *(self.name, self.title, self.unit, amount),
            *(timing.median_seconds, timing.min_seconds, timing.n_calls),
            rate(amount, timing.median_seconds),
        )


@dataclass(frozen=True)
class Row:
    """One promise, and what was found."""

    name: str
    title: str
    unit: str
    goal: float | None
    """Least value; None if nothing is promised."""
    value: float | None = None
    is_met: bool | None = None
    medians: Mapping[str, float] = field(default_factory=dict)
    """Contender -> seconds of one call."""
    minima: Mapping[str, float] = field(default_factory=dict)
    n_samples: int | None = None
    note: str = ""

    def measured(self, value: float, timings: Mapping[str, Timing]) -> "Row":
        """The same with figures."""
        return Row(
            *(self.name, self.title, self.unit, self.goal, value),
            None if self.goal is None else value >= self.goal,
            {name: timing.median_seconds for name, timing in timings.items()},
            {name: timing.min_seconds for name, timing in timings.items()},
            min((timing.n_calls for timing in timings.values()), default=None),
        )


@dataclass(frozen=True)
class GpuReport:
    """A whole run."""

    device: Device | None
    rates: tuple[Rate, ...]
    rows: tuple[Row, ...]

    @property
    def has_failed(self) -> bool:
        """Whether something that should have run did not, or computed something else."""
        notes = [each.note for each in self.rates] + [row.note for row in self.rows]
        return any(note.startswith(FAILED) for note in notes)


def rate(amount: int, seconds: float) -> float:
    """In 1e12 a second."""
    return amount / seconds / 1e12


def device_line(device: Device) -> str:
    """One line on the device."""
    return (
        f"{device.name}, capability {device.capability}, {device.n_multiprocessors} "
        f"multiprocessors, {device.memory_bytes / 2**30:.0f} GiB; driver {device.driver}; CUDA "
        f"{device.cuda_version}; torch {device.torch_version}; CuPy {device.cupy_version}"
    )


def rate_line(row: Rate) -> str:
    """A rate, or why there is none."""
    begin = f"{row.name:12}{row.title:34}"
    if row.rate is None or row.median_seconds is None:
        return begin + row.note
    return f"{begin}{row.rate:10,.2f} {row.unit:5} median {_seconds(row.median_seconds)}"


def row_lines(row: Row) -> Iterator[str]:
    """A promise with its figure, and a line per contender."""
    goal = "" if row.goal is None else f", goal {row.goal:g}"
    if row.value is None:
        yield f"{row.title}: {row.note} ({row.unit}{goal})"
        return
    verdict = {None: "", True: ", met", False: ", NOT met"}[row.is_met]
    yield f"{row.title}: {row.value:,.2f} {row.unit}{goal}{verdict}"
    for name, seconds in row.medians.items():
        yield f"  {name:40} median {_seconds(seconds)}, best {_seconds(row.minima[name])}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us" if seconds < 1e-2 else f"{seconds * 1e3:,.2f} ms"


def _driver(cuda_version: int) -> str:
    """Version of the driver if its tool is there, and the CUDA that it offers."""
    offers = f"CUDA {cuda_version // 1000}.{cuda_version % 1000 // 10}"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return offers
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = result.stdout.strip().splitlines()
    return f"{lines[0]} ({offers})" if result.returncode == 0 and lines else offers
