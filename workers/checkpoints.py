"""The only owner of training state on disk: save atomically, find the newest intact one.

Training is deterministic, so two attempts that save the same step save the same bytes, and a late
writer of a killed attempt can do no harm.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workers.records import MANIFEST, load_record, save_record
from workers.storage import Json


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after ``step`` steps: named tensors and whole numbers."""

    step: int
    tensors: dict[str, Tensor]
    counters: dict[str, int]


class CheckpointStore:
    """Checkpoints of one part of a run under ``directory``; the newest ``n_keep`` are kept."""

    def __init__(self, directory: Path, *, n_keep: int = 2) -> None:
        if n_keep < 1:
            raise ValueError(f"n_keep: expected at least 1, got {n_keep}")
        self.directory = directory
        self.n_keep = n_keep

    def save(self, step: int, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Publish the state after ``step`` steps, then drop what is older than the kept ones.

        Raises
        ------
        OSError
            If the directory is read-only or full; older checkpoints stay as they were.
        """
        whole: dict[str, Json] = {name: int(n) for name, n in counters.items()}
        values: dict[str, Json] = {"step": step, "counters": whole}
        save_record(self.directory / f"{step:010d}", values, tensors)
        for old in self._newest_first()[self.n_keep :]:
            # The manifest goes first: a half-removed checkpoint must not look like a whole one.
            (old / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """Newest checkpoint whose tensors match its manifest, or None."""
        for directory in self._newest_first():
            record = load_record(directory)
            if record is None:
                continue
            step, counters = record.values.get("step"), record.values.get("counters")
            if isinstance(step, int) and isinstance(counters, dict):
                whole = {name: n for name, n in counters.items() if isinstance(n, int)}
                return Checkpoint(step, record.tensors, whole)
        return None

    def latest_step(self) -> int:
        """Step that :meth:`latest` would return, 0 if there is none."""
        checkpoint = self.latest()
        return checkpoint.step if checkpoint else 0

    def _newest_first(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        whole = (d for d in self.directory.iterdir() if (d / MANIFEST).is_file())
        return sorted(whole, reverse=True)
