"""Draws rows of cells, without Graphviz. A cell is one group with its key in ``data-key``; there are no ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views import still, style
from pasidlab.views.drawn import Drawn
from pasidlab.views.escape import address, html
from pasidlab.views.figure_svg import number
from pasidlab.views.measure import fit, text_width

if TYPE_CHECKING:
    from pasidlab.views.cells import Cell, CellRow, Cells
    from pasidlab.views.theme import Mode

__all__ = ["cells_body", "cells_svg"]

_ACROSS: Final = 64
_WIDE, _TALL = 12, 16
_SMALL: Final = 11
"""How high a cell is in a row of more than one line."""
_TITLE, _GAP = 18, 8
_LEAST: Final = 3.0


def cells_svg(cells: Cells, mode: Mode | None = None) -> str:
    """``cells`` as an SVG document."""
    drawn = cells_body(cells)
    return still.page(cells.title, cells.note, drawn.width, drawn.height, drawn.svg, mode, style.cell_rules())


def cells_body(cells: Cells) -> Drawn:
    """The rows, and below them what is to be said. Each cell is a part of its own: a step changes few of them."""
    parts: dict[str, str] = {}
    y = 0.0
    for row in cells.rows:
        y += _row(row, y, parts)
    parts["legend"], height = _legend(cells.legend, y + 10)
    return Drawn(_ACROSS * _WIDE + 2.0, y + height, parts)


def _row(row: CellRow, y: float, parts: dict[str, str]) -> float:
    """Draw a row into ``parts``; returns its height."""
    lines = -(-len(row.cells) // _ACROSS)
    tall = _TALL if lines <= 1 else _SMALL
    title = html(fit(row.title, _ACROSS * _WIDE, 12))
    parts[f"title {row.key}"] = f'<text class="note" x="0" y="{number(y + 12)}">{title}</text>'
    rings = ""
    for at, cell in enumerate(row.cells):
        line, column = divmod(at, _ACROSS)
        x, top = column * _WIDE, y + _TITLE + line * tall
        parts[f"cell {row.key} {at}"] = _cell(cell, x, top, tall)
        if cell.chosen:
            box = f'x="{number(x - 1)}" y="{number(top - 1)}" width="{_WIDE + 2}" height="{tall + 2}"'
            rings += f'<rect class="halo" {box}/><rect class="chosen" {box}/>'
    parts[f"rings {row.key}"] = rings
    return _TITLE + lines * tall + _GAP


def _cell(cell: Cell, x: float, y: float, tall: int) -> str:
    classes = ("place" if cell.present else "place is-empty") + " is-chosen" * cell.chosen
    inside = f'<rect class="slot" x="{number(x)}" y="{number(y)}" width="{_WIDE}" height="{tall}"/>'
    if cell.share:
        high = max(_LEAST, cell.share * (tall - 2))
        top = number(y + tall - 1 - high)
        inside += f'<rect class="fill" x="{number(x + 1)}" y="{top}" width="{_WIDE - 2}" height="{number(high)}"/>'
    if cell.mark:
        middle = f'x="{number(x + _WIDE / 2)}" y="{number(y + tall - 4.5)}"'
        inside += f'<text class="mark" {middle}>{html(cell.mark)}</text>'
    return f'<g class="{classes}" data-key="{address(cell.key)}"><title>{html(cell.hint)}</title>{inside}</g>'


def _legend(words: tuple[str, ...], y: float) -> tuple[str, float]:
    """A sample for each: filled, not filled, dotted; further words without one."""
    samples = ("place has-share", "place", "place is-empty")
    parts, x = [], 0.0
    for at, text in enumerate(words):
        if at < len(samples):
            fill = f'<rect class="fill" x="{number(x + 1)}" y="{number(y - 5)}" width="{_WIDE - 2}" height="6"/>'
            slot = f'<rect class="slot" x="{number(x)}" y="{number(y - 10)}" width="{_WIDE}" height="12"/>'
            parts.append(f'<g class="{samples[at]}">{slot}{fill if not at else ""}</g>')
            x += _WIDE + 6
        parts.append(f'<text class="note" x="{number(x)}" y="{number(y)}">{html(text)}</text>')
        x += text_width(text, 12) + 16
    return "".join(parts), 18.0 if words else 0.0
