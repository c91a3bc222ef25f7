"""The device's own TLB: translations that it asked the IOMMU for and uses without asking again (ATS).

Models the address translation cache of a PCIe function: filled by translation requests, tagged by PASID, emptied by
invalidate requests only. An address from here goes onto the bus as *translated*: the IOMMU trusts it. What stays here
too long is therefore the most dangerous of all stale translations: a translated request has no PASID prefix, so that
not even a PASID entry that is gone stops it.

A line keeps the accesses that were granted; another access asks again. Pages are 4 KiB. Nothing is ever evicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.memory import PAGE_SHIFT
from pasidlab.hardware.pcie import Access, InvalidateRequest, TranslationCompletion
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["NO_PASID", "DeviceLine", "DeviceTlb"]

NO_PASID: Final = -1
"""In place of the PASID in the tag of translations for requests without one."""


class DeviceLine(NamedTuple):
    """The host-physical ``page`` and the rights that were granted with it."""

    page: int
    read: bool
    write: bool

    def grants(self, access: Access) -> bool:
        """Whether this access needs no further question."""
        return (self.read or access is Access.WRITE) and (self.write or access in (Access.READ, Access.EXECUTE))


class DeviceTlb(Part):
    """Lines by (PASID or ``NO_PASID``, page number, privileged)."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.lines = Table[tuple[int, int, bool], DeviceLine](timeline, f"{path}.lines")

    def find(self, pasid: int | None, address: int, access: Access, privileged: bool) -> int | None:
        """The host-physical address, if it is here and grants the access."""
        line = self.lines.get((_tag(pasid), address >> PAGE_SHIFT, privileged))
        if line is None or not line.grants(access):
            return None
        return line.page | address & 0xFFF

    def keep(self, pasid: int | None, address: int, found: TranslationCompletion) -> int | None:
        """Keep what the IOMMU answered for ``address``; returns the host-physical address, if there is a page."""
        if not (found.read or found.write):
            return None
        key = _tag(pasid), address >> PAGE_SHIFT, found.privileged
        known = self.lines.get(key)
        read, write = found.read, found.write
        if known is not None and known.page == found.address:
            read, write = read or known.read, write or known.write
        self.lines[key] = DeviceLine(found.address, read, write)
        return found.address | address & 0xFFF

    def forget(self, request: InvalidateRequest) -> None:
        """Drop what an invalidate request names."""
        first, end, tag = request.start, request.start + request.size, _tag(request.pasid)

        def meant(key: tuple[int, int, bool]) -> bool:
            same = key[0] != NO_PASID if request.all_pasids else key[0] == tag
            return same and first <= key[1] << PAGE_SHIFT < end

        for key in self.lines.select(meant):
            del self.lines[key]


def _tag(pasid: int | None) -> int:
    return NO_PASID if pasid is None else pasid
