"""How fast these kernels are, beside torch and the limits of the machine.

``python -m kernels.bench [kernels|arm|gpu] [--quick] [--json] [--out DIR]``

Every case is checked before it is timed, and timed in turns with its competitors and with the
micro-benchmark of its limit, on one thread and on all. Needs numpy and torch only; the picture
needs matplotlib.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from kernels.backends import current_backend
from kernels.bench_arm import run_arm
from kernels.bench_cases import CASES, OPERATIONS, Case
from kernels.bench_contenders import check_results, make_contenders
from kernels.bench_limits import LEVELS, port_probe, read_probe, vnni_probe
from kernels.bench_report import (
    Machine,
    Measurement,
    Report,
    Roofs,
    Row,
    machine_line,
    roof_lines,
    row_lines,
)
from kernels.bench_timing import Timing, threads, time_in_turns
from kernels.errors import BackendUnavailable

PRECISIONS = ("fp32", "bf16", "int8")
"""Of competitors, as their names have it."""
BUDGET_SECONDS = 0.6
QUICK_SECONDS = 0.04
"""For each contender of each case."""
ROOF_SECONDS = 0.1
"""For each limit of the machine, at least."""


def _say(line: str) -> None:
    print(line, flush=True)


def _be_silent(line: str) -> None:
    pass


def run_kernels(
    *,
    quick: bool = False,
    cases: Sequence[Case] = CASES,
    say: Callable[[str], object] = _be_silent,
) -> Report:
    """Time the kernels of this machine.

    Parameters
    ----------
    quick
        A case per operation only, and short times: a look at whether all works.
    cases
        What is timed.
    say
        Takes the lines of the report as they come.

    Returns
    -------
    Report
        Everything measured.

    Raises
    ------
    BackendUnavailable
        If there are no compiled kernels here.
    RuntimeError
        If a contender computes something else than these kernels.
    """
    budget = QUICK_SECONDS if quick else BUDGET_SECONDS
    counts = sorted({1, torch.get_num_threads()})
    machine = Machine.this()
    say(machine_line(machine))
    roofs = [_roofs(n, max(budget, ROOF_SECONDS)) for n in counts]
    for each in roofs:
        for line in roof_lines(each):
            say(line)
    rows = []
    for case in cases:
        if quick and not case.is_quick:
            continue
        for row in _rows(case, roofs, budget):
            rows.append(row)
            for line in row_lines(row):
                say(line)
    return Report(machine, tuple(roofs), tuple(rows))


def _roofs(n_threads: int, budget: float) -> Roofs:
    probes = {"ports": port_probe(current_backend(), n_threads), "int8": vnni_probe(n_threads)}
    reads = {name: read_probe(size, n_threads) for name, size in LEVELS.items()}
    timings = time_in_turns(
        {name: probe.run for name, probe in (probes | reads).items()}, budget_seconds=budget
    )
    rates = {
        name: probe.amount / timings[name].min_seconds / 1e9
        for name, probe in (probes | reads).items()
    }
    read_rates = {name: rates[name] for name in reads}
    return Roofs(n_threads, rates["ports"] or None, rates["int8"] or None, read_rates)


def _rows(case: Case, roofs: Sequence[Roofs], budget: float) -> Iterator[Row]:
    contenders = make_contenders(case)
    check_results(case, contenders)
    for roof in roofs:
        n_threads = roof.n_threads
        probes = {"limit of ports": port_probe(current_backend(), n_threads)}
        if OPERATIONS[case.op].reads_once:
            probes["limit of reading"] = read_probe(case.n_bytes, n_threads)
        functions = {contender.name: contender.run for contender in contenders}
        functions |= {name: probe.run for name, probe in probes.items()}
        with threads(n_threads):
            timings = time_in_turns(functions, budget_seconds=budget)
        rates = {n: p.amount / timings.pop(n).min_seconds / 1e9 for n, p in probes.items()}
        # A probe can only be disturbed downwards, so the best of the run so far is the limit.
        rates["limit of ports"] = max(rates["limit of ports"], roof.ports_gops or 0.0)
        yield _row(case, n_threads, timings, rates)


def _row(case: Case, n_threads: int, timings: dict[str, Timing], rates: dict[str, float]) -> Row:
    operation = OPERATIONS[case.op]
    measurements = tuple(
        Measurement.of(name, timing, case.n_operations) for name, timing in timings.items()
    )
    ports = rates["limit of ports"] or None
    if operation.counts == "units":
        ports = None
    cache = rates.get("limit of reading")
    if cache is not None:
        cache *= case.n_operations / case.n_bytes
    limits = [gops for gops in (ports, cache) if gops is not None]
    ours, *others = measurements
    faster: dict[str, float] = {}
    for other in others:
        precision = next((p for p in PRECISIONS if p in other.name), other.name)
        times = other.min_seconds / ours.min_seconds
        faster[precision] = min(times, faster.get(precision, times))
    return Row(
        case.op,
        case.shape,
        operation.counts,
        case.n_operations,
        case.n_bytes,
        n_threads,
        ports,
        cache,
        ours.gops / min(limits) if limits else None,
        faster,
        measurements,
    )


def print_kernels(
    *,
    quick: bool = False,
    as_json: bool = False,
    out: Path | None = None,
    peers: Sequence[Mapping[str, object]] = (),
) -> None:
    """Print the report of :func:`run_kernels` as it grows, or as JSON at the end.

    Parameters
    ----------
    quick
        As in :func:`run_kernels`.
    as_json
        JSON on the standard output, and nothing else there.
    out
        Folder for the picture; none is drawn by default.
    peers
        What other programs measured beforehand: printed as well.
    """
    report = run_kernels(quick=quick, say=_be_silent if as_json else _say)
    if as_json:
        print(json.dumps({**asdict(report), "peers": list(peers)}, indent=2))
    else:
        for peer in peers:
            _say(json.dumps(peer))
    if out is not None:
        from kernels.bench_roofline import draw_kernels

        print(draw_kernels(report, out), file=sys.stderr)


def print_arm(*, quick: bool = False, as_json: bool = False, out: Path | None = None) -> None:
    """Print the report of :func:`kernels.bench_arm.run_arm`; as :func:`print_kernels`."""
    report = run_arm(quick=quick, say=_be_silent if as_json else _say)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    if out is not None:
        from kernels.bench_roofline import draw_arm

        print(draw_arm(report, out), file=sys.stderr)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="kernels", choices=["kernels", "arm", "gpu"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="few cases and short times")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the picture or the record goes"
    )
    options = parser.parse_args(arguments)
    if options.what == "gpu":
        from kernels.bench_gpu import print_gpu

        parser.exit(print_gpu(quick=options.quick, as_json=options.json, out=options.out))
    report = print_arm if options.what == "arm" else print_kernels
    try:
        report(quick=options.quick, as_json=options.json, out=options.out)
    except BackendUnavailable as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    _main()
