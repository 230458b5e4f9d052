"""The benchmark measures what it says; nothing here depends on how long anything takes."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import bench
from kernels.backends import BACKENDS, available_backends, current_backend
from kernels.bench_cases import CASES, OPERATIONS, Case
from kernels.bench_contenders import OURS, Contender, check_results, make_contenders
from kernels.bench_limits import port_probe, read_probe, vnni_probe
from kernels.bench_report import Report, machine_line, roof_lines, row_lines
from kernels.bench_timing import threads, time_in_turns

TINY = {
    "gemm": (17, 20, 65),
    "gemm_float": (18, 5, 40),
    "gemv": (33, 129),
    "conv": (5, 6, 33, 7),
    "conv_float": (4, 4, 8, 16),
    "sampler": (9, 70),
    "statistics": (65, 20, 33),
}
"""A case of every operation that takes no time."""


@pytest.fixture(scope="module")
def report() -> Report:
    cases = [Case(op, shape, is_quick=True) for op, shape in TINY.items()]
    with threads(2):
        return bench.run_kernels(quick=True, cases=cases)


def test_every_operation_has_cases_and_one_of_them_is_quick() -> None:
    assert {case.op for case in CASES} == set(OPERATIONS) == set(TINY)
    assert {case.op for case in CASES if case.is_quick} == set(OPERATIONS)


def test_the_promised_shapes_are_there() -> None:
    names = {case.name for case in CASES}
    assert {"gemm 1024x1024x1024", "gemm 4096x4096x4096", "gemv 4096x4096"} <= names
    assert {"conv_float 56x56x64x64", "conv_float 7x7x512x512"} <= names
    assert "statistics 512x784x500" in names


@pytest.mark.parametrize(
    ("case", "operations", "n_bytes"),
    [
        (Case("gemm", (2, 3, 64)), 2 * 2 * 3 * 64, (2 + 3) * 8 + 4 * 6),
        (Case("gemm_float", (2, 3, 64)), 768, 2 * 64 * 4 + 3 * 8 + 24),
        (Case("gemv", (3, 64)), 2 * 3 * 64, 4 * 8 + 4 * 3),
        (Case("conv", (4, 5, 32, 8)), 2 * 20 * 32 * 8 * 9, 20 * (4 + 32) + 9 * 32),
        (Case("conv_float", (4, 5, 32, 8)), 92160, 20 * (128 + 32) + 9 * 32),
        (Case("sampler", (2, 32)), 64, 64 * 4 + 8),
        (Case("statistics", (16, 8, 4)), 2 * 16 * 8 * 4, 16 * 12 / 8 + 4 * 32),
    ],
)
def test_work_is_counted_as_stated(case: Case, operations: int, n_bytes: int) -> None:
    assert case.n_operations == operations
    assert case.n_bytes == n_bytes


def test_a_report_becomes_json_whose_numbers_agree(report: Report) -> None:
    read = json.loads(json.dumps(dataclasses.asdict(report)))
    assert read["machine"]["backend"] == current_backend().name
    assert [roofs["n_threads"] for roofs in read["roofs"]] == [1, 2]
    assert [(row["op"], row["n_threads"]) for row in read["rows"]] == [
        (op, n) for op in TINY for n in (1, 2)
    ]
    for row in read["rows"]:
        assert row["measurements"][0]["name"] == OURS
        assert row["n_operations"] == OPERATIONS[row["op"]].n_operations(*row["shape"])
        for m in row["measurements"]:
            assert all(math.isfinite(m[key]) and m[key] > 0 for key in m if key != "name")
            assert m["min_seconds"] <= m["median_seconds"]
            assert m["gops"] == pytest.approx(row["n_operations"] / m["min_seconds"] / 1e9)


def test_the_ratio_is_to_the_lower_limit(report: Report) -> None:
    for row in report.rows:
        if not (row.ports_gops or row.cache_gops or row.counts == "units"):
            assert row.ratio_to_limit is None
            continue
        limits = [limit for limit in (row.ports_gops, row.cache_gops) if limit is not None]
        if row.counts == "units":
            assert limits == []
            assert row.ratio_to_limit is None
        else:
            has_ports = port_probe(current_backend(), 1).amount > 0
            assert len(limits) == has_ports + OPERATIONS[row.op].reads_once
            assert row.ratio_to_limit == pytest.approx(row.ours.gops / min(limits))


def test_the_fastest_path_of_a_precision_counts(report: Report) -> None:
    for row in report.rows:
        for precision, times in row.times_faster.items():
            best = row.best_of(precision)
            assert best is not None
            assert times == pytest.approx(best.min_seconds / row.ours.min_seconds)
        if row.op != "sampler":
            assert {"fp32", "bf16"} <= set(row.times_faster) <= {"fp32", "bf16", "int8"}


def test_competitors_are_there_in_every_precision(report: Report) -> None:
    for row in report.rows:
        words = ["uniform_() < p", "torch.bernoulli"] if row.op == "sampler" else ["fp32", "bf16"]
        if row.op not in ("sampler", "statistics"):
            words.append("int8")
        assert all(row.best_of(word) for word in words)
        if len(row.shape) == 3 and row.op.startswith("gemm"):
            assert row.best_of("_int_mm")


@pytest.mark.parametrize("op", OPERATIONS)
def test_all_exact_contenders_compute_the_same(op: str) -> None:
    contenders = make_contenders(Case(op, TINY[op]))
    check_results(Case(op, TINY[op]), contenders)
    n_exact = sum(contender.values is not None for contender in contenders)
    assert n_exact >= (0 if op == "sampler" else 3)


def test_a_contender_that_computes_something_else_is_not_timed() -> None:
    right = Contender("right", lambda: 3, np.asarray)
    wrong = Contender("wrong", lambda: 4, np.asarray)
    check_results(CASES[0], [right, Contender("close", lambda: 4)])
    with pytest.raises(RuntimeError, match="expected wrong to compute what right does"):
        check_results(CASES[0], [right, wrong])


@pytest.mark.parametrize("name", [n for n in available_backends() if n != "reference"])
def test_probes_say_how_much_they_do(name: str) -> None:
    amount = port_probe(BACKENDS[name], 1).amount
    assert amount >= 0
    assert port_probe(BACKENDS[name], 2).amount == 2 * amount
    assert vnni_probe(2).amount == 2 * vnni_probe(1).amount
    read = read_probe(4096, 2)
    assert read.amount >= 1 << 20
    assert read.amount % 4096 == 0


def test_functions_take_turns_until_their_budget_is_used() -> None:
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = time_in_turns(functions, budget_seconds=1e-9)
    assert order == ["a"] * timings["a"].n_calls + ["b"] * timings["b"].n_calls
    assert all(0 < t.min_seconds <= t.median_seconds for t in timings.values())
    with pytest.raises(ValueError, match="budget_seconds"):
        time_in_turns(functions, budget_seconds=0.0)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_picture_is_written(report: Report, tmp_path: Path) -> None:
    from kernels.bench_roofline import draw_kernels

    path = draw_kernels(report, tmp_path / "new")
    assert path.parent == tmp_path / "new"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_the_command_prints_json_and_nothing_else(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*, quick: bool, say: Callable[[str], object]) -> Report:
        say(f"quick is {quick}")
        return report

    monkeypatch.setattr(bench, "run_kernels", run)
    bench._main(["--quick", "--json"])
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(report.rows)
    bench._main(["kernels"])
    assert capsys.readouterr().out == "quick is False\n"


def test_lines_for_people_name_case_machine_and_limit(report: Report) -> None:
    assert current_backend().name in machine_line(report.machine)
    for row in report.rows:
        heading, ours, *others = row_lines(row)
        assert heading.startswith(
            f"{row.op} {'x'.join(map(str, row.shape))}, {row.n_threads} thread"
        )
        unit = "ns/unit" if row.counts == "units" else "GOPS"
        assert all(unit in line for line in (ours, *others))
        assert all("x as long" in line for line in others)
        assert ("% of" in ours) == (row.ratio_to_limit is not None)
    assert "limits, 2 threads: " in "".join(roof_lines(report.roofs[1]))
