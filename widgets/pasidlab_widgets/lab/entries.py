"""The panes of PASID tables: one device's table above, and below the bits of the entry that was clicked.

The table is shown twice: all 2^14 slots of its directory as cells, from which one goes on to a table of 64 entries, and
the entries of that table as boxes with what they point to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.views.changes import mark_figure
from pasidlab.views.directory import directory, slot_of
from pasidlab.views.figure import Figure, Node
from pasidlab.views.memory_map import MemoryMap
from pasidlab.views.pasid_table import entry_bits, pasid_table
from pasidlab.views.room import Room
from pasidlab.views.tables import table_of
from pasidlab.views.unit_words import terms_of, unit_words
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Menu
from pasidlab_widgets.lab.structure import StructureView
from pasidlab_widgets.lab.words import EMPTY
from pasidlab_widgets.picture import PictureView
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["EntryPane", "TablePane"]

_NO_TABLE = Figure("pasid-table", EMPTY["no-table"], (Node("none", (EMPTY["no-table"],), columns=44),))
_BLOCK = 64
Opened = Callable[[int, str], None]
"""Called with an address that a person wants to see, and the VM whose memory it is of (empty: the machine's)."""


class TablePane:
    """One device's PASID table. ``picked`` is called with the device and the PASID of an entry that was clicked,
    ``opened`` with the address of a table.
    """

    name = "table"

    def __init__(
        self,
        height: str,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
        picked: Callable[[str, int], None],
        opened: Opened,
    ) -> None:
        self._machine: Machine | None = None
        self._rooms: dict[tuple[str, int | None], Room] = {}
        self._before: dict[tuple[str, int | None], Figure] = {}
        self._slot: int | None = None
        self._pasid: int | None = None
        self._picked, self._opened = picked, opened
        self.menu = Menu("table-device", guard(self._other_device))
        self.cells = PictureView()
        self.view = GraphView(height=height)
        self.beside = (self.cells,)
        for view in (self.cells, self.view):
            view.on_pick(self.pick)
        self.widget: w.Widget = w.VBox([self.menu.widget, self.cells, self.view])
        self.widget.add_class("pl-tables")

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
        self._machine, self._slot, self._pasid, self.view.selected = None, None, None, ""

    def pick(self, key: str) -> None:
        """A box or a cell was picked: an entry shows its bits, a slot is looked into, a table is opened in memory."""
        kind, _, number = key.partition(":")
        if kind == "entry":
            self._pasid, self._slot = int(number), slot_of(int(number))
            self.view.selected = key
            self._redraw()
            self._picked(self.menu.value, int(number))
        elif kind in ("slot", "block"):
            self._slot, self._pasid = int(number) * (_BLOCK if kind == "block" else 1), None
            self._redraw()
        else:
            self._open(kind, number)

    def _open(self, kind: str, number: str) -> None:
        """Open the directory, a table of entries, or the page tables of an entry."""
        machine, device = self._machine, self.menu.value
        found = table_of(machine, device) if machine is not None and device else None
        if machine is None or found is None:
            return
        at, vm = None, found.vm
        if kind == "directory":
            at = found.top
        elif kind == "leaf":
            at = next(
                (leaf.address for leaf in found.table.leaves() if str(leaf.first // leaf.entries) == number), None
            )
        elif kind == "first":
            at = _behind(machine, device, int(number), unit_words(machine.unit)["first-pointer"])
        elif kind == "second":
            at, vm = _second(machine, number), ""
        elif kind == "device":
            at, vm = machine.kernel.iommu.device_entry(machine.functions[device].rid), ""
        if at is not None:
            self._opened(at, vm)

    def _other_device(self) -> None:
        self._slot = self._pasid = None
        self._redraw()

    def _redraw(self) -> None:
        machine, device = self._machine, self.menu.value
        if machine is None:
            return
        if not device:
            self.cells.show(None)
            self.view.show(_NO_TABLE)
            return
        self.cells.show(directory(machine, device, self._slot, self._pasid))
        key = device, self._slot
        figure = pasid_table(machine, device, self._rooms.setdefault(key, Room()), self._slot)
        self.view.show(mark_figure(self._before.get(key), figure))
        self._before = {key: figure}


class EntryPane:
    """One PASID entry, bit by bit. ``opened`` is called with the address that a picked field holds."""

    name = "entry"

    def __init__(self, height: str, opened: Opened) -> None:
        self._machine: Machine | None = None
        self._chosen: tuple[str, int] | None = None
        self._opened = opened
        self._structure = StructureView(height, "", "", self._follow)
        self.beside = (self._structure.picture,)
        self.widget: w.Widget = self._structure.widget

    @property
    def view(self) -> TableView:
        """The table of fields."""
        return self._structure.fields

    def choose(self, device: str, pasid: int) -> None:
        """The entry to show from now on."""
        self._chosen = device, pasid

    def draw(self, machine: Machine) -> None:
        """Show the present step; mark the fields and bits that changed."""
        self._machine = machine
        known = self._chosen is not None and self._chosen[0] in machine.functions
        terms = terms_of(machine.unit)
        entry = terms.entry[:1].upper() + terms.entry[1:]
        self._structure.wait(EMPTY["entry-title"].format(entry=entry), EMPTY["entry"].format(table=terms.table))
        self._structure.show(entry_bits(machine, *self._chosen) if self._chosen is not None and known else None)

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """No entry is chosen."""
        self._chosen = self._machine = None

    def _follow(self, key: str) -> None:
        """A field was picked: if it holds an address, memory is opened there."""
        if self._machine is None or self._chosen is None:
            return
        target = _behind(self._machine, *self._chosen, key)
        found = table_of(self._machine, self._chosen[0])
        if target is not None and found is not None:
            self._opened(target, found.vm)


def _second(machine: Machine, number: str) -> int | None:
    """The root of the second level that a box stands for: its number is that of a VM."""
    roots = {domain.name: domain.table.root for domain in machine.kernel.iommu.domains.values()}
    vm = next((name for name, slot in machine.numbers.items() if str(slot) == number), number)
    return roots.get(vm)


def _behind(machine: Machine, device: str, pasid: int, field: str) -> int | None:
    """Where a field of an entry leads, in the memory in which the table lies."""
    found = table_of(machine, device)
    at = found.table.address(pasid) if found is not None else None
    if found is None or at is None:
        return None
    known = MemoryMap(machine, found.vm)
    return known.behind(known.word(at), field)
