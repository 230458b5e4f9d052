"""What a conversion did to a module, layer by layer."""

from dataclasses import dataclass

_TITLES = ("layer", "was", "is", "why")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One layer of a module before and after."""

    layer: str
    """Path of the module, or name of the operation; in the new module if it is new."""
    was: str
    """Type of the module, or function; empty if it is new."""
    now: str
    """What stands there now; empty if nothing does."""
    why: str = ""
    """Reason, above all of what did not change."""

    @property
    def is_unchanged(self) -> bool:
        """Whether the layer is what it was."""
        return self.was == self.now


@dataclass(frozen=True, kw_only=True, slots=True)
class Binarization:
    """Report of :func:`~bnn.binarization.binarize`; ``str()`` is a table."""

    rows: tuple[Row, ...]
    """In the order in which the layers run, as far as that is known."""
    notes: tuple[str, ...] = ()
    """What holds for the module as a whole."""

    @property
    def unchanged(self) -> tuple[Row, ...]:
        """Layers that stayed as they were, with the reason."""
        return tuple(row for row in self.rows if row.is_unchanged)

    def __str__(self) -> str:
        table = [
            _TITLES,
            *((row.layer, row.was or "-", row.now or "-", row.why) for row in self.rows),
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
