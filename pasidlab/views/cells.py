"""Rows of small cells as plain data: much of one kind in little room, each cell with a share of it filled.

For what has thousands of places (the slots of a directory): each cell stands for as many as fit, from which one goes on
to a row in which they have a cell each. Told by shape as well as by colour: a bar as high as the share, at least one
that can be seen; a dotted outline where there is nothing that could be filled; a letter where a cell has a kind.

Invariants, checked at creation: keys are unique; shares lie between 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.views import cells_svg, theme
from pasidlab.views.escape import clean

__all__ = ["Cell", "CellRow", "Cells", "cells_text"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place. ``share`` of it is filled, ``None``: nothing is there to fill; ``mark`` is one letter.

    >>> Cell("slot:0", "slot 0: 3 of 64", 3 / 64).present
    True
    """

    key: str
    hint: str
    share: float | None = None
    mark: str = ""
    chosen: bool = False

    @property
    def present(self) -> bool:
        """Whether there is anything to fill."""
        return self.share is not None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError(f"the share of {self.key!r} must be between 0 and 1, not {self.share}")


@dataclass(frozen=True, slots=True)
class CellRow:
    """Cells of one kind below a title; as many lines as they need."""

    key: str
    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows of cells, one below the other. ``legend``: what is to be said below them.

    >>> Cells("slots", "Slots", (CellRow("all", "all slots", (Cell("slot:0", "slot 0"),)),))
    <Cells slots: 1 row, 1 cell>
    """

    name: str
    title: str
    rows: tuple[CellRow, ...]
    note: str = ""
    legend: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [cell.key for row in self.rows for cell in row.cells]
        if len(set(keys)) != len(keys) or len({row.key for row in self.rows}) != len(self.rows):
            raise ValueError(f"the keys of rows, and those of cells, must be unique in {self.name}")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": cells_text(self), "image/svg+xml": cells_svg.cells_svg(self)}

    def __repr__(self) -> str:
        rows, cells = len(self.rows), sum(len(row.cells) for row in self.rows)
        return f"<Cells {self.name}: {rows} row{'s' * (rows != 1)}, {cells} cell{'s' * (cells != 1)}>"


def cells_text(cells: Cells, most: int = 40) -> str:
    """The cells that are not empty, in words; of each row at most ``most``.

    >>> row = CellRow("all", "all slots", (Cell("slot:0", "slot 0: full", 1.0), Cell("slot:1", "slot 1: no table")))
    >>> print(cells_text(Cells("slots", "Slots", (row,))))
    Slots
    all slots
      ● slot 0: full
      1 more: nothing there
    """
    lines = [clean(cells.title), *([clean(cells.note)] if cells.note else [])]
    for row in cells.rows:
        there = [cell for cell in row.cells if cell.share]
        lines.append(clean(row.title))
        lines += [f"  {_sign(cell)} {clean(cell.hint)}{' <' if cell.chosen else ''}" for cell in there[:most]]
        lines += [f"  {len(there) - most} more like these"] if len(there) > most else []
        rest = len(row.cells) - len(there)
        lines += [f"  {rest} more: nothing there"] if rest else []
    return "\n".join(lines)


def _sign(cell: Cell) -> str:
    return theme.state("live").glyph + cell.mark
