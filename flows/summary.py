"""The figures of a run as one table for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.readings import Reading, warnings
from flows.tables import TABLES, tables
from flows.wording import NOT_MEASURED, Result, words

_STYLES = {"plain": "", "good": "green", "warning": "bold yellow", "bad": "bold red"}
_LONGEST_STEPS = 4
_SHOWN = {
    "accuracy": "Classifier",
    "likelihood": "Restricted Boltzmann machine",
    "divergence": "Small machines, KL divergence",
    "export": "Export",
    "verification": "Verification",
}


def _add(table: Table, reading: Reading) -> None:
    # Names come from data and files, so they are text, never console markup.
    style = _STYLES[reading.tone]
    beside = Text("; ".join(reading.beside), style or "dim")
    table.add_row(Text(f"  {reading.name}"), Text(reading.value, style or "bold"), beside)


def summary_table(result: Result) -> RenderableType:
    """Lay out the figures of a run, each beside its floor, twin or error bar.

    Parameters
    ----------
    result
        Record of a run.

    Returns
    -------
    RenderableType
        A table, the longest steps, and one line for each figure that must not be missed:
        mismatches, unreliable estimates, missed floors.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, expand=True)
    table.add_column("name", max_width=32)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("beside", ratio=1)
    shown = tables(result)
    for name, title in _SHOWN.items():
        if name in shown:
            table.add_row(Text(title, "cyan"))
            for reading in shown[name]:
                _add(table, reading)
    head = Text(f"{words(result, 'run_key')}  {words(result, 'title')}", "bold")
    return Group(head, table, _time(result), *(_warning(entry) for entry in warnings(result)))


def _time(result: Result) -> Text:
    *steps, total = TABLES["seconds"](result) or (Reading("total", NOT_MEASURED),)
    longest = [f"{step.name} {step.value}" for step in steps[:_LONGEST_STEPS]]
    return Text.assemble(("Time  ", "cyan"), (total.value, "bold"), "  ", ", ".join(longest))


def _warning(entry: Reading) -> Text:
    said = "; ".join(entry.beside[:2])
    return Text(f"{entry.name}, {entry.value}: {said}", _STYLES[entry.tone])
