"""A table as plain data: columns, rows with ids, and which cells this step changed. Text and HTML are drawn from it.

The first column names the row. ``state`` of a row is a state of the theme: drawn as a bar and, where a column is
called ``"state"``, as glyph and word. Cells are text already: whoever makes the row knows how its numbers are
written.
"""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import combining, east_asian_width

from pasidlab.views import style, theme
from pasidlab.views.escape import address, clean, html

__all__ = ["Column", "Line", "Table", "table_html", "table_text"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``key`` for code, ``title`` for people; ``mono`` for numbers and bits, ``wrap`` for sentences.

    >>> Column("pasid", "PASID", mono=True).title
    'PASID'
    """

    key: str
    title: str
    mono: bool = False
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A row: its key, a cell for each column, its state, and the keys of the columns that this step changed.

    >>> Line("pasid:101", ("101", "vm1"), state="live", changed=("owner",)).cells
    ('101', 'vm1')
    """

    key: str
    cells: tuple[str, ...]
    state: str = "idle"
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        theme.state(self.state)


@dataclass(frozen=True, slots=True)
class Table:
    """A table. ``empty`` is said instead of rows when there are none.

    >>> Table("pasids", "PASIDs", (Column("pasid", "PASID"), Column("owner", "owner")), (Line("101", ("101", "vm1")),))
    <Table pasids: columns 2, rows 1>
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...] = ()
    empty: str = "nothing yet"

    def __post_init__(self) -> None:
        columns = {column.key for column in self.columns}
        if len({row.key for row in self.rows}) != len(self.rows) or len(columns) != len(self.columns):
            raise ValueError(f"the keys of rows, and those of columns, must be unique in table {self.name}")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.key!r} must have {len(self.columns)} cells, not {len(row.cells)}")
            if not columns.issuperset(row.changed):
                raise ValueError(
                    f"a changed cell of row {row.key!r} must be one of {', '.join(columns)}, not {row.changed}"
                )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        page = f'<div class="pasidlab"><style>{style.live()}</style>{table_html(self)}</div>'
        return {"text/plain": table_text(self), "text/html": page}

    def __repr__(self) -> str:
        return f"<Table {self.name}: columns {len(self.columns)}, rows {len(self.rows)}>"


def cells(table: Table, row: Line) -> list[str]:
    """The texts of a row as they are shown: the cell of a column called ``state`` has the state's glyph in front."""
    glyph = theme.state(row.state).glyph
    return [
        f"{glyph} {clean(cell)}" if column.key == "state" and glyph else clean(cell)
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]


def table_text(table: Table) -> str:
    """The table in fixed columns; ``*`` marks what this step changed.

    >>> columns = (Column("pasid", "PASID"), Column("owner", "owner"))
    >>> print(table_text(Table("t", "In use", columns, (Line("1", ("101", "vm1"), changed=("owner",)),))))
    In use
    PASID  owner
    -----  -----
    101    vm1*
    """
    titles = [clean(column.title) for column in table.columns]
    shown = [
        [
            cell + "*" * (column.key in row.changed)
            for column, cell in zip(table.columns, cells(table, row), strict=True)
        ]
        for row in table.rows
    ]
    widths = [max(map(_cells_wide, column)) for column in zip(titles, *shown, strict=True)]
    lines = [clean(table.title), _fixed(titles, widths), _fixed(["-" * width for width in widths], widths)]
    return "\n".join(
        [*lines, *(_fixed(row, widths) for row in shown)] if shown else [clean(table.title), f"({table.empty})"]
    )


def _fixed(parts: list[str], widths: list[int]) -> str:
    padded = [part + " " * (width - _cells_wide(part)) for part, width in zip(parts, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _cells_wide(text: str) -> int:
    """How many cells of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def table_html(table: Table) -> str:
    """The table as an HTML ``<table>`` with the classes of :mod:`pasidlab.views.style`; every text is escaped.

    >>> "<script>" in table_html(Table("t", "T", (Column("a", "A"),), (Line("1", ("<script>",)),)))
    False
    """
    heads = "".join(f'<th scope="col">{html(column.title)}</th>' for column in table.columns)
    rows = "".join(_html_row(table, row) for row in table.rows)
    rows = rows or f'<tr class="empty"><td colspan="{len(table.columns)}">{html(table.empty)}</td></tr>'
    return f"<table><caption>{html(table.title)}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _html_row(table: Table, row: Line) -> str:
    parts = []
    for column, cell in zip(table.columns, cells(table, row), strict=True):
        names = (
            ["num"] * column.mono
            + ["prose"] * column.wrap
            + ["state"] * (column.key == "state")
            + ["is-changed"] * (column.key in row.changed)
        )
        classes = f' class="{" ".join(names)}"' if names else ""
        parts.append(f"<td{classes}>{html(cell)}</td>")
    return f'<tr class="s-{row.state}" data-key="{address(row.key)}">{"".join(parts)}</tr>'
