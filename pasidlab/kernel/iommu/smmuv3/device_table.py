"""The stream table: one entry of 64 bytes a StreamID, which on PCIe is the requester ID.

Models ``arm_smmu_init_strtab_2lvl``, ``arm_smmu_init_l2_strtab`` and ``arm_smmu_write_strtab_ent`` of Linux 6.1. With
two levels the first has a word for each bus (SPLIT 8) and the 256 entries of a bus come with its first device;
otherwise the table is linear. Streams of devices that the kernel does not know are aborted, as 6.1 does by default
(``arm-smmu-v3.disable_bypass=1``); those of a bus without any device have no entry (C_BAD_STREAMID).

A change takes effect by one store of the first word, which comes last. An entry that is in use is made invalid before
the rest of it changes; later kernels find orders in which many changes need no such gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.smmu import STE, STREAM_TABLE_DESC, STRTAB_BASE_CFG_REG, STRTAB_BASE_REG
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.kernel.iommu.smmuv3 import entries

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
    from pasidlab.kernel.pages import PageAllocator

__all__ = ["StreamTable"]

_SPLIT: Final = 8
_BUSES: Final = 8
"""Bits of a requester ID that name the bus."""


class StreamTable:
    """The stream table of one unit. It has no state beside what lies in memory."""

    def __init__(self, unit: Capabilities, pages: PageAllocator) -> None:
        self._pages = pages
        self._memory = pages.memory
        self.two_level = unit.two_level_streams
        self.bits = _SPLIT + _BUSES
        size = 8 << self.bits - _SPLIT if self.two_level else STE.size << self.bits
        self.base = pages.alloc_run((size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        if not self.two_level:
            self._abort_all(self.base, 1 << self.bits)

    def registers(self) -> tuple[int, int]:
        """STRTAB_BASE and STRTAB_BASE_CFG."""
        split = {"SPLIT": _SPLIT, "FMT": 1} if self.two_level else {}
        config = STRTAB_BASE_CFG_REG.encode(LOG2SIZE=self.bits, **split)
        return STRTAB_BASE_REG.encode(ADDR=self.base, RA=1)[0], config[0]

    def _abort_all(self, table: int, count: int) -> None:
        self._memory.store_words(table, entries.abort() * count)

    def build(self, rid: int) -> bool:
        """Make room for the entry of ``rid``; whether a second level had to be made."""
        if not self.two_level:
            return False
        slot = self.base + (rid >> _SPLIT) * 8
        if self._memory.load(slot):
            return False
        size = STE.size << _SPLIT
        table = self._pages.alloc_run(size >> PAGE_SHIFT)
        self._abort_all(table, 1 << _SPLIT)
        self._memory.store(slot, STREAM_TABLE_DESC.encode(span=_SPLIT + 1, L2Ptr=table)[0])
        return True

    def address(self, rid: int) -> int | None:
        """Where the entry of ``rid`` lies; ``None`` if its part of the table is not there."""
        if not self.two_level:
            return self.base + rid * STE.size
        entry = self._memory.load(self.base + (rid >> _SPLIT) * 8)
        if not entry:
            return None
        return STREAM_TABLE_DESC["L2Ptr"].get((entry,)) + (rid & (1 << _SPLIT) - 1) * STE.size

    def read(self, rid: int) -> tuple[int, ...]:
        """The eight words of an entry (zero if its part of the table is not there)."""
        at = self.address(rid)
        return (0,) * STE.word_count if at is None else self._memory.load_words(at, STE.word_count)

    def prepare(self, rid: int, words: tuple[int, ...]) -> None:
        """Write everything but the first word; the entry's part of the table must be there."""
        self._memory.store_words(self._place(rid) + 8, words[1:])

    def commit(self, rid: int, word: int) -> None:
        """Write the first word."""
        self._memory.store(self._place(rid), word)

    def _place(self, rid: int) -> int:
        at = self.address(rid)
        assert at is not None
        return at
