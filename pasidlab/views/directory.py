"""Projection: the directory of one device's PASID table -> cells. All 2^14 slots, then 64 of them, then one table.

Three rows: the whole directory (256 cells of 64 slots), the 64 slots of one cell, the 64 entries of one slot's table.
So each of the 2^20 PASIDs is two clicks away, and the picture has the same size for 3 entries and for a million. The
directory is read once, each table once; nothing is kept between steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY, PASID_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.vtd.entries import meaning_of
from pasidlab.views.cells import Cell, CellRow, Cells
from pasidlab.views.iommu_words import DIRECTORY
from pasidlab.views.numbers import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.hardware.memory import Memory
    from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
    from pasidlab.machine import Machine

__all__ = ["Leaf", "directory", "leaves", "present_count", "present_entries", "slot_of", "table_of"]

_SLOTS: Final = 1 << 14
_BLOCK: Final = 64
_ENTRIES: Final = 64
_WORDS: Final = 512
_MARKS: Final = {1: "F", 2: "S", 3: "N", 4: "P"}


class Leaf(NamedTuple):
    """A table of 64 entries: its slot in the directory, where it lies, how many entries are present."""

    slot: int
    address: int
    present: int


def leaves(memory: Memory, base: int) -> list[Leaf]:
    """Every table behind the directory at ``base``, lowest slots first."""
    return [
        Leaf(slot, at, sum([word & 1 for word in memory.load_words(at, _WORDS)[::8]]))
        for slot, at in _tables(memory, base)
    ]


def _tables(memory: Memory, base: int) -> Iterator[tuple[int, int]]:
    """Slot and address of each table."""
    pointer = PASID_DIR_ENTRY["SMPTBLPTR"]
    for first in range(0, _SLOTS, _WORDS):
        words = memory.load_words(base + first * 8, _WORDS)
        if any(words):  # most of a directory is empty, and this look is ten times quicker than the next
            yield from ((first + at, pointer.get((word,))) for at, word in enumerate(words) if word)


def present_count(machine: Machine, rid: int) -> int:
    """How many entries of a device's PASID table are present.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); present_count(m, dsa.rid)
    1
    """
    return sum(leaf.present for leaf in leaves(machine.memory, machine.kernel.iommu.tables[rid].directory))


def present_entries(memory: Memory, base: int, slot: int | None = None) -> Iterator[int]:
    """The PASIDs with a present entry, lowest first; of one slot's table only, if a slot is given."""
    for found, at in _tables(memory, base):
        if slot in (None, found):
            for index, word in enumerate(memory.load_words(at, _WORDS)[::8]):
                if word & 1:
                    yield found << 6 | index


def table_of(machine: Machine, device: str) -> PasidTable | None:
    """The PASID table of the device called ``device``; ``None`` while the IOMMU's driver does not know it."""
    return machine.kernel.iommu.tables.get(machine.functions[device].rid)


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
    rid, table = machine.functions[device].rid, table_of(machine, device)
    found = leaves(machine.memory, table.directory) if table is not None else []
    if pasid is not None:
        slot = slot_of(pasid)
    if slot is None:
        slot = next((leaf.slot for leaf in found if leaf.present), 0)
    known = {leaf.slot: leaf for leaf in found}
    total = counted(sum(leaf.present for leaf in found), DIRECTORY["present"], "entries")
    title = DIRECTORY["title"].format(
        device=device, rid=format_rid(rid), present=total, leaves=counted(len(found), DIRECTORY["leaves"])
    )
    rows = (_blocks(found, slot), _slots(known, slot), _entries(machine.memory, known.get(slot), slot, pasid))
    legend = tuple(DIRECTORY[f"key-{name}"] for name in ("some", "none", "no-leaf", "kinds"))
    return Cells("directory", title, rows, DIRECTORY["note"], legend)


def _blocks(found: list[Leaf], slot: int) -> CellRow:
    tables, present = [0] * (_SLOTS // _BLOCK), [0] * (_SLOTS // _BLOCK)
    for leaf in found:
        tables[leaf.slot // _BLOCK] += 1
        present[leaf.slot // _BLOCK] += leaf.present
    cells = tuple(_block(at, tables[at], present[at], slot // _BLOCK == at) for at in range(len(tables)))
    return CellRow("blocks", DIRECTORY["blocks"], cells)


def _block(at: int, tables: int, present: int, chosen: bool) -> Cell:
    low = at * _BLOCK
    hint = DIRECTORY["block"].format(
        low=low,
        high=low + _BLOCK - 1,
        first=low << 6,
        last=(low + _BLOCK << 6) - 1,
        leaves=counted(tables, DIRECTORY["leaves"]),
        present=present,
    )
    return Cell(f"block:{at}", hint, present / (_BLOCK * _ENTRIES) if tables else None, chosen=chosen)


def _slots(known: dict[int, Leaf], chosen: int) -> CellRow:
    low = chosen // _BLOCK * _BLOCK
    cells = []
    for slot in range(low, low + _BLOCK):
        leaf = known.get(slot)
        what = DIRECTORY["no-leaf"]
        if leaf is not None:
            what = DIRECTORY["leaf"].format(address=f"{leaf.address:#x}", present=leaf.present)
        hint = DIRECTORY["slot"].format(slot=slot, first=slot << 6, last=(slot << 6) + 63, what=what)
        share = leaf.present / _ENTRIES if leaf is not None else None
        cells.append(Cell(f"slot:{slot}", hint, share, chosen=slot == chosen))
    return CellRow("slots", DIRECTORY["slots"].format(low=low, high=low + _BLOCK - 1), tuple(cells))


def _entries(memory: Memory, leaf: Leaf | None, slot: int, chosen: int | None) -> CellRow:
    facts = {"slot": slot, "low": slot << 6, "high": (slot << 6) + 63}
    if leaf is None:
        cells = tuple(_entry(facts["low"] + at, None, chosen) for at in range(_ENTRIES))
        return CellRow("entries", DIRECTORY["no-table"].format(**facts), cells)
    words = memory.load_words(leaf.address, _WORDS)
    cells = tuple(_entry(facts["low"] + at, words[8 * at : 8 * at + 8], chosen) for at in range(_ENTRIES))
    return CellRow("entries", DIRECTORY["entries"].format(**facts), cells)


def _entry(pasid: int, words: tuple[int, ...] | None, chosen: int | None) -> Cell:
    key = f"entry:{pasid}"
    if words is None:
        return Cell(key, DIRECTORY["absent"].format(pasid=pasid), chosen=pasid == chosen)
    if not words[0] & 1:
        hint = DIRECTORY["silent" if words[0] & 2 else "absent"].format(pasid=pasid)
        return Cell(key, hint, 0.0, chosen=pasid == chosen)
    facts = {"pasid": pasid, "what": meaning_of(words), "did": PASID_ENTRY["DID"].get(words)}
    mark = _MARKS.get(PASID_ENTRY["PGTT"].get(words), "?")
    return Cell(key, DIRECTORY["entry"].format(**facts), 1.0, mark, pasid == chosen)
