"""The charts of a run: the confusion matrix and the curves recorded while training.

Colours are Okabe and Ito's, which all common forms of colour blindness tell apart; lines differ in
dash as well. Charts are built from figure objects, so nothing here reads or writes pyplot's state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from flows.wording import Result, lookup, number, rows

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
INK = "#222222"
_LONGEST_LABEL = 18
_MOST_TICKS = 40
_MOST_WITH_COUNTS = 20


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())


def drawable(label: str, index: int) -> str:
    """Shorten a label to one line; one that the font cannot draw becomes its class number.

    Parameters
    ----------
    label
        Name of a class as the user wrote it.
    index
        Number of the class.
    """
    text = " ".join(label.split())
    if not text or any(ord(letter) not in _glyphs() for letter in text):
        return f"#{index}"
    if len(text) <= _LONGEST_LABEL:
        return text
    return text[: _LONGEST_LABEL - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _set_class_ticks(axes: Axes, labels: Sequence[str]) -> None:
    step = -(-len(labels) // _MOST_TICKS)
    ticks = list(range(0, len(labels), step))
    names = [drawable(labels[index], index) for index in ticks]
    small = 8.5 if len(labels) <= _MOST_WITH_COUNTS else 6.5
    upright = max(map(len, names)) <= 2
    axes.set_yticks(ticks, names, fontsize=small, parse_math=False)
    axes.set_xticks(
        ticks,
        names,
        fontsize=small,
        parse_math=False,
        rotation=0 if upright else 90 if len(names) > _MOST_WITH_COUNTS else 45,
        ha="center" if upright or len(names) > _MOST_WITH_COUNTS else "right",
        rotation_mode="anchor" if not upright and len(names) <= _MOST_WITH_COUNTS else "default",
    )


def confusion_chart(confusion: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Draw a confusion matrix: colour is the share of the true class, numbers are counts.

    Parameters
    ----------
    confusion
        Shape (C, C), counts; rows are true classes, columns are predicted ones.
    labels
        C names; missing ones are numbered. Above 20 classes no counts are written, above 40 not
        every class is named.

    Raises
    ------
    ValueError
        If ``confusion`` is not square.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(
            f"confusion: expected shape (C, C), got {confusion.shape}; rows are true classes"
        )
    n_classes = len(confusion)
    names = list(labels[:n_classes]) + [str(index) for index in range(len(labels), n_classes)]
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axes = figure.add_subplot()
    # The square root keeps rare confusions visible beside the diagonal.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("share of the true class / %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    _set_class_ticks(axes, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if n_classes <= _MOST_WITH_COUNTS:
        for (row, column), hits in np.ndenumerate(confusion):
            if hits:
                ink = "white" if share[row, column] > 35 else INK
                size = 8 if n_classes <= 12 else 6
                text = f"{hits:,}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
    return figure


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its points in the record, and how it looks."""

    path: str
    key: str
    name: str
    colour: str
    dash: str = "-"
    scale: float = 1.0

    def points(self, result: Result) -> tuple[list[float], list[float]]:
        """Collect steps and scaled values, leaving out points where nothing was measured."""
        steps, values = [], []
        for row in rows(result, self.path):
            step, value = number(row, "step"), number(row, self.key)
            if step is not None and value is not None and np.isfinite(value):
                steps.append(step)
                values.append(self.scale * value)
        return steps, values


@dataclass(frozen=True)
class Panel:
    """One set of axes with its curves and constant lines (path in the record, name, scale)."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    level: tuple[str, str, float] | None = None
    is_logarithmic: bool = False


PANELS: tuple[Panel, ...] = (
    Panel(
        "Classifier: accuracy",
        "accuracy / %",
        (
            Curve("bnn.curve", "accuracy", "BNN", BLUE, "-", 100),
            Curve("bnn.twin_curve", "accuracy", "full-precision twin", VERMILLION, "--", 100),
        ),
        ("bnn.floor_accuracy", "floor, on the test set", 100),
    ),
    Panel(
        "Classifier: loss",
        "loss / nats",
        (
            Curve("bnn.curve", "loss", "BNN", BLUE),
            Curve("bnn.twin_curve", "loss", "full-precision twin", VERMILLION, "--"),
        ),
    ),
    Panel(
        "RBM: reconstruction",
        "mean squared error",
        (Curve("rbm.curve", "reconstruction_error", "RBM", GREEN),),
    ),
    Panel(
        "RBM: pseudo-log-likelihood",
        "pseudo-log-likelihood / nats",
        (Curve("rbm.curve", "pseudo_log_likelihood", "RBM", GREEN),),
    ),
    Panel(
        "RBM: free energy of the chains above the data's",
        "free-energy gap / nats",
        (Curve("rbm.curve", "free_energy_gap", "RBM", GREEN),),
    ),
    Panel(
        "Quantum and classical machine: divergence",
        "KL divergence / nats",
        (
            Curve("qbm.curve", "kl", "QBM", BLUE),
            Curve("bm.curve", "kl", "BM", VERMILLION, "--"),
        ),
        is_logarithmic=True,
    ),
)


def _draw_panel(
    axes: Axes,
    panel: Panel,
    drawn: Mapping[str, tuple[list[float], list[float]]],
    level: float | None,
) -> None:
    for curve in panel.curves:
        if curve.name in drawn:
            steps, values = drawn[curve.name]
            # A single point draws no line, so it gets a marker.
            marker = "o" if len(steps) == 1 else ""
            axes.plot(
                steps,
                values,
                curve.dash,
                color=curve.colour,
                label=curve.name,
                lw=1.6,
                marker=marker,
            )
    if panel.level is not None and level is not None:
        axes.axhline(level, color=GREY, lw=1.1, ls=":", label=panel.level[1])
    if panel.is_logarithmic and all(min(values) > 0 for _, values in drawn.values()):
        axes.set_yscale("log")
    axes.set_title(panel.title, fontsize=10.5, loc="left", color=INK)
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#e4e4e4", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8, frameon=False)


def curves_chart(result: Result) -> Figure | None:
    """Draw every panel of :data:`PANELS` that has points; None where no curve was recorded."""
    found = []
    for panel in PANELS:
        points = {curve.name: curve.points(result) for curve in panel.curves}
        drawn = {name: pair for name, pair in points.items() if pair[0]}
        if drawn:
            found.append((panel, drawn))
    if not found:
        return None
    n_columns = min(2, len(found))
    n_rows = -(-len(found) // n_columns)
    figure = Figure(figsize=(4.8 * n_columns, 3.1 * n_rows), layout="constrained")
    for place, (panel, drawn) in enumerate(found, start=1):
        is_last_alone = place == len(found) and place % n_columns == 1 and n_columns > 1
        where = (place, place + 1) if is_last_alone else place
        axes = figure.add_subplot(n_rows, n_columns, where)
        value = number(result, panel.level[0]) if panel.level else None
        level = None if value is None or panel.level is None else value * panel.level[2]
        _draw_panel(axes, panel, drawn, level)
    return figure


def label_names(result: Result) -> list[str]:
    """Names of the classes in the record, empty where there are none."""
    names = lookup(result, "data.label_names")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []
