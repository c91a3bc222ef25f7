"""The page request queue: where a unit writes down which pages devices ask for.

Models PQA, PQH, PQT and PRS: a ring of 32-byte records in memory, written by the unit at the tail, read by software at
the head. Silicon and a hypervisor's emulated unit do this alike. Follows Linux 6.1 ``drivers/iommu/intel/svm.c``
(``struct page_req_dsc``, the ring, PRS.PPR and PRS.PRO).

UNVERIFIED: when the ring is full PRS.PRO is set, and until software clears it every request is dropped; the last of a
group is then answered with success, so that the device tries again. A ring that no memory answers for counts as full.
"""

from __future__ import annotations

from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.vtd.register_file import PQA, PQH, PQT, PRS, RegisterFile
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.memory import PAGE_SHIFT, Memory
from pasidlab.hardware.pcie import PageRequest

__all__ = ["OVERFLOW", "PENDING", "PageQueue", "decode_page_request", "encode_page_request"]

PENDING: Final = 1
"""PRS.PPR: a request was queued since software last cleared this."""
OVERFLOW: Final = 2
"""PRS.PRO: requests are being dropped."""
_PAGE_REQUEST_TYPE: Final = 1


def encode_page_request(request: PageRequest) -> tuple[int, ...]:
    """The record of a request.

    >>> request = PageRequest(0x6A08, 5, 0x7F0000001234, True, False, group=3)
    >>> [hex(word) for word in encode_page_request(request)]
    ['0x56a080101', '0x7f000000101d', '0x0', '0x0']
    """
    private = request.private or (0, 0)
    return PAGE_REQUEST.encode(
        type=_PAGE_REQUEST_TYPE,
        PP=int(request.pasid is not None),
        PDP=int(request.private is not None),
        RID=request.rid,
        PASID=request.pasid or 0,
        EXE=int(request.execute),
        PM=int(request.privileged),
        R=int(request.read),
        W=int(request.write),
        LPIG=int(request.last),
        PRGI=request.group,
        ADDR=request.address & ~0xFFF,
        PRIV0=private[0],
        PRIV1=private[1],
    )


def decode_page_request(words: tuple[int, ...]) -> PageRequest:
    """The request in a record; what :func:`encode_page_request` wrote, with the address of the page."""
    at = PAGE_REQUEST.decode(words)
    return PageRequest(
        rid=at["RID"],
        pasid=at["PASID"] if at["PP"] else None,
        address=at["ADDR"],
        read=bool(at["R"]),
        write=bool(at["W"]),
        execute=bool(at["EXE"]),
        privileged=bool(at["PM"]),
        group=at["PRGI"],
        last=bool(at["LPIG"]),
        private=(at["PRIV0"], at["PRIV1"]) if at["PDP"] else None,
    )


class PageQueue:
    """The unit's end of the ring."""

    __slots__ = ("_memory", "_registers")

    def __init__(self, registers: RegisterFile, memory: Memory) -> None:
        self._registers, self._memory = registers, memory

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return 1 << PAGE_SHIFT + (self._registers[PQA] & 7)

    def put(self, request: PageRequest) -> bool:
        """Write a record; ``False`` when it was dropped: the ring is full, or an overflow is still pending."""
        registers, width = self._registers, PAGE_REQUEST.size
        status = registers.get32(PRS)
        tail = registers[PQT] % self.size
        after = (tail + width) % self.size
        if status & OVERFLOW or after == registers[PQH] % self.size:
            return self._overflow(status)
        try:
            self._memory.store_words((registers[PQA] & ~0xFFF) + tail, encode_page_request(request))
        except BusError:
            return self._overflow(status)
        registers[PQT] = after
        registers.set32(PRS, status | PENDING)
        return True

    def requests(self) -> list[PageRequest]:
        """What software has not read yet, oldest first."""
        head, found = self._registers[PQH] % self.size, []
        while head != self._registers[PQT] % self.size:
            words = self._memory.load_words((self._registers[PQA] & ~0xFFF) + head, PAGE_REQUEST.word_count)
            found.append(decode_page_request(words))
            head = (head + PAGE_REQUEST.size) % self.size
        return found

    def _overflow(self, status: int) -> bool:
        self._registers.set32(PRS, status | OVERFLOW)
        return False
