"""How far a training is, as numbered events in a file that survives whoever wrote it.

An event is one JSON line ``{"step": ..., "n_steps": ..., name: value}``. Its number is the step, so
that an event repeated after a restart replaces the first one, and a line cut short by a kill is
skipped.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from workers.storage import Json


class ProgressLog:
    """Appends events of one part of a run to ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def report(self, step: int, n_steps: int, metrics: Mapping[str, float]) -> None:
        """Append one event in a single write, so that lines of two writers do not mix."""
        event: dict[str, Json] = {"step": step, "n_steps": n_steps}
        event.update({name: float(value) for name, value in metrics.items()})
        line = ("\n" + json.dumps(event) + "\n").encode()  # the first newline ends a torn line
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def read_progress(path: Path) -> list[dict[str, float]]:
    """Events in order of step, the last one of each step; empty if nothing was written yet."""
    if not path.is_file():
        return []
    by_step: dict[int, dict[str, float]] = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            by_step[event["step"]] = event
    return [by_step[step] for step in sorted(by_step)]


class ProgressReader:
    """Latest event of a file, read again only when the file has grown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = -1
        self._latest: dict[str, float] | None = None

    def latest(self) -> dict[str, float] | None:
        """Event with the highest step so far, or None."""
        size = self._path.stat().st_size if self._path.is_file() else -1
        if size != self._size:
            self._size = size
            events = read_progress(self._path)
            self._latest = events[-1] if events else None
        return self._latest
