"""The device table: 32 bytes for each requester ID, in one contiguous run of the kernel's memory.

Models ``alloc_dev_table``, ``init_device_table_dma`` and the writes of ``set_dte_entry``/``update_dte256`` in
``drivers/iommu/amd``. An entry of zeros would let everything pass, so every entry is *blocked* from the start; a device
beyond the end is blocked by the unit.

Linux makes the table once, as long as the last device that the firmware names (IVRS). Here there is no such list:
the table begins with one bus, and is made anew, longer, when a device further up appears.

An entry is written so that hardware which reads in between finds the old entry, a blocked one, or the new one: first
the rights go, then the words behind follow, the first word comes last (the order is ours: UNVERIFIED).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.amd import DEVICE_TABLE_REG, DTE
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.amdvi.entries import BLOCKED
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["DeviceTable"]

_ONE_BUS: Final = 256 * DTE.size >> PAGE_SHIFT


class DeviceTable(Part, state=("base", "pages")):
    """``pages`` of 4 KiB at ``base``.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.kernel.pages import PageAllocator
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> table = DeviceTable(time, "table", PageAllocator(time, "pages", PhysicalMemory(time, "ram", 1 << 22), 1 << 22))
    >>> table.address(0x6A08), table.cover(0x6A08), hex(table.address(0x6A08)), table.read(0x18) == BLOCKED
    (None, True, '0x1d4100', True)
    """

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator) -> None:
        super().__init__(timeline, path)
        self._allocator = pages
        self.pages = _ONE_BUS
        self.base = pages.alloc_run(self.pages)
        self._block(self.base, self.pages)

    @property
    def register(self) -> int:
        """What DEV_TAB has to hold."""
        return DEVICE_TABLE_REG.encode(Base=self.base, Size=self.pages - 1)[0]

    def address(self, rid: int) -> int | None:
        """Where the entry of a requester ID lies; ``None``: the table does not reach so far."""
        return self.base + rid * DTE.size if rid * DTE.size < self.pages << PAGE_SHIFT else None

    def cover(self, rid: int) -> bool:
        """Make the table long enough for a requester ID; whether it has moved, so that the unit must be told."""
        if self.address(rid) is not None:
            return False
        old, count = self.base, self.pages
        needed = 1 << (rid * DTE.size >> PAGE_SHIFT).bit_length()
        new = self._allocator.alloc_run(needed)
        memory = self._allocator.memory
        for page in range(0, count << PAGE_SHIFT, PAGE_SIZE):
            memory.store_words(new + page, memory.load_words(old + page, PAGE_SIZE // 8))
        self._block(new + (count << PAGE_SHIFT), needed - count)
        self.base, self.pages = new, needed
        return True

    def release(self, base: int, pages: int) -> None:
        """Free a table that the unit does not use any more."""
        self._allocator.free(base, pages)

    def read(self, rid: int) -> tuple[int, ...]:
        """The words of an entry; of one beyond the table what the unit makes of it."""
        at = self.address(rid)
        return BLOCKED if at is None else self._allocator.memory.load_words(at, DTE.word_count)

    def write(self, rid: int, words: tuple[int, ...]) -> None:
        """Replace an entry; the caches are told by the caller."""
        at, memory = self.address(rid), self._allocator.memory
        if at is None:
            raise ValueError(f"the device table must cover {format_rid(rid)} first")
        memory.store(at, BLOCKED[0])
        memory.store_words(at + 8, words[1:])
        memory.store(at, words[0])

    def _block(self, start: int, pages: int) -> None:
        memory = self._allocator.memory
        for at in range(start, start + (pages << PAGE_SHIFT), DTE.size):
            memory.store(at, BLOCKED[0])
