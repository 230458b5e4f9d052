"""``bitspin show model.bspn``: what is in a model file, and what a run of it costs."""

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.commands import print_json
from flows.predict import label_names
from kernels import JSON, Model, Op, OpCode, read_model
from kernels.arena import working_bytes
from kernels.model_format import read_layout

PRECISIONS: Final = {
    OpCode.CONV_U8: "8 x 8 bit",
    OpCode.CONV_I8: "8 x 8 bit",
    OpCode.CONV_B1: "1 x 1 bit",
    OpCode.CONV_B1_I8: "1 x 8 bit",
    OpCode.CONV_I32: "32 x 8 bit",
    OpCode.SCALE: "32 x 32 bit",
    OpCode.AVERAGE_POOL: "32 x 32 bit",
    OpCode.MULTIPLY: "32 x 32 bit",
}
"""Operation -> widths of the two factors that it multiplies; the others multiply nothing."""


@dataclass(frozen=True)
class Line:
    """One operation of the model."""

    op: str
    detail: str
    input: tuple[int, ...]
    """(H, W, C)."""
    output: tuple[int, ...]
    """(H, W, C)."""
    bytes: int
    """Of its constants, in canonical rows."""
    macs: int
    """Multiplications for one input; what the border contributes is counted."""
    precision: str


@dataclass(frozen=True)
class Page:
    """Facts about a model file."""

    file: str
    file_bytes: int
    arena_bytes: int
    layout: str
    logical_digest: str
    run_key: str
    labels: tuple[str, ...]
    ops: tuple[Line, ...]
    macs: dict[str, int]
    """Precision -> multiplications for one input."""
    accuracy: dict[str, JSON]


def page_command(path: Path, *, as_json: bool) -> None:
    """Print the page of a model file."""
    page = model_page(path)
    if as_json:
        print_json(asdict(page))
    else:
        Console().print(_layout(page))


def model_page(path: Path) -> Page:
    """Read a model file and describe it.

    Raises
    ------
    ModelFormatError
        If the file is damaged.
    """
    data = path.read_bytes()
    model = read_model(data)
    lines = tuple(_line(op, model) for op in model.ops)
    macs: dict[str, int] = {}
    for line in lines:
        if line.macs:
            macs[line.precision] = macs.get(line.precision, 0) + line.macs
    accuracy = model.metadata.get("accuracy")
    return Page(
        file=str(path),
        file_bytes=len(data),
        arena_bytes=working_bytes(model),
        layout=read_layout(data).name.lower(),
        logical_digest=str(model.metadata["logical_digest"]),
        run_key=str(model.metadata.get("run_key", "")),
        labels=tuple(label_names(model.metadata, prod(model.tensors[model.ops[-1].out].dims))),
        ops=lines,
        macs=macs,
        accuracy=accuracy if isinstance(accuracy, dict) else {},
    )


def _line(op: Op, model: Model) -> Line:
    return Line(
        op=op.code.name.lower(),
        detail=_detail(op, model),
        input=model.tensors[op.data].dims,
        output=model.tensors[op.out].dims,
        bytes=sum(model.tensors[i].n_bytes for i in op.constants),
        macs=_multiplications(op, model),
        precision=PRECISIONS.get(op.code, ""),
    )


def _detail(op: Op, model: Model) -> str:
    """Kernel and whatever is not the usual."""
    words = []
    weights = None if op.weights is None else model.tensors[op.weights].dims
    if weights is not None and len(weights) == 4:
        words.append(f"{weights[1]}x{weights[2]}")
    for name in ("stride", "padding", "pool"):
        pair: tuple[int, int] = getattr(op, name)
        if pair != ((0, 0) if name == "padding" else (1, 1)):
            words.append(
                f"{name} {pair[0]}x{pair[1]}" if pair[0] != pair[1] else f"{name} {pair[0]}"
            )
    if op.groups != 1:
        words.append(f"groups {op.groups}")
    if op.zero_border:
        words.append("border 0")
    words += ["to bits"] if op.threshold is not None else []
    words += ["from " + ", ".join(map(str, op.start))] if op.code is OpCode.SLICE else []
    return ", ".join(words)


def _multiplications(op: Op, model: Model) -> int:
    """Of one input; a convolution multiplies at every place, before it pools."""
    if op.code not in PRECISIONS:
        return 0
    data, out = model.tensors[op.data].dims, model.tensors[op.out].dims
    if op.weights is None:
        return prod(out)
    weights = model.tensors[op.weights].dims
    places = [
        (data[axis] + 2 * op.padding[axis] - weights[1 + axis]) // op.stride[axis] + 1
        for axis in (0, 1)
    ]
    return prod(places) * prod(weights)


def _layout(page: Page) -> RenderableType:
    ops = Table("#", "operation", "", "input", "output", box=None)
    for name in ("constants", "multiplications"):
        ops.add_column(name, justify="right")
    ops.add_column("")
    for number, line in enumerate(page.ops):
        shapes = [" x ".join(map(str, dims)) for dims in (line.input, line.output)]
        size = f"{line.bytes:,} B" if line.bytes else ""
        macs = f"{line.macs:,}" if line.macs else ""
        ops.add_row(str(number), line.op, line.detail, *shapes, size, macs, line.precision)
    facts = Table(box=None, show_header=False)
    total = sum(page.macs.values())
    rows = {
        "file": f"{page.file}, {page.file_bytes:,} B, packed as {page.layout}",
        "arena": f"{page.arena_bytes:,} B of working memory",
        "multiplications": "; ".join(
            f"{n:,} of {name} ({100 * n / total:.1f} %)" for name, n in page.macs.items()
        ),
        "classes": f"{len(page.labels)}: {', '.join(page.labels)}",
        "accuracy": ", ".join(f"{name} {value}" for name, value in page.accuracy.items()),
        "run": page.run_key,
        "logical digest": page.logical_digest,
    }
    for name, value in rows.items():
        if value:
            facts.add_row(Text(name, "cyan"), Text(value))
    return Group(ops, Text(), facts)
