"""Projection: one device's table of PASIDs -> cells. All 2^20 PASIDs, then 4096 of them, then 64.

Three rows: the whole space (256 cells of 64 slots), the 64 slots of one cell, the 64 entries of one slot. So each of
the 2^20 PASIDs is two clicks away, and the picture has the same size for 3 entries and for a million. A slot is what
VT-d has a table for; the tables of other units hold several slots. Each part of the table is read once; nothing is kept
between steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.cells import Cell, CellRow, Cells
from pasidlab.views.numbers import counted
from pasidlab.views.tables import device_entries, table_of
from pasidlab.views.unit_words import kind_of, unit_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.kernel.iommu.contract import EntryTable
    from pasidlab.machine import Machine
    from pasidlab.views.tables import DeviceTable

__all__ = ["Slot", "directory", "present_count", "slot_of", "slots_of"]

_SLOTS: Final = 1 << 14
_BLOCK: Final = 64
_ENTRIES: Final = 64
_MARKS: Final = {EntryKind.FIRST: "F", EntryKind.SECOND: "S", EntryKind.NESTED: "N", EntryKind.PASS_THROUGH: "P"}


class Slot(NamedTuple):
    """64 PASIDs whose part of the table exists: the number of the slot, where the entries lie, how many are present."""

    slot: int
    address: int
    present: int


def slots_of(table: EntryTable) -> list[Slot]:
    """Every slot for which there is a table, lowest first."""
    found = []
    for leaf in table.leaves():
        present = [0] * max(1, leaf.entries // _ENTRIES)
        for pasid in table.present_in(leaf):
            present[(pasid - leaf.first) // _ENTRIES] += 1
        for at, count in enumerate(present):
            first = leaf.first + at * _ENTRIES
            found.append(Slot(first // _ENTRIES, table.address(first) or leaf.address, count))
    return found


def present_count(machine: Machine, rid: int) -> int:
    """How many entries of a device hardware would use, those for requests without PASID too.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); present_count(m, dsa.rid)
    1
    """
    return len(machine.unit.entries(rid))


def slot_of(pasid: int) -> int:
    """The slot of a PASID (its bits 19:6).

    >>> slot_of(63), slot_of(64)
    (0, 1)
    """
    return pasid >> 6


def directory(machine: Machine, device: str, slot: int | None = None, pasid: int | None = None) -> Cells:
    """The directory of the device called ``device``, opened at ``slot`` (default: the first one in use), with the
    entry of ``pasid`` chosen.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> cells = directory(m, "dsa0"); cells.title
    'PASID table of dsa0 (6a:01.0): 1 entry present in 1 table'
    >>> [(cell.key, cell.mark) for cell in cells.rows[2].cells if cell.share]
    [('entry:0', 'P')]
    """
    shown = table_of(machine, device)
    if pasid is not None:
        slot = slot_of(pasid)
    made = _Made(machine, device, shown, slot)
    return Cells("directory", made.title(), (made.blocks(), made.slots(), made.entries(pasid)), made.words["dir-note"],
                 tuple(made.words[f"dir-key-{name}"] for name in ("some", "none", "no-leaf", "kinds")))  # fmt: skip


class _Made:
    """The rows while they are put together."""

    def __init__(self, machine: Machine, device: str, shown: DeviceTable | None, slot: int | None) -> None:
        self.machine, self.device, self.shown = machine, device, shown
        self.words = unit_words(machine.unit)
        self.known = {found.slot: found for found in slots_of(shown.table)} if shown is not None else {}
        self.slot = next((at for at, one in self.known.items() if one.present), 0) if slot is None else slot

    def title(self) -> str:
        """How many are present, in how many tables, and whose they are."""
        total = counted(sum(one.present for one in self.known.values()), self.words["dir-one"], self.words["dir-many"])
        tables = sum(1 for _ in self.shown.table.leaves()) if self.shown is not None else 0
        rid = format_rid(self.machine.functions[self.device].rid)
        title = self.words["dir-title"].format(
            device=self.device, rid=rid, present=total, leaves=counted(tables, "table")
        )
        return title + (
            self.words["dir-owned"].format(vm=self.shown.vm) if self.shown is not None and self.shown.vm else ""
        )

    def blocks(self) -> CellRow:
        """All PASIDs."""
        tables, present = [0] * (_SLOTS // _BLOCK), [0] * (_SLOTS // _BLOCK)
        for one in self.known.values():
            tables[one.slot // _BLOCK] += 1
            present[one.slot // _BLOCK] += one.present
        cells = tuple(self._block(at, tables[at], present[at]) for at in range(len(tables)))
        return CellRow("blocks", self.words["dir-blocks"], cells)

    def _block(self, at: int, tables: int, present: int) -> Cell:
        low = at * _BLOCK
        facts = {"low": low, "high": low + _BLOCK - 1, "first": low << 6, "last": (low + _BLOCK << 6) - 1}
        hint = self.words["dir-block"].format(leaves=self._covered(tables), present=present, **facts)
        share = present / (_BLOCK * _ENTRIES) if tables else None
        return Cell(f"block:{at}", hint, share, chosen=self.slot // _BLOCK == at)

    def _covered(self, slots: int) -> str:
        return counted(slots, self.words["dir-slot-table"], self.words["dir-slot-tables"])

    def slots(self) -> CellRow:
        """The 64 slots around the chosen one."""
        low = self.slot // _BLOCK * _BLOCK
        facts = {"low": low, "high": low + _BLOCK - 1, "first": low << 6, "last": (low + _BLOCK << 6) - 1}
        cells = tuple(self._slot(slot) for slot in range(low, low + _BLOCK))
        return CellRow("slots", self.words["dir-slots"].format(**facts), cells)

    def _slot(self, slot: int) -> Cell:
        one = self.known.get(slot)
        what = self.words["dir-no-leaf"]
        if one is not None:
            what = self.words["dir-leaf"].format(address=f"{one.address:#x}", present=one.present)
        hint = self.words["dir-slot"].format(slot=slot, first=slot << 6, last=(slot << 6) + 63, what=what)
        share = one.present / _ENTRIES if one is not None else None
        return Cell(f"slot:{slot}", hint, share, chosen=slot == self.slot)

    def entries(self, chosen: int | None) -> CellRow:
        """The 64 entries of the chosen slot."""
        low = self.slot << 6
        facts = {"slot": self.slot, "low": low, "high": low + 63}
        if self.shown is None or self.slot not in self.known:
            cells = tuple(self._absent(low + at, chosen) for at in range(_ENTRIES))
            return CellRow("entries", self.words["dir-no-table"].format(**facts), cells)
        used = device_entries(self.machine, self.device)
        end = max(leaf.first + leaf.entries for leaf in self.shown.table.leaves())
        cells = tuple(
            self._entry(self.shown, pasid, used, chosen) if pasid < end else self._absent(pasid, chosen)
            for pasid in range(low, low + _ENTRIES)
        )
        return CellRow("entries", self.words["dir-entries"].format(**facts), cells)

    def _absent(self, pasid: int, chosen: int | None) -> Cell:
        return Cell(f"entry:{pasid}", self.words["dir-absent"].format(pasid=pasid), chosen=pasid == chosen)

    def _entry(self, shown: DeviceTable, pasid: int, used: Mapping[int, TableEntry], chosen: int | None) -> Cell:
        key, reading = f"entry:{pasid}", shown.unit.reading
        words = shown.table.read(pasid)
        if not reading.present(words):
            hint = self.words["dir-silent" if reading.silent(words) else "dir-absent"].format(pasid=pasid)
            return Cell(key, hint, 0.0, chosen=pasid == chosen)
        entry = used.get(pasid)
        if entry is None or (not pasid and entry.words != words):
            return Cell(key, self.words["dir-broken"].format(pasid=pasid), 1.0, "?", pasid == chosen)
        tag = f"{self.words['short-tag']} {entry.tag}"
        hint = self.words["dir-entry"].format(pasid=pasid, what=kind_of(self.machine.unit, entry.kind), tag=tag)
        return Cell(key, hint, 1.0, _MARKS[entry.kind], pasid == chosen)
