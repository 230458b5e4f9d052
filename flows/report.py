"""The report of a run as one HTML file that can be mailed, and as Markdown beside its pictures.

Both are rendered from the readings that the terminal and Prefect show too. Everything that comes
from the run is escaped: names of classes and files are whatever a user called them.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows import sentences, wording
from flows.readings import headlines, warnings
from flows.tables import tables, top_confusions
from flows.wording import Result, lookup, number, rows

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"

_CLASSIFIER_PICTURES = ("confusion.png", "curves.png")
_MARKDOWN_SYNTAX = re.compile(r"([\\`*_{}\[\]|#~$])")
_MOST_LABELS = 30
# JSON is written with sorted keys, so the order of the columns is not in the record.
_FIRST_COLUMNS = ("name", "output_shape", "weight_bits", "n_weights", "macs")


def escape_markdown(value: object) -> Markup:
    """Write any text so that Markdown, tables included, shows it letter by letter on one line.

    What is marked as Markdown already, such as the output of a macro, stays as it is.
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_MARKDOWN_SYNTAX.sub(r"\\\1", text))


def _layers(result: Result) -> tuple[list[str], list[list[str]]]:
    layers = rows(result, "bnn.layers")
    found = dict.fromkeys(key for layer in layers for key in layer)
    first = [key for key in _FIRST_COLUMNS if key in found]
    keys = first + sorted(key for key in found if key not in first)
    titles = [wording.title_of(key) for key in keys]
    return titles, [[wording.plain(layer.get(key)) for key in keys] for layer in layers]


def _labels(result: Result) -> str:
    names = lookup(result, "data.label_names")
    if not isinstance(names, Sequence) or isinstance(names, str):
        return wording.NOT_MEASURED
    shown = ", ".join(wording.plain(name) for name in names[:_MOST_LABELS])
    more = len(names) - _MOST_LABELS
    return f"{len(names)}: {shown}" + (f" and {more} more" if more > 0 else "")


def _data(result: Result) -> tuple[tuple[str, str], ...]:
    return (
        ("Data", wording.words(result, "data.name")),
        ("Why these", wording.words(result, "data.reason")),
        ("Source", wording.words(result, "data.source")),
        ("Training rows", wording.count(number(result, "data.n_train"))),
        ("Test rows", wording.count(number(result, "data.n_test"))),
        ("Shape of a row", wording.words(result, "data.input_shape")),
        ("Classes", _labels(result)),
        ("SHA-256 of the data", wording.words(result, "data.digest")),
    )


def _training(result: Result) -> str:
    took, twin = number(result, "bnn.seconds"), number(result, "bnn.twin_seconds")
    workers, shards = wording.words(result, "bnn.n_workers"), wording.words(result, "bnn.n_shards")
    return (
        f"Trained in {wording.duration(took)} (twin {wording.duration(twin)}); workers: {workers}, "
        f"logical shards: {shards}."
    )


def _bars(result: Result) -> dict[str, float]:
    """Width of a step's bar in percent of the longest step."""
    spent = lookup(result, "seconds")
    steps = dict(spent) if isinstance(spent, Mapping) else {}
    taken = {step: number(steps, step) or 0.0 for step in steps if step != "total"}
    longest = max(taken.values(), default=0.0) or 1.0
    return {step: round(100 * value / longest, 1) for step, value in taken.items()}


def _moment(result: Result, path: str) -> str:
    value = lookup(result, path)
    return wording.NOT_MEASURED if value is None else wording.moment(str(value))


def _view(result: Result) -> dict[str, object]:
    """Everything that a template shows, in words."""
    layer_titles, layer_rows = _layers(result)
    resumed = lookup(result, "resumed_from")
    return {
        "title": wording.words(result, "title"),
        "run_key": wording.words(result, "run_key"),
        "started": _moment(result, "started"),
        "finished": _moment(result, "finished"),
        "total": wording.duration(number(result, "seconds.total")),
        "resumed": None if resumed is None else wording.plain(resumed),
        "headlines": headlines(result),
        "warnings": warnings(result),
        "tables": tables(result),
        "has_machines": wording.has_machines(result),
        "data": _data(result),
        "layer_titles": layer_titles,
        "layer_rows": layer_rows,
        "macs": sentences.macs(result),
        "training": _training(result),
        "confusions": top_confusions(result),
        "digests": (
            ("SHA-256 of the model file", wording.words(result, "export.sha256")),
            ("Digest of its logical weights", wording.words(result, "export.logical_digest")),
        ),
        "bars": _bars(result),
        "config": wording.flatten(lookup(result, "config") or {}),
        "environment": wording.flatten(lookup(result, "environment") or {}),
        "bitspin": wording.words(result, "environment.bitspin"),
    }


def _pictures(result: Result, out_dir: Path | None) -> tuple[list[dict[str, str]], ...]:
    """List the pictures of the classifier and the others, with data URIs if a folder is given."""
    listed: tuple[list[dict[str, str]], ...] = ([], [])
    for record in rows(result, "pictures"):
        picture = {key: str(record.get(key, "")) for key in ("file", "title", "caption")}
        if out_dir is not None:
            picture["uri"] = data_uri(_png(out_dir / picture["file"]))
        listed[picture["file"] not in _CLASSIFIER_PICTURES].append(picture)
    return listed


def _png(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError(f"pictures: expected {file}, got no such file; draw the pictures first")
    return file.read_bytes()


def data_uri(png: bytes) -> str:
    """Write a PNG as a URI that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _environment(*, is_markdown: bool) -> Environment:
    return Environment(
        loader=PackageLoader("flows", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=escape_markdown if is_markdown else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_html(result: Result, out_dir: Path) -> str:
    """Render the report as one HTML page that holds its pictures.

    Parameters
    ----------
    result
        Record of a run; ``pictures`` in it names PNG files.
    out_dir
        Folder of these files.

    Raises
    ------
    ValueError
        If a picture is missing.
    """
    classifier, machines = _pictures(result, out_dir)
    template = _environment(is_markdown=False).get_template("report.html.j2")
    return template.render(
        **_view(result), classifier_pictures=classifier, machine_pictures=machines
    )


def render_markdown(result: Result, *, with_pictures: bool = True) -> str:
    """Render the report as Markdown; pictures are links to files beside it, or left out."""
    classifier, machines = _pictures(result, None) if with_pictures else ([], [])
    template = _environment(is_markdown=True).get_template("report.md.j2")
    text = template.render(
        **_view(result), classifier_pictures=classifier, machine_pictures=machines
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def write_report(result: Result, out_dir: Path) -> None:
    """Write ``report.html`` and ``report.md`` into a folder that already holds the pictures.

    Raises
    ------
    ValueError
        If a picture that the record names is missing.
    OSError
        If the folder cannot be written to.
    """
    (out_dir / HTML_FILE).write_text(render_html(result, out_dir), encoding="utf-8")
    (out_dir / MARKDOWN_FILE).write_text(render_markdown(result), encoding="utf-8")
