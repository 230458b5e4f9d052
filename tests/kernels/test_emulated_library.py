"""Calls of single functions in the emulator: arguments, arrays, counts, faults."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kernels import BackendUnavailable
from kernels.build import TARGETS, build_library
from kernels.emulate import EmulatedLibrary

pytestmark = pytest.mark.arm

SOURCE = Path(__file__).with_name("emulated_calls.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLibrary]:
    for module in ("ziglang", "unicorn", "elftools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} (extra arm) is missing")
    path = tmp_path_factory.mktemp("calls") / "calls.so"
    command = [sys.executable, "-m", "ziglang", "cc", *TARGETS["aarch64-linux"].zig, str(SOURCE)]
    flags = ["-O1", "-shared", "-fPIC", "-nostdlib", "-ffreestanding", "-s", "-o", str(path)]
    subprocess.run([*command, *flags], check=True, capture_output=True)
    with EmulatedLibrary(path) as calls:
        yield calls


def test_arguments_beyond_the_registers(library: EmulatedLibrary) -> None:
    assert library.call("digits", 1, 1.0, 3, 4, 5, 6, 3.5, 8, 9, 0, 2, 7) == 123456789027
    assert library.call("many_floats", *map(float, range(1, 11))) == sum(
        i * i for i in range(1, 11)
    )


def test_negative_numbers_come_back(library: EmulatedLibrary) -> None:
    assert library.call("digits", *[0, 0.0, 0, 0, 0, 0, 0.0, 0, 0, 0, 0, -5]) == -5


@pytest.mark.parametrize("n", [0, 1, 3, 1024, 1025, 5000])
def test_arrays_are_copied_in_and_out(library: EmulatedLibrary, n: int) -> None:
    first = np.arange(n, dtype=np.int32) - 2
    second = np.full(n, 10, np.int32)
    first.flags.writeable = False
    assert library.call("add", first, second, n) == int(first.sum())
    assert np.array_equal(second, np.arange(n) + 8)
    assert np.array_equal(first, np.arange(n) - 2)


def test_one_array_passed_twice_is_one_array(library: EmulatedLibrary) -> None:
    values = np.arange(5, dtype=np.int32)
    read_only = values.view()
    read_only.flags.writeable = False
    library.call("add", read_only, values, 5)
    assert values.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("n", [3, 1024])
def test_a_read_past_the_end_is_found_and_the_library_lives_on(
    library: EmulatedLibrary, n: int
) -> None:
    values, sums = np.ones(n, np.int32), np.zeros(n + 1, np.int32)
    with pytest.raises(RuntimeError, match=r"add: .*READ_UNMAPPED.* of the library"):
        library.call("add", values, sums, n + 1)
    assert library.call("add", values, sums, n) == n


def test_a_write_past_the_end_is_found(library: EmulatedLibrary) -> None:
    with pytest.raises(RuntimeError, match=r"WRITE_UNMAPPED|READ_UNMAPPED"):
        library.call("add", np.ones(4, np.int32), np.zeros(3, np.int32), 4)


def test_counts_repeat_and_grow(library: EmulatedLibrary) -> None:
    def count(n: int) -> int:
        values = np.ones(n, np.int32)
        result, instructions = library.count("add", values, np.zeros(n, np.int32), n)
        assert result == n
        return instructions

    assert count(64) == count(64)
    per_item = (count(128) - count(64)) / 64
    assert 1 <= per_item <= 8
    assert (count(256) - count(128)) / 128 == per_item


def test_calls_of_several_threads(library: EmulatedLibrary) -> None:
    def total(n: int) -> int:
        return library.call("add", np.ones(n, np.int32), np.zeros(n, np.int32), n)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(total, range(40))) == list(range(40))


def test_wrong_arguments_are_named(library: EmulatedLibrary) -> None:
    with pytest.raises(TypeError, match="add: expected int, float or array, got str"):
        library.call("add", "1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add: expected C-contiguous arrays"):
        library.call("add", np.zeros((4, 4), np.int32).T, 0, 0)
    with pytest.raises(RuntimeError, match="there is no function nothing"):
        library.call("nothing")


def test_a_closed_library_says_so() -> None:
    library = EmulatedLibrary(build_library("aarch64-linux", part="kernels"))
    assert library.call("bsk_backends") == 1 << 0 | 1 << 3
    library.close()
    library.close()
    with pytest.raises(RuntimeError, match="emulator: closed"):
        library.call("bsk_backends")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(b"\x7fELF" + bytes(14) + b"\x3e\x00")
    with pytest.raises(ValueError, match="expected an aarch64 ELF file"):
        EmulatedLibrary(tmp_path / "x.so")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"unicorn: .*pip install 'bitspin\[arm\]'"):
        EmulatedLibrary(Path())
