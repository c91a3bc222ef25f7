"""The pane of a device's PASID table: choose the device, see its table, click an entry to see its 512 bits."""

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

__all__ = ["TablePane"]

_NO_ENTRY = Table("pasid-entry", "PASID entry", (Column("field", "field"),), (), EMPTY["entry"])


class TablePane:
    """One device's PASID table, with the entry that was picked last beside it."""

    name = "table"

    def __init__(self, height: str, guard: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        self._machine: Machine | None = None
        self._rooms: dict[str, Room] = {}
        self._before: dict[str, Figure] = {}
        self.entry: int | None = None
        redraw = guard(self._redraw)
        self.menu = Menu("table-device", redraw)
        self.view = GraphView(height=height)
        self.bits = TableView(_NO_ENTRY, height=height)
        self.view.on_pick(self.pick)
        for view, name in ((self.view, "pl-wide"), (self.bits, "pl-bits")):
            view.add_class(name)
        body = w.HBox([self.view, self.bits])
        body.add_class("pl-side-by-side")
        self.widget: w.Widget = w.VBox([self.menu.widget, body])

    def draw(self, machine: Machine) -> None:
        """Show the present step."""
        self._machine = machine
        self.menu.offer(choices.devices(machine))
        self._redraw()

    def forget(self) -> None:
        """Lay out afresh."""
        self._rooms.clear()

    def pick(self, key: str) -> None:
        """A box of the table was picked: if it is an entry, show its bits."""
        kind, _, number = key.partition(":")
        if kind == "entry":
            self.entry = int(number)
            self.view.selected = key
            self._show_bits()

    def _redraw(self) -> None:
        machine, device = self._machine, self.menu.value
        if machine is None:
            return
        if not device:
            self.view.show(Figure("pasid-table", EMPTY["no-table"], (Node("none", (EMPTY["no-table"],), columns=40),)))
            self.bits.show(_NO_ENTRY)
            return
        figure = pasid_table(machine, device, self._rooms.setdefault(device, Room()))
        self.view.show(mark_figure(self._before.get(device), figure))
        self._before = {device: figure}
        self._show_bits()

    def _show_bits(self) -> None:
        if self._machine is None or self.entry is None or not self.menu.value:
            return
        now = entry_table(self._machine, self.menu.value, self.entry)
        before = self.bits.table
        same = before is not None and before.title == now.title
        self.bits.show(mark_table(before, now) if same else now)
