"""How fast the kernels are on this GPU: its rates by micro-benchmarks, then what is promised.

Needs torch, numpy and CuPy only. Without a GPU every row is there and says that it is not measured.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch

from kernels.bench_gpu_cases import CASES, Case
from kernels.bench_gpu_probes import (
    LANE,
    PROBES,
    WARP,
    WARPGROUP,
    is_available,
    prepare_copy,
    prepare_probe,
)
from kernels.bench_gpu_report import (
    FAILED,
    NOT_MEASURED,
    Device,
    GpuReport,
    Rate,
    Row,
    device_line,
    rate_line,
    row_lines,
)
from kernels.bench_gpu_setting import Setting
from kernels.bench_gpu_timing import LEAST_SAMPLES, Contender, time_on_device
from kernels.cuda_launch import Launcher, launcher_for, missing
from kernels.errors import BackendUnavailable

COPY: Final = "copy"
_COPY_BYTES: Final = 1 << 30
_N_SAMPLES: Final = 30
_N_LOOPS: Final = 4096
_CHECK_LOOPS: Final = 3
_BLOCKS_OF_MULTIPROCESSOR: Final = {LANE: 8, WARP: 2, WARPGROUP: 1}
"""Who makes the products -> blocks of 256 threads, all of them at work at a time."""
_NO_INSTRUCTION: Final = "no such instruction on capability"


def run_gpu(
    *,
    quick: bool = False,
    cases: Sequence[Case] = CASES,
    say: Callable[[str], object] = lambda line: None,
) -> GpuReport:
    """Measure the GPU of this machine, if there is one.

    Parameters
    ----------
    quick
        As few samples as a median takes.
    cases
        What is promised.
    say
        Takes the lines of the report as they come.

    Returns
    -------
    GpuReport
        Every rate and every row, with figures or with the reason why there are none.
    """
    launcher, reason = _find_launcher()
    device = None if launcher is None else Device.of(launcher)
    say(NOT_MEASURED + reason if device is None else device_line(device))
    n_samples = LEAST_SAMPLES if quick else _N_SAMPLES
    rates = []
    for empty in empty_rates():
        found = _measure_rate(launcher, empty, n_samples, reason)
        rates.append(found)
        say(rate_line(found))
    rows: list[Row] = []
    for case in cases:
        setting = None
        if launcher is not None and device is not None:
            by_name = {each.name: each.rate for each in rates if each.rate is not None}
            setting = Setting(launcher, device.cache_bytes, n_samples, by_name)
        for row in measure_case(case, setting, reason):
            rows.append(row)
            for line in row_lines(row):
                say(line)
    return GpuReport(device, tuple(rates), tuple(rows))


def empty_rates() -> list[Rate]:
    """Every micro-benchmark, without figures."""
    copy = Rate(COPY, "16 bytes a lane, read and written", "TB/s")
    return [Rate(name, probe.title, "TOPS") for name, probe in PROBES.items()] + [copy]


def _find_launcher() -> tuple[Launcher | None, str]:
    reason = missing()
    if reason is not None:
        return None, reason
    try:
        return launcher_for(torch.device("cuda", torch.cuda.current_device())), ""
    except BackendUnavailable as error:
        return None, str(error)


def _measure_rate(launcher: Launcher | None, empty: Rate, n_samples: int, reason: str) -> Rate:
    if launcher is None:
        return replace(empty, note=NOT_MEASURED + reason)
    if empty.name != COPY and not is_available(empty.name, launcher.capability):
        note = f"{NOT_MEASURED}{_NO_INSTRUCTION} {'.'.join(map(str, launcher.capability))}"
        return replace(empty, note=note)
    try:
        if empty.name == COPY:
            probe = prepare_copy(launcher, _COPY_BYTES)
        else:
            count = torch.cuda.get_device_properties(launcher.device).multi_processor_count
            n_blocks = count * _BLOCKS_OF_MULTIPROCESSOR[PROBES[empty.name].maker]
            small = prepare_probe(launcher, empty.name, n_blocks=n_blocks, n_loops=_CHECK_LOOPS)
            small.run()
            small.check()
            probe = prepare_probe(launcher, empty.name, n_blocks=n_blocks, n_loops=_N_LOOPS)
        probe.run()
        if empty.name == COPY:
            probe.check()
        timings = time_on_device({empty.name: Contender([probe.run])}, n_samples=n_samples)
    except Exception as error:  # a row that fails leaves the others their turn
        return replace(empty, note=_failure(error))
    return empty.measured(timings[empty.name], probe.amount)


def measure_case(case: Case, setting: Setting | None, reason: str) -> list[Row]:
    """The rows of a case, with figures, or with the reason why there are none."""
    if setting is None:
        return [replace(row, note=NOT_MEASURED + reason) for row in case.rows]
    try:
        measured = case.measure(setting)
    except Exception as error:  # a row that fails leaves the others their turn
        return [replace(row, note=_failure(error)) for row in case.rows]
    return [
        row.measured(measured.values[row.name], measured.timings)
        if row.name in measured.values
        else replace(row, note=f"{NOT_MEASURED}no such contender here")
        for row in case.rows
    ]


def _failure(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{FAILED}{type(error).__name__}: {first}"


def print_gpu(*, quick: bool = False, as_json: bool = False, out: Path | None = None) -> int:
    """Print the report of :func:`run_gpu` as it grows, or as JSON at the end.

    Parameters
    ----------
    quick
        As in :func:`run_gpu`.
    as_json
        JSON on the standard output, and nothing else there.
    out
        Folder in which ``gpu.json`` is written as well.

    Returns
    -------
    int
        Exit code: 1 if a row failed on a GPU, else 0.
    """
    report = run_gpu(quick=quick, say=(lambda line: None) if as_json else _say)
    text = json.dumps(asdict(report), indent=2)
    if as_json:
        print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.json").write_text(text + "\n")
    return int(report.has_failed)


def _say(line: str) -> None:
    print(line, flush=True)
