"""The choice of a back end: forced, automatic, and refused with a way out."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kernels import Model, Runtime, backends, write_model
from kernels.backends import BACKENDS, Backend, available_backends, current_backend, use_backend
from kernels.errors import BackendUnavailable
from kernels.matmul import Panels, matmul, pack_rows

NO_X86 = 1 << 0 | 1 << 3  # as bsk_backends answers on ARM


@pytest.fixture(autouse=True)
def _fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("BITSPIN_BACKEND", raising=False)
    backends._best.cache_clear()
    yield
    backends._best.cache_clear()


def test_codes_and_names_are_distinct_and_the_reference_is_last() -> None:
    codes = [backend.code for backend in BACKENDS.values()]
    assert len(set(codes)) == len(codes)
    assert list(BACKENDS)[-1] == "reference"
    assert BACKENDS["reference"].code is None


def test_the_best_that_is_there_is_chosen_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "_mask", lambda: NO_X86)
    caplog.set_level(logging.INFO, "kernels.backends")
    assert [current_backend().name for _ in range(3)] == ["neon"] * 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["backend neon, the best of neon, portable, reference"]


def test_the_choice_follows_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for mask, name in ((0b111, "avx512"), (0b011, "avx2"), (0b001, "portable"), (0, "reference")):
        monkeypatch.setattr(backends, "_mask", lambda mask=mask: mask)
        backends._best.cache_clear()
        assert current_backend().name == name


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("aarch64", ["fp asimd asimddp", "fp asimddp asimd"], True),
        ("aarch64", ["fp asimd asimddp", "fp asimd"], False),  # not all cores
        ("aarch64", ["fp asimd asimddpx"], False),
        ("aarch64", [], False),
        ("x86_64", ["asimddp"], False),
    ],
)
def test_linux_says_whether_there_is_a_dot_product(
    machine: str,
    features: list[str],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lines = [f"processor\t: {i}\nFeatures\t: {line}\n" for i, line in enumerate(features)]
    (tmp_path / "cpuinfo").write_text("\n".join(lines))
    monkeypatch.setattr(backends, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert backends.has_dot_product() is expected


def test_the_dot_product_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_mask", lambda: NO_X86 | 1 << 4)
    assert current_backend().name == "dotprod"


def test_a_model_runs_with_the_dot_product(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Backend | None] = []

    class Recorder:
        def __init__(self, _path: Path) -> None: ...

        def open(self, _data: bytes, backend: Backend | None) -> None:
            asked.append(backend)

    monkeypatch.setattr("kernels.native.Library", Recorder)
    for is_there in (True, False):
        monkeypatch.setattr("kernels.native.has_dot_product", lambda is_there=is_there: is_there)
        Runtime(write_model(tiny_model), Path("library"))
    assert asked == [BACKENDS["dotprod"], None]


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
def test_what_is_absent_raises_and_names_what_provides_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_mask", lambda: 0)
    with pytest.raises(BackendUnavailable) as refused, use_backend(name):
        pytest.fail("entered")
    assert str(refused.value) == (
        f"backend {name}: needs {BACKENDS[name].needs}; here there are reference"
    )
    monkeypatch.setenv("BITSPIN_BACKEND", name)
    with pytest.raises(BackendUnavailable, match=f"backend {name}: needs"):
        current_backend()
    with pytest.raises(BackendUnavailable, match=f"backend {name}: needs"):
        pack_rows(np.zeros((1, 8), np.float32))  # nothing is replaced silently
    with pytest.raises(BackendUnavailable, match=f"backend {name}: needs"):
        Panels.of(np.zeros((1, 1), np.uint32), 8)


@pytest.mark.parametrize("name", available_backends())
def test_forced_by_block_or_by_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_backend(name):
        assert current_backend() is BACKENDS[name]
    monkeypatch.setenv("BITSPIN_BACKEND", name)
    assert current_backend() is BACKENDS[name]
    with use_backend("reference"):
        assert current_backend().name == "reference"  # the block is stronger
    assert current_backend().name == name


def test_blocks_nest_and_end_also_after_an_error() -> None:
    with use_backend("reference"):
        with pytest.raises(KeyError), use_backend("portable"):
            raise KeyError
        assert current_backend().name == "reference"
    assert current_backend().name == available_backends()[0]


def test_an_unknown_name_lists_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "backend: expected one of avx512, avx2, dotprod, neon, portable, reference, got 'sse'"
    with pytest.raises(ValueError, match=message), use_backend("sse"):
        pytest.fail("entered")
    monkeypatch.setenv("BITSPIN_BACKEND", "sse")
    with pytest.raises(ValueError, match=message):
        current_backend()


def test_without_a_library_the_reason_is_said_and_numpy_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise BackendUnavailable("host: no C compiler found")

    monkeypatch.setattr("kernels.backends.host_library", refuse)
    backends._mask.cache_clear()
    try:
        words = np.array([[3], [5]], np.uint32)
        result = matmul(words, Panels.of(words, 8))
    finally:
        backends._mask.cache_clear()
    assert np.array_equal(result, [[8, 4], [4, 8]])
    assert "no compiled kernels, numpy computes instead: host: no C compiler" in caplog.text
