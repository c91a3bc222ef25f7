"""A domain: an I/O address space that a whole VM shares, guest-physical to host-physical.

Models ``struct dmar_domain`` as VFIO uses it: a second-level page table, a domain id (DID) that tags the unit's caches,
and, once the domain was attached to a device in the *auxiliary* manner, a default PASID with which a mediated device
reaches the VM's guest-physical memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.kernel.pagetable import SECOND_LEVEL, PageTable
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["Domain"]


class Domain(Part, state=("default_pasid", "live")):
    """One VM's I/O address space. ``aux`` counts, by requester ID, how often it is attached as an auxiliary domain."""

    def __init__(self, timeline: Timeline, path: str, name: str, did: int, pages: PageAllocator) -> None:
        super().__init__(timeline, path)
        self.name = name
        self.did = did
        self.table = PageTable(timeline, f"{path}.table", pages, SECOND_LEVEL)
        self.default_pasid: int | None = None
        self.live = True
        self.aux = Table[int, int](timeline, f"{path}.aux")
        self.rids = Table[int, bool](timeline, f"{path}.rids")

    def map(self, iova: int, physical: int) -> None:
        """Let DMA at ``iova`` (a guest-physical page) reach a host frame."""
        self.table.map(iova, physical)

    def unmap(self, iova: int) -> None:
        """Undo :meth:`map`."""
        self.table.unmap(iova)

    def destroy(self) -> None:
        """Free the second-level table; nothing may be attached any more."""
        self.table.destroy()
        self.retire()
