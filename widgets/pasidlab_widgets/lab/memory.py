"""The pane "Memory": any 4 KiB frame word by word, and the structure that a word belongs to, bit by bit.

Addresses are host-physical, or guest-physical of a VM, whose own tables the emulated unit walks. A word that is picked
is opened; a field that holds an address leads there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.errors import KernelError
from pasidlab.views.changes import mark_table
from pasidlab.views.memory_map import Found, MemoryMap
from pasidlab.views.memory_view import frame_of
from pasidlab.views.table import Column, Table
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Button, Menu, text
from pasidlab_widgets.lab.explain import refused
from pasidlab_widgets.lab.message import Message
from pasidlab_widgets.lab.probe_choices import number
from pasidlab_widgets.lab.probe_words import MEMORY
from pasidlab_widgets.lab.structure import StructureView
from pasidlab_widgets.lab.words import EMPTY
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["MemoryPane"]

_WORDS = 512
_NOTHING = Table("frame", EMPTY["word-title"], (Column("address", "address"),), (), EMPTY["word"])


class MemoryPane:
    """A frame and one of its words. ``tell`` shows a message."""

    name = "memory"

    def __init__(
        self,
        height: str,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
        tell: Callable[[Message], None],
    ) -> None:
        self._machine: Machine | None = None
        self._address: int | None = None
        self._known: MemoryMap | None = None
        self._found: Found | None = None
        self._tell = tell
        self.menus = {"memory-of": Menu("memory-of", guard(self._other_memory))}
        self.fields = {"memory-address": text("memory-address", "")}
        self.fields["memory-address"].add_class("pl-write-memory-address")
        self.buttons = {"memory-open": Button("memory-open", guard(self._typed))}
        self.view = TableView(height=height)
        self.view.on_pick(self._picked)
        self._wanted: str | None = None
        self._structure = StructureView(height, EMPTY["word-title"], EMPTY["word"], self._follow)
        self.beside = (self._structure.picture, self._structure.fields)
        where = w.Box(
            [self.menus["memory-of"].widget, self.fields["memory-address"], self.buttons["memory-open"].widget]
        )
        where.add_class("pl-asking")
        body = w.Box([self.view, self._structure.widget])
        body.add_class("pl-memory")
        self.widget: w.Widget = w.VBox([where, body])

    def open(self, address: int, vm: str = "") -> None:
        """The address to show from now on, in the machine's memory or in that of a VM."""
        self._address, self._wanted = address, vm
        if self._machine is not None:
            self._offer(self._machine)

    def draw(self, machine: Machine) -> None:
        """Show the present step; mark the words that changed."""
        self._machine = machine
        self._offer(machine)
        if self._address is None:
            self._address = _root(machine, self.menus["memory-of"].value)
        self._show(machine, self._address)

    def _offer(self, machine: Machine) -> None:
        """The memories that there are; the one that was asked for, as soon as it can be chosen."""
        menu = self.menus["memory-of"]
        menu.offer(_memories(machine))
        if self._wanted is not None:
            keys = [key for _, key in menu.widget.options]
            menu.show(self._wanted if self._wanted in keys else keys[0])
            self._wanted = None

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """Nothing is known of another machine's memory."""
        self._machine = self._address = self._known = self._found = None
        self.view.table = None

    def _show(self, machine: Machine, address: int) -> None:
        try:
            known = MemoryMap(machine, self.menus["memory-of"].value)
            table, found = frame_of(known, address), known.word(address)
        except KernelError as error:
            self._tell(refused(error))
            self.view.show(_NOTHING)
            self._structure.show(None)
            return
        before = self.view.table
        same = before is not None and before.title.split(":")[0] == table.title.split(":")[0]
        self._known, self._found = known, found
        self.view.show(mark_table(before, table) if same else table)
        self.view.selected = f"word:{address & ~7:#x}"
        self._structure.show(found.bits())
        self.fields["memory-address"].value = f"{address:#x}"

    def _typed(self) -> None:
        """Show what the field says."""
        try:
            self._address = number(self.fields["memory-address"].value, MEMORY["an-address"])
        except KernelError as error:
            self._tell(refused(error))
            return
        if self._machine is not None:
            self._show(self._machine, self._address)

    def _picked(self, key: str) -> None:
        kind, _, address = key.partition(":")
        if kind == "word" and self._machine is not None:
            self._address = int(address, 16)
            self._show(self._machine, self._address)

    def _follow(self, key: str) -> None:
        """A field was picked: if it holds an address of this memory, go there."""
        if self._known is None or self._found is None or self._machine is None:
            return
        target = self._known.behind(self._found, key)
        if target is not None:
            self._address = target
            self._show(self._machine, target)

    def _other_memory(self) -> None:
        """Another memory was chosen: begin at its root table."""
        if self._machine is not None:
            self._address = _root(self._machine, self.menus["memory-of"].value)
            self._show(self._machine, self._address)


def _root(machine: Machine, vm: str) -> int:
    """The first entry of a root table that is in use; the table itself while none is."""
    unit = machine.vm(vm).vmm.viommu if vm else machine.unit
    table = unit.reading.root
    words = unit.reading.memory.load_words(table, _WORDS)
    return table + 8 * next((at for at, word in enumerate(words) if word), 0)


def _memories(machine: Machine) -> list[tuple[str, str]]:
    """The machine's memory, and that of each VM."""
    return [(MEMORY["host"], ""), *((MEMORY["guest"].format(vm=name), name) for _, name in choices.vms(machine))]
