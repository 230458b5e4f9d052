"""Live progress on the terminal: a line per step, moving while training."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

_TITLE_WIDTH = 46


class Display:
    """Shows the steps of a run; without a terminal it prints a line when a step ends.

    Parameters
    ----------
    console
        Where to; its ``is_terminal`` decides between bars and lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, title: str) -> None:
        """Show a step as started."""
        self._bars[title] = self._progress.add_task(title.ljust(_TITLE_WIDTH), total=None, note="")

    def move(self, title: str, step: float, n_steps: float, note: str) -> None:
        """Move the bar of a started step."""
        self._progress.update(self._bars[title], completed=step, total=n_steps, note=note)

    def end(self, title: str, note: str) -> None:
        """Show a step as done, with its outcome in a few words."""
        self._progress.update(self._bars[title], completed=1, total=1, note=note)
        if not self._console.is_terminal:
            self._console.print(f"✓ {title.ljust(_TITLE_WIDTH)} {note}".rstrip())
