"""The pictures of a run, as PNG files: the same record and arrays give the same bytes.

Samples, filters and completions are mosaics of small images; the charts are in
:mod:`flows.charts`. A picture whose data are missing is not drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.charts import INK, confusion_chart, curves_chart, label_names
from flows.wording import Result, lookup, number

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]

DOTS_PER_INCH = 150
_MOST_TILES = 100
_MOST_COMPLETIONS = 12
_WIDEST_TILE = 4  # wider images (rows of tables) are stacked instead of set side by side
_PAGE_WIDTH = 8.0
_HIDDEN = "#8FB8DE"


@dataclass(frozen=True)
class Picture:
    """One PNG of a report: name of the file, title, and a sentence on how to read it."""

    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class _Drawing:
    figure: Figure
    title: str
    caption: str


def mosaic(images: NDArray[np.floating], n_columns: int, gap: int = 1) -> NDArray[np.float64]:
    """Set images side by side in rows, with gaps of NaN.

    Parameters
    ----------
    images
        Shape (n, H, W).
    n_columns
        Images in one row.
    gap
        Pixels between two images.

    Returns
    -------
    NDArray
        Shape (rows * (H + gap) - gap, n_columns * (W + gap) - gap).
    """
    n_images, height, width = images.shape
    n_rows = -(-n_images // n_columns)
    sheet = np.full((n_rows * (height + gap), n_columns * (width + gap)), np.nan)
    for index, image in enumerate(images):
        top, left = index // n_columns * (height + gap), index % n_columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet[: n_rows * (height + gap) - gap, : n_columns * (width + gap) - gap]


def _n_columns(images: NDArray[np.floating], aspect: float = 2.4) -> int:
    n_images, height, width = images.shape
    wanted = float(np.sqrt(aspect * n_images * (height + 1) / (width + 1)))
    # A count that fills the last row is worth a slightly different aspect.
    full = [n for n in range(1, n_images + 1) if n_images % n == 0 and 0.6 < n / wanted < 1.5]
    best = min(full, key=lambda n: max(n / wanted, wanted / n), default=round(wanted))
    return int(np.clip(best, 1, n_images))


def _images(arrays: Arrays, name: str, most: int) -> NDArray[np.float64] | None:
    if name not in arrays or arrays[name].size == 0:
        return None
    images = arrays[name]
    if images.ndim != 3:
        raise ValueError(f"{name}: expected shape (n, H, W), got {images.shape}")
    return np.asarray(images[:most], dtype=np.float64)


def _sheet_figure(sheet: NDArray[np.float64], colours: ScalarMappable, unit: str) -> Figure:
    """Show one mosaic at whole multiples of its pixels, with a colour bar below."""
    height, width = sheet.shape
    dots = max(1, int(_PAGE_WIDTH * DOTS_PER_INCH) // width)
    across, down = dots * width / DOTS_PER_INCH, dots * height / DOTS_PER_INCH
    foot = 0.62
    figure = Figure(figsize=(across, down + foot))
    axes = figure.add_axes((0, foot / (down + foot), 1, down / (down + foot)))
    axes.imshow(
        colours.to_rgba(np.ma.masked_invalid(sheet)), interpolation="nearest", aspect="auto"
    )
    axes.set_axis_off()
    bar_axes = figure.add_axes((0.3, 0.36 / (down + foot), 0.4, 0.12 / (down + foot)))
    bar = figure.colorbar(colours, cax=bar_axes, orientation="horizontal")
    bar.set_label(unit, fontsize=8.5, color=INK, labelpad=1)
    bar.ax.tick_params(labelsize=7.5, length=2, pad=1)
    return figure


def _grey() -> ScalarMappable:
    return ScalarMappable(Normalize(0, 1), colormaps["gray"].with_extremes(bad="white"))


def _draw_confusion(result: Result, arrays: Arrays) -> _Drawing | None:
    recorded = arrays["confusion"] if "confusion" in arrays else lookup(result, "bnn.confusion")
    if recorded is None:
        return None
    confusion = np.asarray(recorded, dtype=np.int64)
    caption = "Rows are true classes, columns predicted ones."
    if len(confusion) <= 20:
        caption += " Numbers count test rows."
    figure = confusion_chart(confusion, label_names(result))
    return _Drawing(figure, "What the BNN takes for what", caption)


def _draw_curves(result: Result, arrays: Arrays) -> _Drawing | None:
    figure = curves_chart(result)
    if figure is None:
        return None
    caption = (
        "As recorded while training; final figures on the test set are in the tables. "
        "Dotted lines are the floors."
    )
    return _Drawing(figure, "How training went", caption)


def _draw_samples(result: Result, arrays: Arrays) -> _Drawing | None:
    images = _images(arrays, "rbm_samples", _MOST_TILES)
    if images is None:
        return None
    sheet = mosaic(images, _n_columns(images))
    figure = _sheet_figure(sheet, _grey(), "probability that a unit is on")
    caption = f"{len(images)} samples of the RBM by Gibbs sampling, shown as probabilities."
    return _Drawing(figure, "What the RBM imagines", caption)


def _draw_filters(result: Result, arrays: Arrays) -> _Drawing | None:
    images = _images(arrays, "rbm_filters", _MOST_TILES)
    if images is None:
        return None
    limit = float(np.quantile(np.abs(images), 0.995)) or 1.0
    blue_red = colormaps["RdBu_r"].with_extremes(bad="white")
    colours = ScalarMappable(TwoSlopeNorm(0, -limit, limit), blue_red)
    figure = _sheet_figure(mosaic(images, _n_columns(images), 2), colours, "weight")
    n_hidden = number(result, "rbm.n_hidden")
    of = "" if n_hidden is None else f" of {n_hidden:,.0f}"
    caption = (
        f"Weights of {len(images)}{of} hidden units; red switches the unit on, blue off. "
        "The strongest half percent is clipped."
    )
    return _Drawing(figure, "What the hidden units look for", caption)


def _draw_completions(result: Result, arrays: Arrays) -> _Drawing | None:
    names = {
        "original": "completion_original",
        "given": "completion_masked",
        "completed": "completion_completed",
    }
    found = {word: _images(arrays, name, _MOST_COMPLETIONS) for word, name in names.items()}
    shown = {word: images for word, images in found.items() if images is not None}
    if len(shown) < len(names):
        return None
    caption = (
        "Test images, the half of them that the RBM was given (the rest in blue), and what it "
        "made of that."
    )
    return _Drawing(_completions_figure(shown), "Half an image completed", caption)


def _completions_figure(shown: Mapping[str, NDArray[np.float64]]) -> Figure:
    n_images, height, width = next(iter(shown.values())).shape
    is_wide = width > _WIDEST_TILE * height
    n_columns = 1 if is_wide else n_images
    sheets = [mosaic(images, n_columns, gap=0 if is_wide else 1) for images in shown.values()]
    tall, broad = sheets[0].shape
    rows, columns = (1, len(sheets)) if is_wide else (len(sheets), 1)
    down = 2.4 if is_wide else rows * (_PAGE_WIDTH * tall / broad + 0.05)
    figure = Figure(figsize=(_PAGE_WIDTH + 0.8, down + 0.2), layout="constrained")
    gaps = np.isnan(mosaic(np.zeros((n_images, height, width)), n_columns, gap=0 if is_wide else 1))
    hidden = ScalarMappable(Normalize(0, 1), colormaps["gray"].with_extremes(bad=_HIDDEN))
    for place, (word, sheet) in enumerate(zip(shown, sheets, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        pixels = hidden.to_rgba(np.ma.masked_invalid(sheet))
        pixels[gaps] = 1
        axes.imshow(pixels, interpolation="nearest", aspect="auto" if is_wide else "equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if is_wide:
            axes.set_xlabel(f"{word}: one row each", fontsize=9, color=INK)
        else:
            axes.set_ylabel(word, fontsize=9, color=INK)
    return figure


PICTURES: Mapping[str, Callable[[Result, Arrays], _Drawing | None]] = {
    "confusion": _draw_confusion,
    "curves": _draw_curves,
    "samples": _draw_samples,
    "filters": _draw_filters,
    "completions": _draw_completions,
}
"""Every picture by the name of its file, in the order of the report."""


def _save(figure: Figure, file: Path) -> None:
    FigureCanvasAgg(figure)
    # The default metadata name matplotlib's version; without it the bytes depend on pixels only.
    figure.savefig(
        file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None}, facecolor="white"
    )


def draw_pictures(result: Result, arrays: Arrays, out_dir: Path) -> tuple[Picture, ...]:
    """Draw every picture of :data:`PICTURES` whose data are there.

    Parameters
    ----------
    result
        Record of a run.
    arrays
        ``confusion`` (C, C); ``rbm_samples``, ``completion_original``, ``completion_masked``
        (hidden pixels NaN) and ``completion_completed`` (n, H, W) in [0, 1]; ``rbm_filters``
        (n, H, W), signed. At most 100 tiles and 12 completions are shown.
    out_dir
        Existing folder that the PNG files are written to.

    Returns
    -------
    tuple of Picture
        What was drawn, in the order of the report.

    Raises
    ------
    ValueError
        If an array has the wrong shape.
    """
    pictures = []
    for name, draw in PICTURES.items():
        drawing = draw(result, arrays)
        if drawing is not None:
            _save(drawing.figure, out_dir / f"{name}.png")
            pictures.append(Picture(f"{name}.png", drawing.title, drawing.caption))
    return tuple(pictures)
