"""The benchmark of a GPU without one: every row is there, cases compute what they say, figures add up.

Cases run on the CPU, thread by thread, with sizes of a few units and made-up times.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from kernels import bench, bench_gpu, bench_gpu_cases, bench_gpu_models, bench_gpu_setting
from kernels.bench_gpu_cases import CASES, Case, ising_thresholds, onsager_energy
from kernels.bench_gpu_models import saved_bytes, ste_sign
from kernels.bench_gpu_probes import PROBES
from kernels.bench_gpu_report import (
    FAILED,
    NOT_MEASURED,
    GpuReport,
    Rate,
    Row,
    rate_line,
    row_lines,
)
from kernels.bench_gpu_setting import Measured, Setting, check
from kernels.bench_gpu_timing import Contender, calls_per_sample, n_copies, time_on_device
from kernels.bench_timing import Timing
from kernels.cuda_shim import ShimLauncher

GOALS = {
    "gemv": 8.0,
    "gemm bits": 2.0,
    "gemm int32": None,
    "gemm of ceiling": 0.7,
    "gibbs eager": 2.5,
    "gibbs compile": 2.5,
    "lattice": 400.0,
    "layer bytes": 8.0,
    "layer time": 1.0,
    "rbm": 2.0,
}
"""What is promised; the second of them is only shown."""

BASELINES = {
    "cuBLAS bf16",
    "torch bf16 eager",
    "torch bf16 compile",
    "torch bf16 autocast",
    "torch bf16",
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "missing", lambda: "no GPU here")


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Cases of a few units; baselines take 6 us, everything else 2 us; each runs once."""

    def fake(contenders: Mapping[str, Contender], *, n_samples: int) -> dict[str, Timing]:
        for contender in contenders.values():
            for run in contender.runs:
                run()
        return {
            name: Timing(1e-6, 6e-6 if name in BASELINES else 2e-6, n_samples)
            for name in contenders
        }

    sizes = {
        bench_gpu_cases: {
            "GEMV_SIZE": 64,
            "GEMM_SIZE": 64,
            "CHAINS": 64,
            "VISIBLE": 33,
            "HIDDEN": 40,
            "LATTICE_SIZE": 64,
            "_SWEEPS": 4,
            "_ENERGY_TOLERANCE": 0.2,
        },
        bench_gpu_models: {
            "IMAGES": 2,
            "CHANNELS": 32,
            "SIZE": 5,
            "BATCH": 64,
            "VISIBLE": 33,
            "HIDDEN": 40,
        },
    }
    for module, names in sizes.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(bench_gpu_setting, "time_on_device", fake)
    monkeypatch.setattr(Setting, "compiled", lambda self, function, x: function)
    torch.manual_seed(1)
    rates = {"mma b1": 1e-6, "wgmma b1": 2e-6, "copy": 3.0}
    return Setting(ShimLauncher((9, 0)), 2048, 10, rates)


def report(say: Callable[[str], object] = lambda line: None) -> GpuReport:
    return bench_gpu.run_gpu(say=say)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_every_row_is_there_and_has_no_figure() -> None:
    found = report()
    assert found.device is None
    assert [each.name for each in found.rates] == [*PROBES, "copy"]
    assert {row.name: row.goal for row in found.rows} == GOALS
    for each in found.rates:
        assert each == Rate(each.name, each.title, each.unit, note=f"{NOT_MEASURED}no GPU here")
    for row in found.rows:
        assert row == Row(
            row.name, row.title, row.unit, row.goal, note=f"{NOT_MEASURED}no GPU here"
        )
    assert not found.has_failed


@pytest.mark.usefixtures("no_gpu")
def test_the_command_prints_json_and_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench._main(["gpu", "--json", "--out", str(tmp_path / "new")])
    assert not stop.value.code
    out = capsys.readouterr().out
    read = json.loads(out)
    assert set(read) == {"device", "rates", "rows"}
    assert all(row["value"] is None and row["is_met"] is None for row in read["rows"])
    assert (tmp_path / "new" / "gpu.json").read_text() == out


@pytest.mark.usefixtures("no_gpu")
def test_the_command_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench._main(["gpu", "--quick"])
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(PROBES) + 1 + len(GOALS)
    assert all("not measured: no GPU here" in line for line in lines)


EXPECTED = {
    "gemv": 3.0,
    "gemm bits": 3.0,
    "gemm int32": 3.0,
    "gemm of ceiling": 2 * 64**3 / 2e-6 / 2e6,  # of 2e-6 * 1e12 a second
    "gibbs eager": 3.0,
    "gibbs compile": 3.0,
    "lattice": 64**2 / 2e-6 / 1e9,
    "layer time": 3.0,
    "rbm": 3.0,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rows[0].name)
def test_a_case_checks_itself_and_its_figures_add_up(case: Case, setting: Setting) -> None:
    rows = bench_gpu.measure_case(case, setting, "")
    for row in rows:
        assert row.note == ""
        assert row.value is not None
        if row.name in EXPECTED:
            assert row.value == pytest.approx(EXPECTED[row.name])
        assert row.is_met == (None if row.goal is None else row.value >= row.goal)
        assert row.medians
        assert row.n_samples == 10


def test_a_product_is_timed_on_every_path_of_the_device(setting: Setting) -> None:
    names = {name: set(bench_gpu_cases.measure_gemm(setting).timings) for name in ("now",)}
    assert names["now"] == {
        "cuBLAS bf16",
        *(f"{path} {kind}" for path in ("popc", "b1", "wgmma", "s8") for kind in ("bits", "int32")),
    }


def test_a_wrong_result_is_a_failure_and_not_a_figure(setting: Setting) -> None:
    def wrong(setting: Setting) -> Measured:
        check("product", False)
        raise AssertionError

    (row,) = bench_gpu.measure_case(Case(wrong, (Row("a", "A", "times", 2.0),)), setting, "")
    assert row.note == f"{FAILED}RuntimeError: product: the result is not what it must be"
    assert row.value is None
    assert GpuReport(None, (), (row,)).has_failed


def test_a_row_without_its_contender_is_not_measured(setting: Setting) -> None:
    case = Case(lambda setting: Measured({}, {}), (Row("a", "A", "times", 2.0),))
    (row,) = bench_gpu.measure_case(case, setting, "")
    assert row.note.startswith(NOT_MEASURED)


def test_rates_and_verdicts_from_made_up_times() -> None:
    timing = Timing(1e-3, 2e-3, 12)
    found = Rate("copy", "Copy", "TB/s").measured(timing, 4 * 10**9)
    assert (found.rate, found.median_seconds, found.min_seconds) == (2.0, 2e-3, 1e-3)
    assert "2.00 TB/s" in rate_line(found)
    row = Row("a", "A", "times", 2.0)
    assert row.measured(2.0, {"x": timing}).is_met
    assert not row.measured(1.99, {"x": timing}).is_met
    assert Row("a", "A", "times", None).measured(1.0, {"x": timing}).is_met is None
    heading, line = row_lines(row.measured(1.5, {"x": timing}))
    assert heading == "A: 1.50 times, goal 2, NOT met"
    assert "median 2,000.0 us, best 1,000.0 us" in line


def test_samples_are_long_enough_and_sets_larger_than_the_cache() -> None:
    assert calls_per_sample(1e-6, 1) == 200
    assert calls_per_sample(1e-4, 1) == 3
    assert calls_per_sample(1.0, 4) == 4
    assert calls_per_sample(1e-5, 7) == 35
    assert n_copies(8 << 20, 50 << 20) == 13
    assert n_copies(1 << 30, 50 << 20) == 1
    with pytest.raises(ValueError, match="n_samples: expected at least 10"):
        time_on_device({}, n_samples=9)


def test_onsager_and_thresholds() -> None:
    assert onsager_energy(1e-6) == pytest.approx(-2e-6, rel=1e-4)  # -2 tanh(beta) for small beta
    assert onsager_energy(math.log(1 + math.sqrt(2)) / 2 - 1e-9) == pytest.approx(
        -math.sqrt(2), abs=1e-6
    )
    assert onsager_energy(2.0) == pytest.approx(-2.0, abs=1e-5)
    assert ising_thresholds(0.0) == (2**23,) * 5
    low = ising_thresholds(0.5)
    assert low[0] == round(2**24 / (1 + math.exp(4)))
    assert all(a + b == 2**24 for a, b in zip(low, low[::-1], strict=True))


def test_saved_bytes_count_a_tensor_once_and_no_parameter() -> None:
    x = torch.randn(10, 20, requires_grad=True)
    w = torch.randn(5, 20, requires_grad=True)
    assert saved_bytes(lambda: x @ w.T, w) == 10 * 20 * 4
    assert saved_bytes(lambda: (x * x) + (x * 2), w) == 10 * 20 * 4


def test_ste_is_a_sign_with_the_gradient_of_the_cut_identity() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    y = ste_sign(x)
    assert y.tolist() == [-1, -1, 1, 1, 1]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
