"""Page requests of an SMMUv3, from its driver's side: the PRI queue, and transactions that the unit holds.

Both are served alike (:mod:`~pasidlab.kernel.iommu.page_requests`). A request of the PRI queue is answered by
CMD_PRI_RESP. A held transaction comes by the event queue (:mod:`.faults`), with a tag that stands for the group, and is
answered by CMD_RESUME: tried again, or ended with an abort (``arm_smmu_page_response`` of Linux 6.1). A device is
served in one way only: one that can be held uses no ATS, and so has no page requests.

UNVERIFIED: Linux never had PRI on this unit (``arm_smmu_handle_ppr`` prints "unexpected PRI request received" and
denies); the series for it was posted and not merged. Followed here is what the other drivers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.iommu.smmuv3.page_queue import decode_page_request
from pasidlab.hardware.layouts.smmu import QUEUE_BASE_REG
from pasidlab.hardware.layouts.smmu_queue import EVENT, PRI_ENTRY
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import PageRequest, ResponseCode
from pasidlab.kernel.iommu.smmuv3.faults import OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.hardware.cpu import InterruptHandler
    from pasidlab.hardware.pcie import PageGroupResponse
    from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["SmmuPageRing", "held_request"]

_VECTOR: Final = 0x31


def held_request(words: tuple[int, ...]) -> PageRequest:
    """The page request that the record of a held transaction stands for; its group is the tag.

    >>> print(held_request((0x6A0800005810, 0x20880000003, 0x5008, 0)))
    6a:01.0 PASID 5 asks for the page 0x5000 (read, group 3)
    """
    at = EVENT.decode(words)
    return PageRequest(
        rid=at["SID"],
        pasid=at["SSID"] if at["SSV"] else None,
        address=at["addr"] & -PAGE_SIZE,
        read=bool(at["RnW"]) and not at["InD"],
        write=not at["RnW"],
        execute=bool(at["InD"]),
        privileged=bool(at["PnU"]),
        group=at["STAG"],
    )


class SmmuPageRing:
    """See :class:`~pasidlab.kernel.iommu.page_requests.PageRing`."""

    def __init__(self, driver: SmmuDriver, platform: Platform, pages: PageAllocator) -> None:
        self._driver = driver
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._apic = platform.apic
        self._base = platform.iommu.base
        self._bits = driver.unit.page_requests
        self._there = driver.unit.pri
        size = PRI_ENTRY.size << self._bits
        self._ring = pages.alloc_run(size + PAGE_SIZE - 1 >> PAGE_SHIFT) if self._there else 0

    def enable(self, handler: InterruptHandler) -> None:
        """Tell the unit where the PRI queue is, and that ``handler`` is to be woken; nothing without PRI."""
        if not self._there:
            return
        at = QUEUE_BASE_REG.encode(LOG2SIZE=self._bits, ADDR=self._ring, RWA=1)[0]
        self._mmio.write(self._base + reg.PRIQ_BASE, at)
        for index in (reg.PRIQ_PROD, reg.PRIQ_CONS):
            self._write(index, 0)
        self._apic.handlers[_VECTOR] = handler
        self._mmio.write(self._base + reg.PRIQ_IRQ_CFG0, INTERRUPT_BASE)
        self._write(reg.PRIQ_IRQ_CFG0 + 8, _VECTOR)

    def acknowledge(self) -> None:
        """There is nothing to acknowledge: the unit interrupts when the queue gets its first entry."""

    def take(self) -> PageRequest | None:
        """The oldest request of the PRI queue, then the oldest held transaction."""
        request = self._next() if self._there else None
        if request is not None:
            return request
        held = self._driver.events.take_held()
        return held_request(held) if held is not None else None

    def _next(self) -> PageRequest | None:
        wrap = (2 << self._bits) - 1
        cons = self._read(reg.PRIQ_CONS)
        if (self._read(reg.PRIQ_PROD) ^ cons) & wrap == 0:
            return None
        words = self._memory.load_words(self._ring + (cons & wrap >> 1) * PRI_ENTRY.size, PRI_ENTRY.word_count)
        self._write(reg.PRIQ_CONS, cons & OVERFLOW | cons + 1 & wrap)
        return decode_page_request(words)

    def overflowed(self) -> bool:
        """Whether requests were lost, which is acknowledged: the unit takes requests again."""
        cons = self._read(reg.PRIQ_CONS)
        lost = bool((self._read(reg.PRIQ_PROD) ^ cons) & OVERFLOW)
        if lost:
            self._write(reg.PRIQ_CONS, cons ^ OVERFLOW)
        return lost

    def respond(self, response: PageGroupResponse) -> None:
        """CMD_RESUME for a device that can be held, CMD_PRI_RESP for any other one."""
        queue, device = self._driver.queue, self._driver.devices.get(response.rid)
        if device is not None and device.stall:
            retry = response.code == ResponseCode.SUCCESS
            queue.submit(queue.resume(response.rid, response.group, retry=retry))
        elif self._there:
            queue.submit(queue.page_response(response))

    def drain(self, flush: Sequence[tuple[int, ...]]) -> None:
        """Carry out ``flush``: the CMD_SYNC behind it also waits for requests on their way (specification, 8.1)."""
        self._driver.queue.submit(*flush)

    def _read(self, register: int) -> int:
        return self._mmio.read(self._base + register, 4)

    def _write(self, register: int, value: int) -> None:
        self._mmio.write(self._base + register, value, 4)
