"""How the numbers of a run are looked up in its record and put into words.

Every number that was not taken reads :data:`NOT_MEASURED`; it is never shown as zero or left out.
``±`` always means one standard error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

Result: TypeAlias = Mapping[str, object]
"""The record of a run as it stands in ``result.json``."""

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
_ACRONYMS = {"macs": "MACs", "kl": "KL", "bnn": "BNN", "rbm": "RBM", "int8": "int8"}


def lookup(result: Result, path: str) -> object:
    """Find the value at a dotted path, None where any part of the path is absent or null."""
    value: object = result
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def number(result: Result, path: str) -> float | None:
    """Find the number at a dotted path, None where there is none.

    Raises
    ------
    TypeError
        If something other than a number stands there.
    """
    value = lookup(result, path)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{path}: expected a number or null, got {value!r}")
    return value


def has_machines(result: Result) -> bool:
    """Whether the run was asked for Boltzmann machines; one of the classifier alone was not."""
    return lookup(result, "job") != "bnn"


def rows(result: Result, path: str) -> tuple[Mapping[str, object], ...]:
    """Find the list of records at a dotted path, empty where there is none."""
    value = lookup(result, path)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(row for row in value if isinstance(row, Mapping))


def words(result: Result, path: str) -> str:
    """Write the value at a dotted path on one line, :data:`NOT_MEASURED` where there is none."""
    value = lookup(result, path)
    return NOT_MEASURED if value is None else plain(value)


def _signed(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "undefined (nan)"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    text = f"{value:,.{decimals}f}"
    return MINUS + text[1:] if text.startswith("-") else text


def percent(fraction: float | None, stderr: float | None = None) -> str:
    """Write a fraction as percent with two decimals, e.g. ``90.53 ± 0.29 %``."""
    if fraction is None:
        return NOT_MEASURED
    error = "" if stderr is None else f" ± {_signed(100 * stderr, 2)}"
    return f"{_signed(100 * fraction, 2)}{error} %"


def points(difference: float) -> str:
    """Write a difference of two fractions in percentage points, in words."""
    if round(100 * abs(difference), 2) == 0:
        return "equal to"
    return f"{abs(100 * difference):.2f} points {'above' if difference > 0 else 'below'}"


def nats(value: float | None, stderr: float | None = None) -> str:
    """Write a value in nats; two digits of the standard error decide the decimals (1 to 4)."""
    if value is None:
        return NOT_MEASURED
    if stderr is not None and math.isfinite(stderr) and stderr > 0:
        decimals = min(4, max(1, 1 - math.floor(math.log10(stderr))))
    else:
        decimals = 2 if abs(value) >= 10 else 4
    error = "" if stderr is None else f" ± {_signed(stderr, decimals)}"
    return f"{_signed(value, decimals)}{error} nats"


def count(value: float | None) -> str:
    """Write a whole number with thousands separators; a mean count is rounded to a whole."""
    return NOT_MEASURED if value is None else _signed(value, 0)


def decimal(value: float | None, decimals: int = 4) -> str:
    """Write a number with a fixed number of decimals."""
    return NOT_MEASURED if value is None else _signed(value, decimals)


def size(n_bytes: float | None) -> str:
    """Write a size in bytes, kB or MB (powers of 1000)."""
    if n_bytes is None:
        return NOT_MEASURED
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    if n_bytes < 1_000_000:
        return f"{n_bytes / 1000:.1f} kB"
    return f"{n_bytes / 1_000_000:.2f} MB"


def duration(seconds: float | None) -> str:
    """Write a duration as ``0.42 s``, ``12.3 s``, ``3 min 05 s`` or ``1 h 02 min``."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(iso: str) -> str:
    """Write a moment in ISO 8601 as ``2026-11-23 11:13:05 UTC``."""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S %Z").strip()


def plain(value: object) -> str:
    """Write any value of the record on one line: numbers grouped, lists joined, null as a dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS, 1) if value < 0 else f"{value:.6g}"
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        parts = list(value)
        between = f" {TIMES} " if all(type(part) is int for part in parts) else ", "
        return between.join(plain(part) for part in parts)
    return str(value)


def title_of(key: str) -> str:
    """Turn a key into a column title: ``n_binary_macs`` becomes ``binary MACs``."""
    parts = key.removeprefix("n_").split("_")
    return " ".join(_ACRONYMS.get(part, part) for part in parts)


def flatten(tree: object, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """List a nested mapping as dotted keys and one-line values, in the order of the mapping.

    Unlike :func:`plain`, numbers are written as in a configuration file, without separators.
    """
    if isinstance(tree, Mapping):
        return tuple(
            pair
            for key, value in tree.items()
            for pair in flatten(value, f"{prefix}.{key}" if prefix else str(key))
        )
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return ((prefix, ", ".join(str(part) for part in tree)),)
    return ((prefix, plain(tree) if tree is None or isinstance(tree, bool | str) else str(tree)),)
