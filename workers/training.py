"""The loop around every training: continue from the newest checkpoint, save, report."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from workers.checkpoints import Checkpoint, CheckpointStore
from workers.progress import ProgressLog, read_progress
from workers.storage import Json

_N_EVENTS = 200  # points of a learning curve


class ResumableTrainer(Protocol):
    """What a trainer of bnn or rbm offers: single steps and its whole state as tensors."""

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""

    @property
    def step(self) -> int:
        """Steps done."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Everything that later steps depend on: named tensors and counters."""

    def load_state(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Continue from a state."""


def train(
    trainer: ResumableTrainer,
    take_step: Callable[[], Mapping[str, float]],
    run_dir: Path,
    part: str,
    *,
    checkpoint_seconds: float,
    is_writer: bool = True,
    agree: Callable[[Checkpoint | None], Checkpoint | None] = lambda own: own,
) -> int:
    """Train to the end, from the newest checkpoint of ``part`` if there is one.

    Parameters
    ----------
    trainer
        Fresh trainer.
    take_step
        Does one step of ``trainer`` and returns its metrics.
    run_dir
        Directory of the run.
    part
        Name of the training; its checkpoints and progress events carry it.
    checkpoint_seconds
        At least this long between two checkpoints; the last step is always saved.
    is_writer
        Whether this worker saves and reports; exactly one of a group does.
    agree
        Gives every worker of a group the checkpoint that the first one found.

    Returns
    -------
    int
        The step that training continued from, 0 for a fresh start.
    """
    store = checkpoint_store(run_dir, part)
    checkpoint = agree(store.latest() if is_writer else None)
    if checkpoint is not None:
        trainer.load_state(checkpoint.tensors, checkpoint.counters)
    first = trainer.step
    log = ProgressLog(progress_path(run_dir, part)) if is_writer else None
    stride = max(1, trainer.n_steps // _N_EVENTS)
    saved_at = time.monotonic()
    while trainer.step < trainer.n_steps:
        metrics = take_step()
        if log is None:
            continue
        is_last = trainer.step == trainer.n_steps
        if trainer.step % stride == 0 or is_last:
            log.report(trainer.step, trainer.n_steps, metrics)
        if is_last or time.monotonic() - saved_at > checkpoint_seconds:
            store.save(trainer.step, *trainer.state())
            saved_at = time.monotonic()
    return first


def checkpoint_store(run_dir: Path, part: str) -> CheckpointStore:
    """Where ``part`` of a run keeps its checkpoints."""
    return CheckpointStore(run_dir / "checkpoints" / part)


def progress_path(run_dir: Path, part: str) -> Path:
    """File of the progress events of ``part``."""
    return run_dir / "progress" / f"{part}.jsonl"


def learning_curve(run_dir: Path, part: str) -> list[Json]:
    """Reported events of ``part``, without the constant total number of steps."""
    events = read_progress(progress_path(run_dir, part))
    return [{key: v for key, v in event.items() if key != "n_steps"} for event in events]
