"""The pool: ranges cover all items once, failures surface, nothing waits for ever."""

import os
import subprocess
import sys
import threading
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import threads
from kernels.threads import available_cores, default_threads, run_ranges, split


@settings(deadline=None, max_examples=60)
@given(n_items=st.integers(0, 500), n_ranges=st.integers(1, 9), grain=st.integers(1, 70))
def test_ranges_cover_the_items_in_whole_grains(n_items: int, n_ranges: int, grain: int) -> None:
    ranges = split(n_items, n_ranges, grain)
    assert [i for begin, end in ranges for i in range(begin, end)] == list(range(n_items))
    assert len(ranges) <= n_ranges
    assert all(begin % grain == 0 and begin < end for begin, end in ranges)
    grains = [-(-(end - begin) // grain) for begin, end in ranges]
    assert not grains or max(grains) - min(grains) <= 1


def test_every_item_is_done_once_and_the_caller_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    monkeypatch.setattr(threads, "_pool", None)
    done: list[int] = []
    names: set[str] = set()

    def work(begin: int, end: int) -> None:
        done.extend(range(begin, end))
        names.add(threading.current_thread().name)

    run_ranges(work, 100, n_threads=3)
    assert sorted(done) == list(range(100))
    assert threading.current_thread().name in names
    assert any(name.startswith("bitspin") for name in names)


def test_the_pool_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(threads, "_pool", None)
    seen: set[int] = set()
    for _ in range(20):
        run_ranges(lambda _begin, _end: seen.add(threading.get_ident()), 2, n_threads=2)
    assert len(seen) <= 3  # the caller and at most the two threads of the pool


def test_one_thread_or_nothing_to_do_starts_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_get_pool", lambda: pytest.fail("a pool was asked for"))
    calls: list[tuple[int, int]] = []
    run_ranges(lambda begin, end: calls.append((begin, end)), 10, n_threads=1)
    run_ranges(lambda begin, end: calls.append((begin, end)), 10, n_threads=4, grain=10)
    run_ranges(lambda begin, end: calls.append((begin, end)), 0)
    assert calls == [(0, 10), (0, 10)]


def test_a_range_inside_a_range_does_not_wait_for_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(threads, "_pool", None)
    done: list[tuple[int, int]] = []

    def inner(begin: int, end: int) -> None:
        done.append((begin, end))

    def outer(begin: int, end: int) -> None:
        for _ in range(begin, end):
            run_ranges(inner, 5, n_threads=2)

    run_ranges(outer, 8, n_threads=2)
    assert done == [(0, 5)] * 8


def test_the_earliest_failure_is_raised_after_all_ranges_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    monkeypatch.setattr(threads, "_pool", None)
    ended: list[int] = []

    def work(begin: int, _end: int) -> None:
        ended.append(begin)
        if begin > 0:
            raise KeyError(begin)

    with pytest.raises(KeyError, match=r"^3$"):
        run_ranges(work, 9, n_threads=3)
    assert sorted(ended) == [0, 3, 6]
    run_ranges(lambda _begin, _end: None, 9, n_threads=3)  # the pool is still good


def test_never_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(threads, "_pool", None)
    calls: list[int] = []
    run_ranges(lambda begin, _end: calls.append(begin), 100, n_threads=64)
    assert sorted(calls) == [0, 50]


def _threads_in_a_new_process(variable: str | None, preload: str = "") -> str:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if variable is not None:
        environment["OMP_NUM_THREADS"] = variable
    code = f"{preload}\nimport kernels.threads as t\nt.available_cores = lambda: 4\n"
    code += "import sys\nprint(t.default_threads(), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_default_follows_the_environment_without_loading_torch() -> None:
    assert _threads_in_a_new_process("3") == "3 False"
    assert _threads_in_a_new_process("99") == "4 False"  # not more than cores
    assert _threads_in_a_new_process(None) == "4 False"


def test_the_default_follows_torch_where_it_is_loaded() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert default_threads() == 1
        torch.set_num_threads(1000)
        assert default_threads() == available_cores()
    finally:
        torch.set_num_threads(before)


def _sum_in_child() -> None:
    total: list[int] = []
    run_ranges(lambda begin, end: total.append(sum(range(begin, end))), 10, n_threads=2)
    os._exit(0 if sum(total) == 45 else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(threads, "_pool", None)
    run_ranges(lambda _begin, _end: None, 2, n_threads=2)
    child = get_context("fork").Process(target=_sum_in_child, daemon=True)
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_wrong_counts_are_named() -> None:
    with pytest.raises(ValueError, match=r"n_items >= 0, grain >= 1 and n_threads >= 1, got -1"):
        run_ranges(lambda _begin, _end: None, -1)
