"""The PRI queue: where an SMMU writes down which pages devices ask for.

Models PRIQ_*: a ring of 16-byte records in memory, written by the unit, read by software. Silicon and a hypervisor's
emulated unit do this alike. Follows Linux 6.1 ``arm-smmu-v3.h`` (PRIQ_*) and chapter 8 of the specification (IHI 0070):
a request that finds the ring full is lost and sets OVFLG, and until software acknowledges that (OVACKFLG) every further
one is discarded, although there may be room again. Whoever calls answers the last request of a group then.
"""

from __future__ import annotations

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.register_file import PRIQ_BASE, PRIQ_CONS, PRIQ_PROD, RegisterFile
from pasidlab.hardware.iommu.smmuv3.ring import Ring
from pasidlab.hardware.layouts.smmu_queue import PRI_ENTRY
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import PageRequest

__all__ = ["PageQueue", "decode_page_request", "encode_page_request"]


def encode_page_request(request: PageRequest) -> tuple[int, ...]:
    """The record of a request.

    >>> request = PageRequest(0x6A01, 4660, 0x7F0012345678, True, True, group=85)
    >>> [hex(word) for word in encode_page_request(request)]
    ['0xf000123400006a01', '0x7f0012345055']
    """
    return PRI_ENTRY.encode(
        SID=request.rid,
        SSID=request.pasid or 0,
        Priv=int(request.privileged),
        X=int(request.execute),
        R=int(request.read),
        W=int(request.write),
        LAST=int(request.last),
        SSV=int(request.pasid is not None),
        PRGI=request.group,
        addr=request.address & ~0xFFF,
    )


def decode_page_request(words: tuple[int, ...]) -> PageRequest:
    """The request in a record; what :func:`encode_page_request` wrote, with the address of the page."""
    at = PRI_ENTRY.decode(words)
    return PageRequest(
        rid=at["SID"],
        pasid=at["SSID"] if at["SSV"] else None,
        address=at["addr"],
        read=bool(at["R"]),
        write=bool(at["W"]),
        execute=bool(at["X"]),
        privileged=bool(at["Priv"]),
        group=at["PRGI"],
        last=bool(at["LAST"]),
    )


class PageQueue:
    """The unit's end of the PRI queue."""

    __slots__ = ("ring",)

    def __init__(self, registers: RegisterFile, memory: Memory, identity: SmmuIdentity) -> None:
        self.ring = Ring(registers, memory, PRIQ_BASE, PRIQ_PROD, PRIQ_CONS, PRI_ENTRY, identity.priqs)

    def put(self, request: PageRequest) -> bool:
        """Write a record; ``False`` when it was discarded (full, or overflown before), ``BusError`` without memory."""
        if not self.ring.overflown and self.ring.put(encode_page_request(request)):
            return True
        self.ring.lose()
        return False

    def requests(self) -> list[PageRequest]:
        """What software has not read yet, oldest first; none if no memory answers."""
        try:
            return [decode_page_request(words) for words in self.ring.waiting()]
        except BusError:
            return []
