"""The ARM benchmark: its counts are exact, so they are compared with counts made otherwise."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from kernels import bench, bench_arm
from kernels.arm_model import CORES
from kernels.bench_arm import (
    PRODUCT_BITS,
    ArmReport,
    CountingLibrary,
    count_layer,
    loaded_bytes,
    run_arm,
)
from kernels.bench_roofline import draw_arm
from kernels.build import build_library
from kernels.emulate import EmulatedLibrary
from kernels.errors import BackendUnavailable
from kernels.matmul import pack_rows

pytestmark = pytest.mark.arm

BLIND = "llvm-mca: not found"


@pytest.fixture(scope="module", autouse=True)
def _extra() -> None:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'bitspin[arm]'")


@pytest.fixture(scope="module")
def library():  # type: ignore[no-untyped-def]
    library = EmulatedLibrary(build_library(bench_arm.TARGET, part="kernels"))
    yield library
    library.close()


@pytest.fixture(scope="module")
def report() -> ArmReport:
    """Counted only, as where llvm-mca is missing."""

    def find_nothing() -> None:
        raise BackendUnavailable(BLIND)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_arm, "find_llvm", find_nothing)
        patch.setattr(bench_arm, "LAYERS", ((3, 4, 32, 8),))
        return run_arm(quick=True)


def test_instructions_of_calls_add_up(library: EmulatedLibrary) -> None:
    counted = CountingLibrary(library)
    assert counted.call("bsk_backends") >> 3 & 1
    assert counted.instructions == 0
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    words = pack_rows(x, library=counted)
    once = counted.instructions
    assert words.tolist() == pack_rows(x).tolist() == [[0, 0xFFFFFFFF]]
    pack_rows(x, library=counted)
    assert counted.instructions == 2 * once > 0


def test_a_layer_costs_more_than_its_product(library: EmulatedLibrary) -> None:
    layer = count_layer(library, (5, 6, 64, 16))
    n_products = 5 * 6 * 16 * 9 * 64 / PRODUCT_BITS
    assert layer.ratio == pytest.approx(layer.instructions / layer.product_instructions)
    assert layer.per_product == pytest.approx(layer.instructions / n_products)
    assert layer.product_instructions > 3 * n_products  # xor, count, add
    assert layer.instructions > layer.product_instructions
    assert count_layer(library, (5, 6, 64, 16)) == layer


def test_loads_are_measured_in_bytes() -> None:
    loop = (
        "ldr q0, [x1, #16]",
        "ldp\tq2, q3, [x9, #0x20]",
        "ldr d1, [x0], #8",
        "ld1 { v0.16b, v1.16b, v2.16b }, [x0], #48",
        "eor v0.16b, v0.16b, v1.16b",
        "ldr x3, [x4]",
        "b.ne loop",
    )
    assert loaded_bytes(loop) == 16 + 32 + 8 + 48


def test_without_llvm_it_counts_and_says_what_is_missing(report: ArmReport) -> None:
    assert report.not_modelled == BLIND
    assert (report.loops, report.loads, report.bytes_per_product) == ((), (), None)
    assert [p.n_bits for p in report.products] == [1024]
    assert 3 < report.products[0].marginal < report.products[0].gross
    assert {e.operation for e in report.elements} >= {"pack_f32", "threshold"}
    assert [layer.shape for layer in report.layers] == [(3, 4, 32, 8)]
    read = json.loads(json.dumps(dataclasses.asdict(report)))
    assert read["layers"][0]["instructions"] == report.layers[0].instructions


def test_the_model_has_every_core(tmp_path: Path, report: ArmReport) -> None:
    try:
        llvm = bench_arm.find_llvm()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    path = build_library(bench_arm.TARGET, part="kernels")
    loops = bench_arm.model_loop(path, llvm)
    loads = bench_arm.model_loads(llvm)
    assert [load.core for load in loads] == [loop.core for loop in loops] == list(CORES)
    assert all(8 <= load.bytes_per_cycle <= 64 for load in loads)
    n_bytes = loaded_bytes(bench_arm.inner_loop(path, llvm)) / loops[0].n_products
    assert 2 < n_bytes < 16  # a product alone would load 32
    full = dataclasses.replace(report, loops=loops, loads=loads, bytes_per_product=n_bytes)
    wide, narrow = draw_arm(full, tmp_path / "a"), draw_arm(report, tmp_path / "b")
    assert wide.read_bytes()[:4] == narrow.read_bytes()[:4] == b"\x89PNG"
    assert _width(wide) > 1.5 * _width(narrow)


def test_the_command_prints_json_and_nothing_else(
    report: ArmReport, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run_arm", lambda quick, say: (say("noise"), report)[1])
    bench._main(["arm", "--json"])
    assert json.loads(capsys.readouterr().out)["not_modelled"] == BLIND


def test_what_is_missing_ends_the_command_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> ArmReport:
        raise BackendUnavailable("zig is missing; pip install 'bitspin[arm]'")

    monkeypatch.setattr(bench, "run_arm", refuse)
    with pytest.raises(SystemExit) as stop:
        bench._main(["arm"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "python -m kernels.bench: zig is missing; pip install 'bitspin[arm]'\n"
    )


def _width(picture: Path) -> int:
    return int.from_bytes(picture.read_bytes()[16:20])
