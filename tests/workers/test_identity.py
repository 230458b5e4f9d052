import re
from pathlib import Path

import pytest

from workers import identity
from workers.identity import code_digest, machine_arithmetic, run_key

ARITHMETIC = {"torch": "2.13.0", "instruction_set": "AVX2", "threads_per_worker": 1}


def test_a_key_is_sixteen_hex_digits_and_does_not_depend_on_order() -> None:
    key = run_key({"a": 1, "b": {"c": 2, "d": 3}}, "00", ARITHMETIC)
    assert re.fullmatch("[0-9a-f]{16}", key)
    assert key == run_key({"b": {"d": 3, "c": 2}, "a": 1}, "00", ARITHMETIC)


def test_every_ingredient_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = run_key({"a": 1}, "00", ARITHMETIC)
    others = [
        run_key({"a": 2}, "00", ARITHMETIC),
        run_key({"a": 1}, "01", ARITHMETIC),
        run_key({"a": 1}, "00", {**ARITHMETIC, "threads_per_worker": 2}),
    ]
    monkeypatch.setattr(identity, "code_digest", lambda: "other code")
    others.append(run_key({"a": 1}, "00", ARITHMETIC))
    assert len({key, *others}) == 5


def test_the_code_digest_sees_c_sources_and_not_the_flows(tmp_path: Path) -> None:
    assert code_digest() == code_digest.__wrapped__()
    assert "flows" not in identity._ROOMS
    assert {".py", ".c", ".h"} <= set(identity._SOURCES)


def test_arithmetic_names_what_floats_depend_on() -> None:
    assert machine_arithmetic(3)["threads_per_worker"] == 3
    on_cpu = {"torch", "instruction_set", "threads_per_worker"}
    assert set(machine_arithmetic(1)) == on_cpu
    assert set(machine_arithmetic(1, "cuda")) == on_cpu | {"gpu"}
