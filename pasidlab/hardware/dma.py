"""A function's way to memory: reads and writes at I/O virtual addresses, on behalf of one PASID.

Models what the DMA engine of any PCIe function puts on the bus: memory requests with its requester ID and, if any, a
PASID prefix. With ATS it asks for translations first, keeps them in its own TLB, and sends translated requests. All of
it passes the IOMMU (:mod:`pasidlab.hardware.fabric`): a function can name any PASID here, and reaches what the tables
behind its requester ID give to that PASID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.fabric import Translated, in_pages
from pasidlab.hardware.iommu.contract import DmaAborted, Fault
from pasidlab.hardware.pcie import Access, DmaRequest, RequestKind

if TYPE_CHECKING:
    from pasidlab.hardware.device_tlb import DeviceTlb
    from pasidlab.hardware.fabric import Fabric

__all__ = ["DmaPort", "PageMissing"]

_ADDRESS_MASK: Final = (1 << 64) - 1


class PageMissing(Exception):
    """The IOMMU has no page for the access now; a device that can wait may ask software for it."""

    def __init__(self, request: DmaRequest) -> None:
        self.request = request
        super().__init__(f"no page for {request}")


class DmaPort(NamedTuple):
    """The device's way to memory on behalf of one descriptor: requester ID and, if any, PASID.

    With a ``tlb`` the device asks for translations (ATS) and sends translated requests.
    """

    fabric: Fabric
    rid: int
    pasid: int | None
    privileged: bool
    tlb: DeviceTlb | None = None

    def read(self, address: int, length: int) -> bytes:
        """Read bytes at an I/O virtual address; ``DmaAborted`` if it is blocked, ``PageMissing`` by ATS."""
        address &= _ADDRESS_MASK
        if self.tlb is None:
            return self.fabric.dma_read(self.rid, self.pasid, address, length, self.privileged)
        places = [(self._translated(at, Access.READ), size) for at, size in in_pages(address, length)]
        return b"".join(self.fabric.read_translated(place, size) for place, size in places)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at an I/O virtual address; ``DmaAborted`` if it is blocked, ``PageMissing`` by ATS."""
        address &= _ADDRESS_MASK
        if self.tlb is None:
            self.fabric.dma_write(self.rid, self.pasid, address, data, self.privileged)
            return
        done = 0
        for at, size in in_pages(address, len(data)):
            self.fabric.write_translated(self._translated(at, Access.WRITE), data[done : done + size])
            done += size

    def _translated(self, address: int, access: Access) -> Translated:
        """The request that reaches memory: from the TLB, or from the IOMMU, whose answer the TLB then keeps."""
        assert self.tlb is not None
        request = DmaRequest(self.rid, address, access, self.pasid, self.privileged, RequestKind.TRANSLATION)
        place = self.tlb.find(self.pasid, address, access, self.privileged)
        if place is None:
            answer = self.fabric.unit.complete(request)
            if isinstance(answer, Fault):
                raise DmaAborted(answer, 0)
            place = self.tlb.keep(self.pasid, address, answer)
            if place is None or self.tlb.find(self.pasid, address, access, self.privileged) is None:
                raise PageMissing(request)
        return Translated(DmaRequest(self.rid, place, access, kind=RequestKind.TRANSLATED), address, self.pasid)
