"""The figures of one classifier, or of several that differ in their seed, side by side."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows import sentences
from flows.reproduction import is_reproduced
from flows.wording import Result, count, decimal, lookup, number, percent, words
from workers.storage import Json

_MINUTE = 60.0


@dataclass(frozen=True)
class Score:
    """One row: where it stands in the record of a run, and how it is written."""

    title: str
    read: Callable[[Result], float | None]
    write: Callable[[float | None], str]


def _at(path: str) -> Callable[[Result], float | None]:
    return lambda result: number(result, path)


def _minutes_at(path: str) -> Callable[[Result], float | None]:
    def read(result: Result) -> float | None:
        seconds = number(result, path)
        return None if seconds is None else seconds / _MINUTE

    return read


def _gap(result: Result) -> float | None:
    return sentences.difference(result, "bnn.twin_accuracy", "bnn.test_accuracy")


def _points(value: float | None) -> str:
    return "not measured" if value is None else f"{decimal(100 * value, 2)} points"


def _minutes(value: float | None) -> str:
    return decimal(value, 1)


SCORES: Final[Mapping[str, Score]] = {
    "test_accuracy": Score("accuracy", _at("bnn.test_accuracy"), percent),
    "test_accuracy_stderr": Score("  its binomial error", _at("bnn.test_accuracy_stderr"), percent),
    "twin_accuracy": Score("full-precision twin", _at("bnn.twin_accuracy"), percent),
    "gap": Score("  gap to the twin", _gap, _points),
    "floor_accuracy": Score("floor", _at("bnn.floor_accuracy"), percent),
    "integer_accuracy": Score("integer network", _at("bnn.integer_accuracy"), percent),
    "class_agreement": Score("  same class as floats", _at("bnn.class_agreement"), percent),
    "n_binary_weights": Score("one-bit weights", _at("bnn.n_binary_weights"), count),
    "model_bytes": Score("bytes of the model file", _at("export.bytes"), count),
    "minutes": Score("minutes of training", _minutes_at("bnn.seconds"), _minutes),
    "twin_minutes": Score("  of the twin's", _minutes_at("bnn.twin_seconds"), _minutes),
    "total_minutes": Score("  of everything", _minutes_at("seconds.total"), _minutes),
    "host_images": Score("images on the host", _at("verify.host_images"), count),
    "host_mismatches": Score("  mismatches", _at("verify.host_mismatches"), count),
    "arm_images": Score("images on ARM", _at("verify.arm_images"), count),
    "arm_mismatches": Score("  mismatches", _at("verify.arm_mismatches"), count),
}
"""Rows by their key in JSON, in the order of the table."""


def score_of(result: Result) -> dict[str, Json]:
    """Read the figures of a run, and what the zoo says about them.

    Returns
    -------
    dict
        Every key of :data:`SCORES`, None where nothing was measured; ``run_key``, ``title``,
        ``seed``, ``recipe``, ``changes``, ``expected_accuracy``, ``is_reproduced``.
    """
    seed, changes = lookup(result, "config.bnn.seed"), lookup(result, "zoo.changes")
    score: dict[str, Json] = {
        "run_key": words(result, "run_key"),
        "title": words(result, "title"),
        "seed": seed if isinstance(seed, int) else None,
        "recipe": words(result, "zoo.recipe") if lookup(result, "zoo.recipe") else None,
        "changes": [str(change) for change in changes] if isinstance(changes, list) else [],
        "expected_accuracy": number(result, "zoo.expected_accuracy"),
        "is_reproduced": is_reproduced(result),
    }
    return score | {key: row.read(result) for key, row in SCORES.items()}


def score_record(scores: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """Gather the figures of all runs for a script, with mean and spread over more than one.

    Returns
    -------
    dict
        ``runs``, a list of :func:`score_of`; ``mean`` and ``spread`` by key, where the spread is
        the sample standard deviation (n - 1), None for a single run.
    """
    mean: dict[str, Json] = {}
    spread: dict[str, Json] = {}
    for key in SCORES:
        values = _values(scores, key)
        complete = len(values) == len(scores)
        mean[key] = statistics.fmean(values) if complete and values else None
        spread[key] = statistics.stdev(values) if complete and len(values) > 1 else None
    return {"runs": [dict(score) for score in scores], "mean": mean, "spread": spread}


def score_table(scores: Sequence[Mapping[str, Json]]) -> RenderableType:
    """Lay the figures out: a row for each, a column for each run, mean and spread if several.

    Parameters
    ----------
    scores
        One or more records of :func:`score_of`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for score in scores:
        table.add_column(f"seed {score['seed']}", justify="right", no_wrap=True)
    record = score_record(scores)
    if len(scores) > 1:
        table.add_column("mean ± spread", justify="right", no_wrap=True)
    for key, row in SCORES.items():
        cells = [row.write(_number(score[key])) for score in scores]
        if len(scores) > 1:
            cells.append(_mean_and_spread(record, key, row))
        table.add_row(row.title, *cells)
    verdicts = [_verdict(score) for score in scores]
    if any(verdicts):
        last = [""] if len(scores) > 1 else []
        table.add_row(f"zoo, {scores[0]['recipe']}", *verdicts, *last)
    return Group(Text(str(scores[0]["title"]), "bold"), table, *_changes(scores))


def _mean_and_spread(record: Mapping[str, Json], key: str, row: Score) -> str:
    mean, spread = record["mean"], record["spread"]
    assert isinstance(mean, dict)
    assert isinstance(spread, dict)
    centre, width = _number(mean[key]), _number(spread[key])
    if centre is None:
        return row.write(None)
    return f"{row.write(centre)} ± {row.write(width)}"


def _verdict(score: Mapping[str, Json]) -> str:
    """What the zoo expects and whether it came, in a cell."""
    if score["recipe"] is None:
        return ""
    expected = _number(score["expected_accuracy"])
    if expected is None:
        return "not yet measured"
    if score["changes"]:
        return f"{percent(expected)}, not comparable"
    return f"{percent(expected)}, {'reproduced' if score['is_reproduced'] else 'NOT REPRODUCED'}"


def _changes(scores: Sequence[Mapping[str, Json]]) -> list[Text]:
    changes = scores[0]["changes"]
    if not isinstance(changes, list) or not changes:
        return []
    return [Text(f"changed from the recipe: {', '.join(map(str, changes))}", "yellow")]


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _values(scores: Sequence[Mapping[str, Json]], key: str) -> list[float]:
    found = [_number(score[key]) for score in scores]
    return [value for value in found if value is not None]
