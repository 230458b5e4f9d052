"""The report of a run as Prefect artifacts: text, tables, one picture, and where the file lies.

Keys stay the same from run to run, so Prefect's artifact page shows how each of them developed.
"""

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.report import HTML_FILE, data_uri, render_markdown
from flows.tables import TABLES, tables
from flows.wording import Result, rows, words

REPORT_KEY = "report"
OVERVIEW_KEY = "overview"
LINK_KEY = "report-file"
TABLE_KEYS: Mapping[str, str] = {
    "accuracy": "Accuracy beside the full-precision twin and the floor",
    "likelihood": "Log-likelihood with method, error bar and floor",
    "divergence": "KL divergence of the small machines",
    "verification": "Runtimes against the integer network in torch",
    "seconds": "How long each step took",
}
"""Key of each table artifact, which is its name in ``TABLES``, and its description."""

MAX_URI_LENGTH = 40_000
"""Longest data URI, in characters: Prefect prints it in full below the picture."""

_WIDTHS = (360, 300, 240, 180, 120)
_N_COLOURS = 64
_GAP = 8


def overview(files: list[Path]) -> bytes:
    """Set pictures side by side in two columns, small enough for an artifact.

    Parameters
    ----------
    files
        PNG files, at least one.

    Returns
    -------
    bytes
        A PNG of at most 64 colours whose data URI has at most :data:`MAX_URI_LENGTH` characters.

    Raises
    ------
    ValueError
        If there is no file, or even the smallest version is too long.
    """
    if not files:
        raise ValueError("files: expected at least one picture, got none")
    for width in _WIDTHS:
        png = _contact_sheet(files, width)
        if len(data_uri(png)) <= MAX_URI_LENGTH:
            return png
    raise ValueError(
        f"files: expected pictures that fit {MAX_URI_LENGTH} characters at {_WIDTHS[-1]} pixels "
        f"each, got {len(data_uri(png))}; pass fewer"
    )


def _contact_sheet(files: list[Path], width: int) -> bytes:
    columns: tuple[list[Image.Image], list[Image.Image]] = ([], [])
    for file in files:
        with Image.open(file) as picture:
            small = picture.convert("RGB")
            small = small.resize((width, max(1, small.height * width // small.width)))
        # The shorter column takes the next picture.
        min(columns, key=_height).append(small)
    sheet = Image.new("RGB", (2 * width + 3 * _GAP, max(map(_height, columns)) + _GAP), "white")
    for number, column in enumerate(columns):
        top = _GAP
        for small in column:
            sheet.paste(small, (_GAP + number * (width + _GAP), top))
            top += small.height + _GAP
    buffer = io.BytesIO()
    # Maximum coverage keeps rare hues, such as the red of a filter, that a median cut drops.
    palette = sheet.quantize(_N_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _height(column: list[Image.Image]) -> int:
    return sum(small.height + _GAP for small in column)


def table_rows(result: Result, name: str) -> list[dict[str, str]]:
    """List one table of :data:`flows.tables.TABLES` as Prefect wants it."""
    return [
        {"what": reading.name, "figure": reading.value, "beside it": "; ".join(reading.beside)}
        for reading in TABLES[name](result)
    ]


def publish_artifacts(result: Result, out_dir: Path) -> None:
    """Publish the report to Prefect; must be called inside a flow run or a task run.

    Parameters
    ----------
    result
        Record of a run; ``pictures`` in it names PNG files.
    out_dir
        Folder of these files and of ``report.html``.

    Raises
    ------
    ValueError
        If the overview does not fit an artifact.
    """
    title = words(result, "title")
    create_markdown_artifact(
        render_markdown(result, with_pictures=False), key=REPORT_KEY, description=title
    )
    asked_for = tables(result)
    for key, description in TABLE_KEYS.items():
        if key in asked_for:
            create_table_artifact(table_rows(result, key), key=key, description=description)
    files = [out_dir / str(picture["file"]) for picture in rows(result, "pictures")]
    if files:
        create_image_artifact(data_uri(overview(files)), key=OVERVIEW_KEY, description=title)
    report = (out_dir / HTML_FILE).resolve()
    create_link_artifact(
        report.as_uri(), link_text=str(report), key=LINK_KEY, description="Report with pictures"
    )
