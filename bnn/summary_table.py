"""A summary as text: a row per layer, totals, and what Larq prints below its table."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnn.summary import LayerSummary, Summary

_HEADER = (
    "layer",
    "kind",
    "output",
    "bits",
    "input bits",
    "weights",
    "other",
    "1x1-bit MACs",
    "1xreal MACs",
    "8-bit MACs",
    "32-bit MACs",
    "bytes",
    "float32",
)
_MOST_BYTE_BITS = 8
_FLOAT_BITS = 32


def format_table(summary: "Summary") -> str:
    """Align the rows of a summary under their titles; totals follow."""
    table = [_HEADER, *(_cells(row) for row in summary.rows), _totals(summary)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    # One more line per number of the whole network, as long as the table is wide.
    return "\n".join([*lines, *(line.ljust(len(lines[0])) for line in _footer(summary))])


def _cells(row: "LayerSummary") -> tuple[str, ...]:
    macs = [0, 0, 0, 0]
    macs[_column(row)] = row.macs
    shape = "x".join(map(str, row.output_shape))
    bits = (str(row.weight_bits or "-"), str(row.input_bits))
    numbers = (row.n_weights, row.n_other, *macs, row.packed_bytes, row.float_bytes)
    return (row.name, row.kind, shape, *bits, *map(str, numbers))


def _totals(summary: "Summary") -> tuple[str, ...]:
    macs = [0, 0, 0, 0]
    for row in summary.rows:
        macs[_column(row)] += row.macs
    weights = sum(row.n_weights for row in summary.rows)
    other = sum(row.n_other for row in summary.rows)
    numbers = (weights, other, *macs, summary.packed_bytes, summary.float_bytes)
    return ("total", "", "", "", "", *map(str, numbers))


def _column(row: "LayerSummary") -> int:
    if row.weight_bits == 1:
        return 0 if row.is_binary_product else 1
    return 2 if row.weight_bits <= _MOST_BYTE_BITS else 3


def _footer(summary: "Summary") -> list[str]:
    n_total = summary.n_trainable + summary.n_fixed
    share = summary.binary_macs / summary.n_macs if summary.n_macs else 0.0
    by_bits = sorted({row.weight_bits for row in summary.layers} | {_FLOAT_BITS})
    counts = ", ".join(f"{summary.n_parameters(bits)} of {bits} bit" for bits in by_bits)
    return [
        f"parameters: {n_total} ({counts}); {summary.n_fixed} of them not trained",
        f"bytes: {summary.packed_bytes} packed, {summary.float_bytes} as float32, "
        f"{summary.compression_ratio:.1f} times smaller; {summary.int8_bytes} with reals in 8 bits",
        f"MACs: {summary.n_macs}, of which binary {share:.4f}; OPs: {summary.ops:.0f}",
    ]
