"""One device's table of context descriptors: 64 bytes a SubstreamID, in the kernel's memory.

Models ``arm_smmu_alloc_cd_tables``, ``arm_smmu_get_cd_ptr`` and ``arm_smmu_write_ctx_desc`` of Linux 6.1. With at most
2^10 descriptors the table is linear, otherwise it has two levels (S1Fmt 2): each word of the first names a leaf of
64 KiB with 1024 descriptors, and leaves come when a SubstreamID in their range is first used. Descriptor 0 serves no
request here: without SubstreamID stage 1 is bypassed, and no kernel hands out PASID 0.

Hardware reads the 64 bytes in pieces of 8: a descriptor becomes valid by one store of its first word, which comes last,
and invalid by one store of zero to it. The table is made with the device; Linux makes it when the first process is
bound, or a first domain attached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.kernel.iommu.contract import Leaf
from pasidlab.kernel.iommu.smmuv3.capabilities import LINEAR_BITS
from pasidlab.kernel.iommu.smmuv3.entries import ContextTable, is_live
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["CdTable"]

_LEAF_BITS: Final = 10
_LEAF_PAGES: Final = (CD.size << _LEAF_BITS) >> PAGE_SHIFT
_LINEAR: Final = 0
_TWO_LEVEL: Final = 2


class CdTable(Part, state=("base",)):
    """The context descriptors of one device, for PASIDs of ``bits`` bits; ``base`` is the address that its entry gets.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.kernel.pages import PageAllocator
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline(); pages = PageAllocator(time, "pages", PhysicalMemory(time, "ram", 1 << 20), 1 << 20)
    >>> table = CdTable(time, "table", pages, bits=20)
    >>> table.address(1025), hex(table.address(1025, build=True)), hex(pages.memory.load(table.base + 8))
    (None, '0x10040', '0x10001')
    """

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator, bits: int) -> None:
        super().__init__(timeline, path)
        self.bits = bits
        self.two_level = bits > LINEAR_BITS
        self._pages = pages
        size = 8 << bits - _LEAF_BITS if self.two_level else CD.size << bits
        self._count = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
        self.base = pages.alloc_run(self._count)

    def shape(self) -> ContextTable:
        """What the stream table entry says of it."""
        return ContextTable(_TWO_LEVEL if self.two_level else _LINEAR, self.base, self.bits)

    def address(self, pasid: int, *, build: bool = False) -> int | None:
        """Where a descriptor lies; without ``build``, ``None`` if its leaf does not exist."""
        if not self.two_level:
            return self.base + pasid * CD.size
        slot = self.base + (pasid >> _LEAF_BITS) * 8
        entry = self._pages.memory.load(slot)
        if not entry:
            if not build:
                return None
            entry = CD_TABLE_DESC.encode(V=1, L2Ptr=self._pages.alloc_run(_LEAF_PAGES))[0]
            self._pages.memory.store(slot, entry)
        return CD_TABLE_DESC["L2Ptr"].get((entry,)) + (pasid & (1 << _LEAF_BITS) - 1) * CD.size

    def read(self, pasid: int) -> tuple[int, ...]:
        """The eight words of a descriptor (zero if there is no leaf)."""
        at = self.address(pasid)
        return (0,) * CD.word_count if at is None else self._pages.memory.load_words(at, CD.word_count)

    def prepare(self, pasid: int, words: tuple[int, ...]) -> None:
        """Write everything but the first word; the leaf must be there."""
        self._pages.memory.store_words(self._place(pasid) + 8, words[1:])

    def commit(self, pasid: int, word: int) -> None:
        """Write the first word: valid, changed, or (0) gone."""
        self._pages.memory.store(self._place(pasid), word)

    def _place(self, pasid: int) -> int:
        at = self.address(pasid)
        assert at is not None
        return at

    def present(self) -> list[int]:
        """The PASIDs whose descriptor translates, read from the tables."""
        return [pasid for leaf in self.leaves() for pasid in self.present_in(leaf)]

    @property
    def top(self) -> int:
        """The first level, or the linear table."""
        return self.base

    def leaves(self) -> Iterator[Leaf]:
        """The leaves that exist, lowest first; a linear table is one."""
        if not self.two_level:
            yield Leaf(0, 1 << self.bits, self.base)
            return
        words = self._pages.memory.load_words(self.base, 1 << self.bits - _LEAF_BITS)
        for number, entry in enumerate(words):
            if entry:
                yield Leaf(number << _LEAF_BITS, 1 << _LEAF_BITS, CD_TABLE_DESC["L2Ptr"].get((entry,)))

    def present_in(self, leaf: Leaf) -> list[int]:
        """The PASIDs of one leaf whose descriptor translates."""
        memory, words = self._pages.memory, CD.word_count
        firsts = memory.load_words(leaf.address, leaf.entries * words)[::words]
        return [leaf.first + at for at, word in enumerate(firsts) if word and is_live((word, *(0,) * (words - 1)))]

    def frames(self) -> set[int]:
        """The first level's pages, and those of every leaf."""
        found = {self.base + (page << PAGE_SHIFT) for page in range(self._count)}
        for leaf in self.leaves() if self.two_level else ():
            found |= {leaf.address + (page << PAGE_SHIFT) for page in range(_LEAF_PAGES)}
        return found

    def destroy(self) -> None:
        """Free everything."""
        for leaf in list(self.leaves()) if self.two_level else ():
            self._pages.free(leaf.address, _LEAF_PAGES)
        self._pages.free(self.base, self._count)
        self.retire()
