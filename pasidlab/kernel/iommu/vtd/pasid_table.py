"""One device's PASID table: a directory of leaf tables, 64 entries of 64 bytes each, in the kernel's memory.

Models ``drivers/iommu/intel/pasid.c``: ``intel_pasid_alloc_table``, ``intel_pasid_get_entry`` and the setters. The
directory covers the whole 20-bit space (2^14 entries, 128 KiB); leaf tables come when a PASID in their range is first
used.

An entry is written with its first word (the one with P) last, and torn down in the two phases that the specification
asks for: clear only P, invalidate, then zero the rest (hardware may read the 64 bytes in pieces).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY
from pasidlab.kernel.iommu.contract import Leaf
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["PDTS_FULL", "PasidTable"]

PDTS_FULL: Final = 7
"""Directory size code for 2^20 PASIDs: 2^(PDTS+7) directory entries."""
_LEAF_ENTRIES: Final = 64
_DIRECTORY_PAGES: Final = (1 << PDTS_FULL + 7) * 8 >> 12


class PasidTable(Part, state=("directory",)):
    """The tables behind one context entry."""

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator) -> None:
        super().__init__(timeline, path)
        self._pages = pages
        self.directory = pages.alloc_run(_DIRECTORY_PAGES)

    def context_entry(self, *, ats: bool, pri: bool) -> tuple[int, ...]:
        """The context entry that puts this table in front of a device, which may translate and ask for pages."""
        return CONTEXT_ENTRY.encode(
            P=1, DTE=int(ats), PASIDE=1, PRE=int(pri), PDTS=PDTS_FULL, PASIDDIRPTR=self.directory
        )

    def address(self, pasid: int, *, build: bool = False) -> int | None:
        """Where the entry of ``pasid`` lies; without ``build``, ``None`` if its leaf table does not exist."""
        slot = self.directory + (pasid >> 6) * 8
        entry = self._pages.memory.load(slot)
        if not entry:
            if not build:
                return None
            entry = PASID_DIR_ENTRY.encode(P=1, SMPTBLPTR=self._pages.alloc())[0]
            self._pages.memory.store(slot, entry)
        return PASID_DIR_ENTRY["SMPTBLPTR"].get((entry,)) + (pasid & 63) * PASID_ENTRY.size

    def read(self, pasid: int) -> tuple[int, ...]:
        """The eight words of an entry (zero if there is no leaf table)."""
        at = self.address(pasid)
        return (
            (0,) * PASID_ENTRY.word_count if at is None else self._pages.memory.load_words(at, PASID_ENTRY.word_count)
        )

    def write(self, pasid: int, words: tuple[int, ...]) -> None:
        """Write an entry: everything but its first word, then the first word with P."""
        at = self.address(pasid, build=True)
        assert at is not None
        self._pages.memory.store_words(at + 8, words[1:])
        self._pages.memory.store(at, words[0])

    def clear_present(self, pasid: int) -> None:
        """First phase of the teardown: P goes, everything else stays."""
        at = self.address(pasid)
        assert at is not None
        self._pages.memory.store(at, PASID_ENTRY.change(self.read(pasid), P=0)[0])

    def zero(self, pasid: int, *, fault_disable: bool = False) -> None:
        """Second phase: zero the entry; with ``fault_disable`` FPD stays set: late DMA is blocked in silence."""
        at = self.address(pasid)
        assert at is not None
        self._pages.memory.store_words(at, PASID_ENTRY.encode(FPD=int(fault_disable)))

    @property
    def top(self) -> int:
        """The directory."""
        return self.directory

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf table, lowest PASIDs first."""
        yield from (Leaf(slot << 6, _LEAF_ENTRIES, at) for slot, at in self._leaves())

    def present_in(self, leaf: Leaf) -> list[int]:
        """The PASIDs of a leaf table with a present entry."""
        words = PASID_ENTRY.word_count
        firsts = self._pages.memory.load_words(leaf.address, _LEAF_ENTRIES * words)[::words]
        return [leaf.first + at for at, word in enumerate(firsts) if word & 1]

    def present(self) -> list[int]:
        """The PASIDs with a present entry, read from the tables."""
        return [pasid for leaf in self.leaves() for pasid in self.present_in(leaf)]

    def frames(self) -> set[int]:
        """The directory's pages, and every leaf table."""
        return {self.directory + (page << 12) for page in range(_DIRECTORY_PAGES)} | {at for _, at in self._leaves()}

    def _leaves(self) -> Iterator[tuple[int, int]]:
        """Directory index and address of every leaf table."""
        for page in range(_DIRECTORY_PAGES):
            words = self._pages.memory.load_words(self.directory + (page << 12), 512)
            for at, entry in enumerate(words) if words.count(0) < len(words) else ():
                if entry:
                    yield page << 9 | at, PASID_DIR_ENTRY["SMPTBLPTR"].get((entry,))

    def destroy(self) -> None:
        """Free the directory and every leaf table."""
        for _, leaf in list(self._leaves()):
            self._pages.free(leaf)
        self._pages.free(self.directory, _DIRECTORY_PAGES)
        self.retire()
