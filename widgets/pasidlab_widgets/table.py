"""TableView: a table that lives. Rows are known by key; a changed cell flashes, and is underlined for the step."""

from __future__ import annotations

from pasidlab.views.escape import address
from pasidlab.views.table import Table, cells
from pasidlab_widgets.view import View, page_side

__all__ = ["TableView"]


class TableView(View):
    """A live table. :meth:`show` takes the next one; a pick gives the key of the row.

    Without ``flash`` nothing draws the eye: for tables that are each about something else.

    >>> from pasidlab.views import Column, Line
    >>> view = TableView(Table("t", "PASIDs", (Column("pasid", "PASID", mono=True),), (Line("101", ("101",), "live"),)))
    >>> view.state["rows"]
    {'101': ['live', ['101'], []]}
    """

    _esm = page_side("table")

    def __init__(self, table: Table | None = None, *, height: str = "", selected: str = "", flash: bool = True) -> None:
        self.table = table
        super().__init__(height=height, selected=selected)
        self.publish(title="", columns=[], order=[], rows={}, empty="", flash=flash)
        if table:
            self.show(table)

    def show(self, table: Table) -> None:
        """Show ``table``; rows that were there before keep their place on the page."""
        self.table = table
        self.publish(
            title=table.title,
            columns=[[column.key, column.title, column.mono, column.wrap] for column in table.columns],
            order=[address(row.key) for row in table.rows],
            rows={address(row.key): [row.state, cells(table, row), list(row.changed)] for row in table.rows},
            empty=table.empty,
        )
