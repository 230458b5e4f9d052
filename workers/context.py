"""What a step of a run is given, and what it leaves behind for the steps after it."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from workers.config import RunConfig
from workers.datasets import ImageData
from workers.records import Record, load_record
from workers.storage import Json


@dataclass(frozen=True)
class RunContext:
    """What every step of a run is given."""

    run_dir: Path
    """Directory of the run, on storage that every worker sees."""
    run_key: str
    config: RunConfig
    data: ImageData


@dataclass(frozen=True)
class Outcome:
    """What a step publishes: JSON values and tensors."""

    values: dict[str, Json]
    tensors: dict[str, Tensor] = field(default_factory=dict)


def record_directory(run_dir: Path, step: str) -> Path:
    """Where ``step`` publishes its record."""
    return run_dir / "steps" / step


def published(run_dir: Path, step: str) -> Record | None:
    """Record that ``step`` has published, or None if it has not finished."""
    return load_record(record_directory(run_dir, step))


def upstream(context: RunContext, step: str) -> Record:
    """Record of an earlier step.

    Raises
    ------
    RuntimeError
        If that step has not finished: the steps were started in a wrong order.
    """
    record = published(context.run_dir, step)
    if record is None:
        raise RuntimeError(f"step {step!r}: expected its published record, got none")
    return record
