"""The panes of PASID tables: one device's table above, and below the 512 bits of the entry that was clicked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.views.changes import mark_figure, mark_table
from pasidlab.views.figure import Figure, Node
from pasidlab.views.pasid_table import entry_table, pasid_table
from pasidlab.views.room import Room
from pasidlab.views.table import Column, Table
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Menu
from pasidlab_widgets.lab.words import EMPTY
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["EntryPane", "TablePane"]

_NO_ENTRY = Table("pasid-entry", EMPTY["entry-title"], (Column("field", "field"),), (), EMPTY["entry"])
_NO_TABLE = Figure("pasid-table", EMPTY["no-table"], (Node("none", (EMPTY["no-table"],), columns=44),))


class TablePane:
    """One device's PASID table. ``picked`` is called with the device and the PASID of an entry that was clicked."""

    name = "table"

    def __init__(
        self,
        height: str,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
        picked: Callable[[str, int], None],
    ) -> None:
        self._machine: Machine | None = None
        self._rooms: dict[str, Room] = {}
        self._before: dict[str, Figure] = {}
        self._picked = picked
        self.menu = Menu("table-device", guard(self._redraw))
        self.view = GraphView(height=height)
        self.view.on_pick(self.pick)
        self.widget: w.Widget = w.VBox([self.menu.widget, self.view])

    def draw(self, machine: Machine) -> None:
        """Show the present step."""
        self._machine = machine
        self.menu.offer(choices.devices(machine))
        self._redraw()

    def forget(self) -> None:
        """Lay out afresh."""
        self._rooms.clear()

    def leave(self) -> None:
        """Nothing is known, marked, or selected."""
        self.forget()
        self._before.clear()
        self._machine, self.view.selected = None, ""

    def pick(self, key: str) -> None:
        """A box of the table was picked: if it is an entry, its bits are shown."""
        kind, _, number = key.partition(":")
        if kind == "entry":
            self.view.selected = key
            self._picked(self.menu.value, int(number))

    def _redraw(self) -> None:
        machine, device = self._machine, self.menu.value
        if machine is None:
            return
        if device:
            figure = pasid_table(machine, device, self._rooms.setdefault(device, Room()))
            self.view.show(mark_figure(self._before.get(device), figure))
            self._before = {device: figure}
        else:
            self.view.show(_NO_TABLE)


class EntryPane:
    """The fields of one PASID entry."""

    name = "entry"

    def __init__(self, height: str) -> None:
        self.view = TableView(_NO_ENTRY, height=height)
        self.widget: w.Widget = self.view
        self._chosen: tuple[str, int] | None = None

    def choose(self, device: str, pasid: int) -> None:
        """The entry to show from now on."""
        self._chosen = device, pasid

    def draw(self, machine: Machine) -> None:
        """Show the present step; mark the fields that changed."""
        if self._chosen is None or self._chosen[0] not in machine.accelerators:
            self.view.show(_NO_ENTRY)
            return
        now, before = entry_table(machine, *self._chosen), self.view.table
        same = before is not None and before.title == now.title
        self.view.show(mark_table(before, now) if same else now)

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """No entry is chosen."""
        self._chosen = None
