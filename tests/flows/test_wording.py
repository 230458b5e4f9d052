import math

import pytest

from flows import wording

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def test_lookup_stops_at_what_is_absent_or_null() -> None:
    result = {"bnn": {"accuracy": 0.9}, "qbm": None}
    assert wording.lookup(result, "bnn.accuracy") == 0.9
    assert wording.lookup(result, "qbm.kl") is None
    assert wording.lookup(result, "bnn.accuracy.more") is None


@pytest.mark.parametrize("value", ["0.9", True, [1]])
def test_number_refuses_what_is_none(value: object) -> None:
    with pytest.raises(TypeError, match=r"bnn.accuracy: expected a number or null"):
        wording.number({"bnn": {"accuracy": value}}, "bnn.accuracy")


@pytest.mark.parametrize(
    ("fraction", "stderr", "expected"),
    [
        (0.9053, 0.002928, "90.53 ± 0.29 %"),
        (1.0, None, "100.00 %"),
        (None, 0.1, "not measured"),
    ],
)
def test_percent(fraction: float | None, stderr: float | None, expected: str) -> None:
    assert wording.percent(fraction, stderr) == expected


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (-241.8273, 0.8123, f"{MINUS}241.83 ± 0.81 nats"),
        (-241.8273, 12.3, f"{MINUS}241.8 ± 12.3 nats"),
        (-241.8273, 0.00012, f"{MINUS}241.8273 ± 0.0001 nats"),
        (0.06142, None, "0.0614 nats"),
        (1234.5, None, "1,234.50 nats"),
        (math.inf, None, "infinite nats"),
        (math.nan, None, "undefined (nan) nats"),
        (None, None, "not measured"),
    ],
)
def test_nats_show_two_digits_of_the_error(
    value: float | None, stderr: float | None, expected: str
) -> None:
    assert wording.nats(value, stderr) == expected


def test_points_say_which_side() -> None:
    assert wording.points(0.0127) == "1.27 points above"
    assert wording.points(-0.0127) == "1.27 points below"
    assert wording.points(0.00001) == "equal to"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.02, "0.02 s"),
        (9.996, "10.0 s"),
        (59.96, "1 min 00 s"),
        (121.4, "2 min 01 s"),
        (3599.6, "1 h 00 min"),
        (7320, "2 h 02 min"),
        (None, "not measured"),
    ],
)
def test_duration_never_reads_sixty(seconds: float | None, expected: str) -> None:
    assert wording.duration(seconds) == expected


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [(999, "999 bytes"), (25344, "25.3 kB"), (1_250_000, "1.25 MB"), (None, "not measured")],
)
def test_size(n_bytes: float | None, expected: str) -> None:
    assert wording.size(n_bytes) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "\N{EN DASH}"),
        (True, "yes"),
        (3612672, "3,612,672"),
        (-0.5, f"{MINUS}0.5"),
        ([28, 28, 1], f"28 {TIMES} 28 {TIMES} 1"),
        (["a", 1], "a, 1"),
        ("two\n lines", "two lines"),
    ],
)
def test_plain(value: object, expected: str) -> None:
    assert wording.plain(value) == expected


def test_flatten_writes_numbers_as_in_a_configuration_file() -> None:
    tree = {"bnn": {"widths": [32, 64], "n_steps": 10000, "rate": 0.01}, "path": None}
    assert wording.flatten(tree) == (
        ("bnn.widths", "32, 64"),
        ("bnn.n_steps", "10000"),
        ("bnn.rate", "0.01"),
        ("path", "\N{EN DASH}"),
    )


def test_moment_and_titles() -> None:
    assert wording.moment("2026-11-23T11:13:05.5+00:00") == "2026-11-23 11:13:05 UTC"
    assert wording.title_of("n_binary_macs") == "binary MACs"
