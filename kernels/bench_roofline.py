"""Rooflines: operations per second over operations per byte, under what the machine can do at most.

matplotlib is imported inside, so that the benchmark itself needs numpy and torch only. Colours are
Okabe and Ito's; every kind of mark has a form of its own as well.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from kernels.bench_arm import PRODUCT_BITS, ArmReport
from kernels.bench_cases import Case
from kernels.bench_report import Report, Roofs, Row, machine_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KERNELS_FILE: Final = "roofline-kernels.png"
ARM_FILE: Final = "roofline-arm.png"
_INK, _GREY = "#333333", "#777777"
_MARKS: Final = {
    "gemm": ("o", "#0072B2"),
    "gemm_float": ("o", "#56B4E9"),
    "gemv": ("D", "#CC79A7"),
    "conv": ("s", "#009E73"),
    "conv_float": ("s", "#8FD3BC"),
    "statistics": ("^", "#D55E00"),
}
_CORES: Final = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "-"),
    ("#009E73", "^", "-"),
    ("#CC79A7", "v", "--"),
)
_PEERS: Final = {"int8": ("x", "torch int8"), "fp32": ("+", "torch fp32")}


def draw_kernels(report: Report, folder: Path) -> Path:
    """Draw the binary operations of a report, one panel for each number of threads.

    A competitor stands above or below the same abscissa, that of the packed operands.

    Parameters
    ----------
    report
        From :func:`kernels.bench.run_kernels`.
    folder
        Made if it is not there.

    Returns
    -------
    Path
        The picture, PNG.
    """
    from matplotlib.figure import Figure

    width = 5.6 * len(report.roofs) + 2.2
    figure = Figure(figsize=(width, 5.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(report.roofs), squeeze=False, sharey=True)[0]
    for axes, roofs in zip(panels, report.roofs, strict=True):
        rows = [r for r in report.rows if r.n_threads == roofs.n_threads and r.op in _MARKS]
        _draw_panel(axes, roofs, rows)
    panels[0].set_ylabel("GOPS (2 per multiplication and addition)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside right upper")
    figure.suptitle(machine_line(report.machine), fontsize=9, color=_INK)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / KERNELS_FILE)
    return folder / KERNELS_FILE


def draw_arm(report: ArmReport, folder: Path) -> Path:
    """Draw the modelled inner loop under the roofs of each core, and the counted layers.

    Parameters
    ----------
    report
        From :func:`kernels.bench_arm.run_arm`; without a model there is the second panel only.
    folder
        Made if it is not there.

    Returns
    -------
    Path
        The picture, PNG.
    """
    from matplotlib.figure import Figure

    n_panels = 2 if report.loops else 1
    figure = Figure(figsize=(6.2 * n_panels, 5.0), layout="constrained", dpi=110)
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    if report.loops:
        _draw_cores(panels[0], report)
    _draw_layers(panels[-1], report)
    for axes in panels:
        _clean(axes)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / ARM_FILE)
    return folder / ARM_FILE


def _draw_cores(axes: "Axes", report: ArmReport) -> None:
    x = np.geomspace(1, 512, 200)
    loads = {load.core: load.bytes_per_cycle for load in report.loads}
    intensity = 2 * PRODUCT_BITS / (report.bytes_per_product or np.inf)
    # Cores whose roofs coincide are drawn on top of each other, so each has its own dash.
    for loop, (colour, marker, dash) in zip(report.loops, _CORES, strict=True):
        roof = np.minimum(loads[loop.core] * x, 2 * PRODUCT_BITS / loop.bound)
        reached = 2 * PRODUCT_BITS / loop.cycles_per_product
        axes.plot(x, roof, color=colour, lw=1.2, ls=dash)
        label = f"{loop.core}: {reached:.0f} of {roof[-1]:.0f}, {loads[loop.core]:.0f} bytes/cycle"
        axes.plot([intensity], [reached], marker, color=colour, ms=8, mfc="none", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("operations per byte loaded")
    axes.set_ylabel("operations per cycle (2 per bit multiplied)")
    axes.set_title(f"inner loop, {report.loops[0].source}", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_layers(axes: "Axes", report: ArmReport) -> None:
    names = [f"rows of {p.n_bits}" for p in report.products]
    names += ["3x3 layer\n{}x{}\n{} to {}".format(*layer.shape) for layer in report.layers]
    alone = [p.gross for p in report.products]
    alone += [layer.per_product / layer.ratio for layer in report.layers]
    rest = [0.0] * len(report.products)
    rest += [layer.per_product * (1 - 1 / layer.ratio) for layer in report.layers]
    axes.bar(names, alone, color="#0072B2", label="product")
    axes.bar(names, rest, bottom=alone, color="#E69F00", label="packing, border, threshold")
    axes.axhline(3, color=_INK, lw=1, ls="--", label="xor, count, add")
    for i, (low, high) in enumerate(zip(alone, rest, strict=True)):
        axes.annotate(f"{low + high:.2f}", (i, low + high), ha="center", va="bottom", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(top=1.15 * max(low + high for low, high in zip(alone, rest, strict=True)))
    axes.set_ylabel("instructions per 128 bits multiplied")
    axes.set_title(f"{report.target}, counted in the emulator", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _clean(axes: "Axes") -> None:
    axes.grid(True, which="major", color="#e4e4e4", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_panel(axes: "Axes", roofs: Roofs, rows: list[Row]) -> None:
    _draw_roofs(axes, roofs)
    for i, row in enumerate(rows, start=1):
        marker, colour = _MARKS[row.op]
        label = f"{i}  {Case(row.op, row.shape).name}"
        place = _intensity(row), row.ours.gops
        axes.plot(*place, marker, color=colour, ms=6, zorder=3, label=label, ls="")
        _write(axes, str(i), *place, (3, 3), ha="left")
    for word, (marker, label) in _PEERS.items():
        points = [(_intensity(row), best.gops) for row in rows if (best := row.best_of(word))]
        if points:
            x, y = [point[0] for point in points], [point[1] for point in points]
            axes.scatter(x, y, marker=marker, color=_GREY, s=26, label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of operands and result")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.set_title(f"{roofs.n_threads} thread{'s' * (roofs.n_threads > 1)}", fontsize=10)
    _clean(axes)


def _draw_roofs(axes: "Axes", roofs: Roofs) -> None:
    x = np.geomspace(4, 4000, 200)
    top = roofs.ports_gops or np.inf
    for i, (size, gb) in enumerate(roofs.read_gb_per_second.items()):
        y = np.minimum(gb * x, top)
        axes.plot(x, y, color=_INK, lw=0.9, alpha=0.9 - 0.2 * i)
        _write(axes, f"{size}: {gb:,.0f} GB/s", x[0], y[0], (3, -9), ha="left")
    if roofs.ports_gops:
        _write(axes, f"binary ports {roofs.ports_gops:,.0f}", x[-1], top, (0, 4))
    if roofs.int8_ports_gops:
        axes.axhline(roofs.int8_ports_gops, color=_GREY, lw=0.8, ls=":")
        _write(
            axes, f"int8 ports {roofs.int8_ports_gops:,.0f}", x[-1], roofs.int8_ports_gops, (0, 4)
        )


def _write(
    axes: "Axes", text: str, x: float, y: float, offset: tuple[int, int], ha: str = "right"
) -> None:
    axes.annotate(
        text, (x, y), xytext=offset, textcoords="offset points", fontsize=6.5, ha=ha, color=_INK
    )


def _intensity(row: Row) -> float:
    return row.n_operations / row.n_bytes
