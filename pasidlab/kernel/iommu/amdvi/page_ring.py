"""The page request log of an AMD IOMMU (PPR log), from its driver's side: a ring of 8 KiB, and answers by command.

Models ``iommu_enable_ppr_log``, ``iommu_poll_ppr_log``, ``amd_iommu_restart_ppr_log`` and ``amd_iommu_complete_ppr`` of
``drivers/iommu/amd/ppr.c``. Status bits are cleared before the log is read: what comes later interrupts anew.

The tag has ten bits in the log and nine in the answer (facts/hardware.md 4.2 and 8): the upper one marks the last
request of a group. UNVERIFIED: that a COMPLETION_WAIT is enough to have requests on their way in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.page_queue import PAGE_REQUEST_TYPE, decode_page_request
from pasidlab.hardware.layouts.amd import BUFFER_REG, CONTROL_REG, MSI_CAPABILITY_REG, STATUS_REG
from pasidlab.hardware.layouts.amd_queue import PPR_ENTRY
from pasidlab.kernel.iommu.amdvi.queue import RING_ENTRIES_CODE, RING_PAGES, RING_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.hardware.cpu import InterruptHandler
    from pasidlab.hardware.pcie import PageGroupResponse, PageRequest
    from pasidlab.kernel.iommu.amdvi.queue import CommandBuffer
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["AmdPageRing"]

_VECTOR: Final = 0x31
_LOG_ENABLE: Final = CONTROL_REG["PPRLogEn"].mask
_PENDING: Final = STATUS_REG["PPRInt"].mask
_OVERFLOW: Final = STATUS_REG["PPROverflow"].mask
_MESSAGES: Final = MSI_CAPABILITY_REG["MsiEn"].mask


class AmdPageRing:
    """See :class:`~pasidlab.kernel.iommu.page_requests.PageRing`."""

    def __init__(self, platform: Platform, pages: PageAllocator, queue: CommandBuffer) -> None:
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._apic = platform.apic
        self._queue = queue
        self._ring = pages.alloc_run(RING_PAGES)

    def enable(self, handler: InterruptHandler) -> None:
        """Tell the unit where the log is, and that ``handler`` is to be woken. Logging itself is a control bit."""
        self._mmio.write(reg.BASE + reg.PPR_LOG, BUFFER_REG.encode(Base=self._ring, Length=RING_ENTRIES_CODE)[0])
        self._apic.handlers[_VECTOR] = handler
        self._mmio.write(reg.BASE + reg.MSI_ADDR_LO, INTERRUPT_BASE, 4)
        self._mmio.write(reg.BASE + reg.MSI_ADDR_HI, 0, 4)
        self._mmio.write(reg.BASE + reg.MSI_DATA, _VECTOR, 4)
        self._mmio.write(reg.BASE + reg.MSI_CAPABILITY, _MESSAGES, 4)

    def acknowledge(self) -> None:
        """STATUS.PPRInt is cleared before the log is read."""
        self._mmio.write(reg.BASE + reg.STATUS, _PENDING)

    def take(self) -> PageRequest | None:
        """The request at the head, which moves on. An entry that is no page request is passed over."""
        while (head := self._offset(reg.PPR_HEAD)) != self._offset(reg.PPR_TAIL):
            words = self._memory.load_words(self._ring + head, PPR_ENTRY.word_count)
            self._memory.store_words(self._ring + head, (0,) * PPR_ENTRY.word_count)
            self._mmio.write(reg.BASE + reg.PPR_HEAD, (head + PPR_ENTRY.size) % RING_SIZE)
            if PPR_ENTRY["TYPE"].get(words) == PAGE_REQUEST_TYPE:
                return decode_page_request(words)
        return None

    def overflowed(self) -> bool:
        """STATUS.PPROverflow, which is cleared; then logging is switched off and on, so that it goes on."""
        dropped = bool(self._mmio.read(reg.BASE + reg.STATUS) & _OVERFLOW)
        if dropped:
            control = self._mmio.read(reg.BASE + reg.CONTROL)
            self._mmio.write(reg.BASE + reg.CONTROL, control & ~_LOG_ENABLE)
            self._mmio.write(reg.BASE + reg.STATUS, _OVERFLOW)
            self._mmio.write(reg.BASE + reg.CONTROL, control)
        return dropped

    def respond(self, response: PageGroupResponse) -> None:
        """COMPLETE_PPR_REQUEST."""
        self._queue.submit(self._queue.page_response(response))

    def drain(self, flush: Sequence[tuple[int, ...]]) -> None:
        """``flush``, and a COMPLETION_WAIT."""
        self._queue.submit(*flush)

    def _offset(self, register: int) -> int:
        """Head or tail."""
        return self._mmio.read(reg.BASE + register) % RING_SIZE
