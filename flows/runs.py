"""Finished and unfinished runs on disk: find one, read its result.

Light on purpose: ``bitspin runs`` and ``bitspin show`` answer without loading torch.
"""

from dataclasses import dataclass
from pathlib import Path

from flows.settings import runs_directory
from workers.storage import Json, read_json

IDENTITY = "run.json"
RESULT = "result.json"
MODEL = "model.bspn"


class RunError(ValueError):
    """A run cannot be found, opened or continued."""


@dataclass(frozen=True)
class RunSummary:
    """One line of ``bitspin runs``."""

    run_key: str
    title: str
    state: str
    created: str
    run_dir: Path


def list_runs() -> list[RunSummary]:
    """All runs, newest first."""
    summaries = []
    for path in runs_directory().glob(f"*/{IDENTITY}"):
        identity = read_json(path)
        state = "finished" if (path.parent / RESULT).is_file() else "unfinished"
        if path.parent.name.endswith(".previous"):
            state = "set aside"
        text = {name: str(identity.get(name, "")) for name in ("title", "created")}
        summaries.append(
            RunSummary(run_key=path.parent.name, state=state, run_dir=path.parent, **text)
        )
    return sorted(summaries, key=lambda run: (run.created, run.run_key), reverse=True)


def find_run(name: str) -> RunSummary:
    """Run with this key or an unambiguous beginning of it; ``latest`` is the newest one.

    Raises
    ------
    RunError
        If there is none, or more than one.
    """
    runs = [run for run in list_runs() if run.state != "set aside" or run.run_key == name]
    if not runs:
        raise RunError(
            f"runs: expected a run under {runs_directory()}, found none; try bitspin run"
        )
    if name == "latest":
        return runs[0]
    found = [run for run in runs if run.run_key == name] or [
        run for run in runs if run.run_key.startswith(name)
    ]
    if len(found) != 1:
        known = ", ".join(run.run_key for run in runs[:5])
        problem = "is ambiguous" if found else "does not exist"
        raise RunError(f"run {name!r}: {problem}; the newest runs are {known} (bitspin runs)")
    return found[0]


def model_path(name: str) -> Path:
    """A model file, or the model of a run (:func:`find_run`).

    Raises
    ------
    RunError
        If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == Path(MODEL).suffix:
        raise RunError(f"{name}: expected a model file, got nothing; check the path")
    run = find_run(name)
    if not (run.run_dir / MODEL).is_file():
        raise RunError(
            f"run {run.run_key}: expected an exported model, got none yet; "
            f"finish it with bitspin resume {run.run_key}"
        )
    return run.run_dir / MODEL


def read_result(run: RunSummary) -> dict[str, Json]:
    """Result record of a finished run.

    Raises
    ------
    RunError
        If the run has not finished.
    """
    path = run.run_dir / RESULT
    if not path.is_file():
        raise RunError(
            f"run {run.run_key}: expected a finished run, got an unfinished one; "
            f"finish it with bitspin resume {run.run_key}"
        )
    return read_json(path)
