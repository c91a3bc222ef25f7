"""The event log: what an entry says of a blocked request or a bad command, and how it is read back.

Models the 16-byte entries of the event log (the ring itself is :mod:`.ring`). Follows facts/hardware.md 4.2, Linux 6.1
``iommu_print_event`` and, for the flags, :mod:`.faults`. What stands in the PASID field follows GN: a PASID with GN=1,
the domain id with GN=0 (only in IO_PAGE_FAULT and PAGE_TAB_HARDWARE_ERROR; elsewhere 0 without a PASID).

UNVERIFIED: RW is told for every request, also where the page is not present (real logs do); US and NX only for requests
with PASID; execute requests count as reads; atomic ones as writes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.iommu.amdvi.faults import TYPE_SHIFT, EventCode, Flag, Reason
from pasidlab.hardware.iommu.amdvi.page_queue import PageFlag
from pasidlab.hardware.layouts.amd_queue import EVENT, PPR_ENTRY
from pasidlab.hardware.pcie import Access, DmaRequest, RequestKind, format_rid

__all__ = ["EventRecord", "event_of"]

_WITH_DOMAIN: Final = frozenset({EventCode.IO_PAGE_FAULT, EventCode.PAGE_TAB_HARDWARE_ERROR})
_NAMES: Final = {int(code): code.name for code in EventCode}


class EventRecord(NamedTuple):
    """One entry of the event log. ``number`` is a PASID (GN=1) or a domain id; ``tag`` the group of a page request.

    >>> record = EventRecord(EventCode.IO_PAGE_FAULT, 0x6A08, 5, 0x21, 0x7F00_0000_1000)
    >>> [hex(word) for word in record.words()], EventRecord.of(record.words()) == record
    (['0x2021000500006a08', '0x7f0000001000'], True)
    >>> record.name, record.pasid, record.domain
    ('IO_PAGE_FAULT', 5, None)
    """

    code: int
    rid: int = 0
    number: int = 0
    flags: int = 0
    address: int = 0
    tag: int = 0

    @classmethod
    def of(cls, words: tuple[int, ...]) -> EventRecord:
        """The record in an entry."""
        if EVENT["TYPE"].get(words) == EventCode.INVALID_PPR_REQUEST:
            at = PPR_ENTRY.decode(words)
            return cls(
                at["TYPE"], at["devid"], at["PASID_HI"] << 16 | at["PASID_LO"], at["FLAGS"], at["addr"], at["tag"]
            )
        at = EVENT.decode(words)
        return cls(at["TYPE"], at["devid"], at["PASID_HI"] << 16 | at["PASID_LO"], at["FLAGS"], at["addr"])

    def words(self) -> tuple[int, ...]:
        """The entry in memory."""
        values = {
            "devid": self.rid,
            "PASID_HI": self.number >> 16,
            "PASID_LO": self.number & 0xFFFF,
            "FLAGS": self.flags,
            "TYPE": int(self.code),
            "addr": self.address,
        }
        if self.code == EventCode.INVALID_PPR_REQUEST:
            return PPR_ENTRY.encode(**values, tag=self.tag)
        return EVENT.encode(**values)

    @property
    def name(self) -> str:
        """The name of the event; ``UNKNOWN`` for a code that is in no table."""
        return _NAMES.get(self.code, "UNKNOWN")

    @property
    def pasid(self) -> int | None:
        """The PASID, if the flags say that there is one."""
        carried = PageFlag.GN if self.code == EventCode.INVALID_PPR_REQUEST else Flag.GN
        return self.number if self.flags & carried else None

    @property
    def domain(self) -> int | None:
        """The domain id, if it is one."""
        return self.number if self.code in _WITH_DOMAIN and not self.flags & Flag.GN else None

    @property
    def type(self) -> int:
        """Which kind of error, for hardware errors (two bits) and invalid device requests (three)."""
        return self.flags >> TYPE_SHIFT & 7

    def __str__(self) -> str:
        return f"{self.name} {format_rid(self.rid)} {self.number:#x} {self.address:#x} flags {self.flags:#06x}"


def event_of(reason: Reason, request: DmaRequest, domain: int, where: int | None = None) -> EventRecord:
    """The entry for a blocked request; ``where``: the address that the host table was asked for, if it was at fault.

    >>> event_of(Reason.HOST_ABSENT, DmaRequest(0x100, 0x5000, Access.WRITE), domain=0xD).flags
    32
    """
    guest = bool(reason.flags & Flag.GN) or (request.pasid is not None and reason.code not in _WITH_DOMAIN)
    flags = reason.flags | _flags_of(request, guest)
    number = 0
    if guest:
        number = request.pasid or 0
    elif reason.code in _WITH_DOMAIN:
        number = domain
    address = request.address if guest or where is None else where
    return EventRecord(reason.code, request.rid, number, flags, address)


def _flags_of(request: DmaRequest, guest: bool) -> int:
    """What the flags tell of the request itself."""
    flags = Flag.RW if request.access in (Access.WRITE, Access.ATOMIC) else Flag(0)
    if guest:
        flags |= Flag.GN
        flags |= Flag.NX if request.access is Access.EXECUTE else Flag(0)
        flags |= Flag(0) if request.privileged else Flag.US
    if request.kind is RequestKind.TRANSLATION:
        flags |= Flag.TR
    return int(flags)
