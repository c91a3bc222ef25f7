"""The pane of administrators: whom the present machine allows how many PASIDs; below it what became of the same
requests under each policy and through each interface, and why somebody was refused.

The comparison plays its script on machines of its own, once, when the pane is first seen. A row that is picked in it
narrows the refusals to those behind its answers; picked again, all are back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.stories.comparison import compare_administrators
from pasidlab.views.administrators import Administration, administrators, allowances, refusals
from pasidlab.views.changes import mark_table
from pasidlab_widgets.lab.words import ADMINISTRATORS, APIS
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["AdministratorsPane"]


class AdministratorsPane:
    """Three tables: ``allowed`` follows the machine, ``compared`` and ``refused`` do not depend on it."""

    name = "administrators"

    def __init__(self, height: str) -> None:
        self._found: list[Administration] = []
        self._question = ""
        self.allowed, self.compared, self.refused = TableView(), TableView(height=height), TableView()
        self.compared.on_pick(self.ask)
        self.widget: w.Widget = w.VBox([self.allowed, self.compared, self.refused])
        self.widget.add_class("pl-administrators")

    @property
    def view(self) -> AdministratorsPane:
        """The pane itself: it passes on what its tables report."""
        return self

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of every table to ``callback``."""
        for view in (self.allowed, self.compared, self.refused):
            view.on_trouble(callback)

    def draw(self, machine: Machine) -> None:
        """Show who may have how many at the present step; mark the cells that changed."""
        table = allowances(machine)
        api = APIS[machine.pasid_api]
        title = ADMINISTRATORS["allowed"].format(policy=machine.quota_policy, api=api)
        self.allowed.show(mark_table(self.allowed.table, replace(table, title=title)))
        if not self._found:
            self._found = compare_administrators()
            self.compared.show(administrators(self._found))
            self._answer()

    def ask(self, question: str) -> None:
        """Show the refusals behind one row of the comparison; behind all if it is that row already."""
        self._question = "" if question == self._question else question
        self.compared.selected = self._question
        self._answer()

    def _answer(self) -> None:
        asked = next((row.cells[0] for row in administrators(self._found).rows if row.key == self._question), "")
        title = ADMINISTRATORS["refused" if asked else "all-refused"].format(asked=asked)
        table = replace(refusals(self._found, self._question), title=title, empty=ADMINISTRATORS["nobody"])
        self.refused.show(table)

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """Of another machine nothing has changed yet; the comparison stays."""
        self.allowed.table = None
