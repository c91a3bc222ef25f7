"""The page request queue of a VT-d unit, from its driver's side: a ring of 4 KiB, and responses by descriptor.

Models ``intel_svm_enable_prq`` and the register accesses of ``prq_event_thread`` of ``drivers/iommu/intel/svm.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.iommu.vtd.page_queue import OVERFLOW, PENDING, decode_page_request
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.hardware.cpu import InterruptHandler
    from pasidlab.hardware.pcie import PageGroupResponse, PageRequest
    from pasidlab.kernel.iommu.vtd.queue import InvalidationQueue
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["VtdPageRing"]

_VECTOR: Final = 0x31


class VtdPageRing:
    """See :class:`~pasidlab.kernel.iommu.page_requests.PageRing`."""

    def __init__(self, platform: Platform, pages: PageAllocator, queue: InvalidationQueue) -> None:
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._apic = platform.apic
        self._queue = queue
        self._ring = pages.alloc()

    def enable(self, handler: InterruptHandler) -> None:
        """Tell the unit where the ring is, and that ``handler`` is to be woken."""
        for register in (reg.PQH, reg.PQT):
            self._mmio.write(reg.BASE + register, 0)
        self._mmio.write(reg.BASE + reg.PQA, self._ring)
        self._apic.handlers[_VECTOR] = handler
        self._mmio.write(reg.BASE + reg.PECTL + 4, _VECTOR, 4)
        self._mmio.write(reg.BASE + reg.PECTL + 8, INTERRUPT_BASE)
        self._mmio.write(reg.BASE + reg.PECTL, 0, 4)

    def acknowledge(self) -> None:
        """PRS.PPR is cleared before the queue is read: what comes later interrupts anew."""
        self._mmio.write(reg.BASE + reg.PRS, PENDING, 4)

    def take(self) -> PageRequest | None:
        """The request at the head, which moves on."""
        head = self._offset(reg.PQH)
        if head == self._offset(reg.PQT):
            return None
        words = self._memory.load_words(self._ring + head, PAGE_REQUEST.word_count)
        self._mmio.write(reg.BASE + reg.PQH, (head + PAGE_REQUEST.size) % PAGE_SIZE)
        return decode_page_request(words)

    def overflowed(self) -> bool:
        """PRS.PRO, which is cleared: the unit takes requests again."""
        dropped = bool(self._mmio.read(reg.BASE + reg.PRS, 4) & OVERFLOW)
        if dropped:
            self._mmio.write(reg.BASE + reg.PRS, OVERFLOW, 4)
        return dropped

    def respond(self, response: PageGroupResponse) -> None:
        """A page group response descriptor."""
        self._queue.submit(self._queue.page_response(response))

    def drain(self, flush: Sequence[tuple[int, ...]]) -> None:
        """A fence, ``flush``, and a wait descriptor with PD=1."""
        self._queue.submit(self._queue.fence(), *flush, drain_page_requests=True)

    def _offset(self, register: int) -> int:
        """Head or tail, as far as this driver's ring goes."""
        return self._mmio.read(reg.BASE + register) & PAGE_SIZE - PAGE_REQUEST.size
