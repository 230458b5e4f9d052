"""Reader of tables: numbers in every column but the last, which is the label."""

import csv
import math
from array import array
from pathlib import Path
from typing import TextIO

import numpy as np

from workers.image_data import MAX_SIDE, DataError, Samples

MAX_COLUMNS = MAX_SIDE * MAX_SIDE
"""Feature columns of the widest table."""
MAX_TABLE_BYTES = 1 << 29
"""Size of the largest file: 512 MiB of text."""


def read_table(path: Path) -> Samples:
    """Read a comma-separated UTF-8 file.

    The first line is a header if none of its columns but the last is a number. Blank lines are
    skipped.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Samples
        Values of shape (N, 1, 1, F), float64.

    Raises
    ------
    DataError
        If the file is not such a table; the message names the line.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: expected at most {MAX_TABLE_BYTES} bytes, got {path.stat().st_size}; "
                "take a part of the rows"
            )
        with path.open(newline="", encoding="utf-8-sig") as stream:
            values, labels = _parse(path, stream)
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable file, got {error.strerror}; correct its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, got {error.reason} at byte {error.start}; "
            "save the table as UTF-8"
        ) from error
    if not labels:
        raise DataError(f"{path}: expected rows of numbers and a label, got none; add some")
    table = np.frombuffer(values, dtype=np.float64).reshape(len(labels), 1, 1, -1)
    return Samples(table, tuple(labels))


def _parse(path: Path, stream: TextIO) -> "tuple[array[float], list[str]]":
    reader = csv.reader(stream, strict=True)
    values = array("d")
    labels: list[str] = []
    n_columns = 0
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            where = f"{path} line {reader.line_num}"
            if not n_columns:
                n_columns = _checked_width(where, fields)
                if all(_number(field) is None for field in fields[:-1]):
                    continue
            if len(fields) != n_columns:
                raise DataError(
                    f"{where}: expected {n_columns} columns as in the first line, "
                    f"got {len(fields)}; correct the line"
                )
            values.extend(_numbers(where, fields[:-1]))
            labels.append(_label(where, fields[-1]))
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num}: expected comma-separated values, got {error}; "
            "correct the line"
        ) from error
    return values, labels


def _checked_width(where: str, fields: list[str]) -> int:
    if not 2 <= len(fields) <= MAX_COLUMNS + 1:
        raise DataError(
            f"{where}: expected 1 to {MAX_COLUMNS} columns of numbers and a label, separated by "
            f"commas, got {len(fields)} columns; check the separator"
        )
    return len(fields)


def _numbers(where: str, fields: list[str]) -> list[float]:
    numbers: list[float] = []
    for column, field in enumerate(fields, start=1):
        number = _number(field)
        if number is None:
            raise DataError(
                f"{where}: expected a finite number in column {column}, got {field!r}; "
                "correct it or drop the line"
            )
        numbers.append(number)
    return numbers


def _number(field: str) -> float | None:
    if "_" in field:  # Python would read 1_000 as a number
        return None
    try:
        number = float(field)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _label(where: str, field: str) -> str:
    label = field.strip()
    if not label:
        raise DataError(f"{where}: expected a label in the last column, got nothing; add it")
    return label
