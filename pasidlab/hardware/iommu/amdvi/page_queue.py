"""The page request log (PPR log): where a unit writes down which pages devices ask for.

Models the 16-byte entries of the log and their flags. Silicon and a hypervisor's emulated unit do this alike. Follows
Linux 6.1 ``drivers/iommu/amd/amd_iommu_types.h`` (PPR_*) and ``ppr.c``: the tag has 10 bits, the upper one of which
says that this request is the last of its group (UNVERIFIED that it is bit 9; Linux tests a bit called
PPR_TAG_LAST_PAGE, and completes with 9 bits), the PASID is split, and the address is that of the request (UNVERIFIED:
of its page).

When the log is full PPROverflow is set, and every request is lost until software resumes. UNVERIFIED: with
PPRAutoRspEn the last request of a group is then answered with success, so that the device tries again; without it the
answer is "invalid request", so that no device waits for ever. A log that is switched off is the same.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from pasidlab.hardware.iommu.amdvi.ring import LogRing
from pasidlab.hardware.layouts.amd_queue import PPR_ENTRY
from pasidlab.hardware.pcie import PageRequest

__all__ = ["LAST_OF_GROUP", "PAGE_REQUEST_TYPE", "PageFlag", "PageLog", "decode_page_request", "encode_page_request"]

PAGE_REQUEST_TYPE: Final = 1
LAST_OF_GROUP: Final = 1 << 9
"""Bit of the tag."""
_PAGE: Final = ~0xFFF
_ADDRESS: Final = (1 << 64) - 1


class PageFlag(IntFlag):
    """The flags of a page request."""

    EXECUTE = 0x002
    READ = 0x004
    WRITE = 0x020
    USER = 0x040
    RESERVED = 0x080
    """A reserved bit of the request was set; this model's devices never do that."""
    GN = 0x100
    """The request carried a PASID."""


_ASKED: Final = (("read", PageFlag.READ), ("write", PageFlag.WRITE), ("execute", PageFlag.EXECUTE))


def encode_page_request(request: PageRequest, code: int = PAGE_REQUEST_TYPE) -> tuple[int, ...]:
    """The entry of a request, in the page request log or, with another ``code``, in the event log.

    >>> request = PageRequest(0x6A08, 0x12345, 0x7F0000001234, True, False, group=3)
    >>> [hex(word) for word in encode_page_request(request)]
    ['0x1144060323456a08', '0x7f0000001000']
    """
    flags = sum(int(flag) for name, flag in _ASKED if getattr(request, name))
    if request.pasid is not None:
        flags |= PageFlag.GN | (0 if request.privileged else PageFlag.USER)
    pasid = request.pasid or 0
    return PPR_ENTRY.encode(
        devid=request.rid,
        PASID_LO=pasid & 0xFFFF,
        tag=request.group & LAST_OF_GROUP - 1 | (LAST_OF_GROUP if request.last else 0),
        PASID_HI=pasid >> 16,
        FLAGS=flags,
        TYPE=code,
        addr=request.address & _PAGE & _ADDRESS,
    )


def decode_page_request(words: tuple[int, ...]) -> PageRequest:
    """The request in an entry; what :func:`encode_page_request` wrote, with the address of the page."""
    at = PPR_ENTRY.decode(words)
    flags = PageFlag(at["FLAGS"] & sum(PageFlag))
    tagged = PageFlag.GN in flags
    return PageRequest(
        rid=at["devid"],
        pasid=at["PASID_HI"] << 16 | at["PASID_LO"] if tagged else None,
        address=at["addr"] & _PAGE,
        read=PageFlag.READ in flags,
        write=PageFlag.WRITE in flags,
        execute=PageFlag.EXECUTE in flags,
        privileged=tagged and PageFlag.USER not in flags,
        group=at["tag"] & LAST_OF_GROUP - 1,
        last=bool(at["tag"] & LAST_OF_GROUP),
    )


class PageLog(LogRing):
    """The unit's end of the page request log."""

    __slots__ = ()

    def put_request(self, request: PageRequest) -> bool:
        """Write an entry; ``False`` when it was lost."""
        return self.put(encode_page_request(request))

    def requests(self) -> list[PageRequest]:
        """What waits for software, oldest first."""
        return [decode_page_request(words) for words in self.entries()]
