"""One device's table of PASIDs: GCR3 tables of one to three levels, 512 entries of 8 bytes each, in kernel memory.

Models ``setup_gcr3_table``, ``__get_gcr3_pte`` and ``free_gcr3_table`` of ``drivers/iommu/amd/iommu.c``. The root is
there from the start, since the device table entry names it; lower tables come when a PASID in their range is first
used. An entry is one word, so that writing and clearing it is one store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.amd import GCR3_ENTRY
from pasidlab.kernel.iommu.amdvi import entries
from pasidlab.kernel.iommu.contract import Leaf
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["Gcr3Table"]

_BITS: Final = 9
_ENTRIES: Final = 1 << _BITS


class Gcr3Table(Part, state=("root",)):
    """The GCR3 tables behind one device table entry: ``levels`` of them, the top one at ``root``.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.kernel.pages import PageAllocator
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> pages = PageAllocator(time, "pages", PhysicalMemory(time, "ram", 1 << 20), 1 << 20)
    >>> table = Gcr3Table(time, "table", pages, levels=2)
    >>> table.write(0x1234, (0x4444_0001,))
    >>> table.present(), hex(table.read(0x1234)[0]), table.read(0x5), len(table.frames())
    ([4660], '0x44440001', (0,), 2)
    """

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator, levels: int) -> None:
        super().__init__(timeline, path)
        self._pages = pages
        self.levels = levels
        self.root = pages.alloc()

    def address(self, pasid: int, *, build: bool = False) -> int | None:
        """Where the entry of ``pasid`` lies; without ``build``, ``None`` if a table on the way does not exist.

        A PASID that needs more levels has no place at all.
        """
        if pasid >> _BITS * self.levels:
            return None
        table, memory = self.root, self._pages.memory
        for level in range(self.levels - 1, 0, -1):
            slot = table + (pasid >> _BITS * level & _ENTRIES - 1) * GCR3_ENTRY.size
            word = memory.load(slot)
            if not word:
                if not build:
                    return None
                (word,) = entries.gcr3_entry(self._pages.alloc())
                memory.store(slot, word)
            table = GCR3_ENTRY["CR3"].get((word,))
        return table + (pasid & _ENTRIES - 1) * GCR3_ENTRY.size

    def read(self, pasid: int) -> tuple[int, ...]:
        """The word of an entry (zero if there is no table for it)."""
        at = self.address(pasid)
        return (0,) if at is None else (self._pages.memory.load(at),)

    def write(self, pasid: int, words: tuple[int, ...]) -> None:
        """Write an entry; its table is made if it is missing."""
        at = self.address(pasid, build=True)
        assert at is not None
        self._pages.memory.store(at, words[0])

    def clear(self, pasid: int) -> None:
        """Zero an entry; there need not be one."""
        at = self.address(pasid)
        if at is not None:
            self._pages.memory.store(at, 0)

    @property
    def top(self) -> int:
        """The highest GCR3 table."""
        return self.root

    def leaves(self) -> Iterator[Leaf]:
        """The lowest tables, which hold the entries of 512 PASIDs each, lowest PASID first."""
        for level, first, table in self._tables(self.root, self.levels - 1, 0):
            if not level:
                yield Leaf(first, _ENTRIES, table)

    def present_in(self, leaf: Leaf) -> list[int]:
        """The PASIDs of one lowest table that have a valid entry."""
        words = self._pages.memory.load_words(leaf.address, _ENTRIES)
        return [leaf.first + index for index, word in enumerate(words) if word & 1]

    def present(self) -> list[int]:
        """The PASIDs with a valid entry, read from the tables."""
        return [pasid for leaf in self.leaves() for pasid in self.present_in(leaf)]

    def frames(self) -> set[int]:
        """All tables, whatever their level."""
        return {table for _, _, table in self._tables(self.root, self.levels - 1, 0)}

    def _tables(self, table: int, level: int, first: int) -> Iterator[tuple[int, int, int]]:
        """Level (0 is the lowest), first PASID and address of every table from ``table`` on."""
        yield level, first, table
        for index, word in enumerate(self._pages.memory.load_words(table, _ENTRIES)) if level else ():
            if word:
                lower = GCR3_ENTRY["CR3"].get((word,))
                yield from self._tables(lower, level - 1, first + (index << _BITS * level))

    def destroy(self) -> None:
        """Free every table (not the page tables that they name)."""
        for table in sorted(self.frames()):
            self._pages.free(table)
        self.retire()
