"""The root complex: carries DMA from devices through the IOMMU to memory, page by page.

Models the path endpoint -> root port -> remapping unit -> memory. Each 4 KiB page of a transfer is one translation. A
translated request (ATS) carries a host-physical address; the unit only checks that the device may send such. A
blocked write is dropped, a blocked read completes with an error; both surface here as
:class:`~pasidlab.hardware.iommu.contract.DmaAborted`. What was moved is told in ``dma`` events (with the host-physical
page that was reached), on which the isolation invariant rests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.hardware.iommu.contract import DmaAborted, Fault, Translator
from pasidlab.hardware.memory import PAGE_SIZE, Memory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.cpu.local_apic import LocalApic
    from pasidlab.timeline import Timeline

__all__ = ["Fabric", "Translated", "in_pages"]


class Translated(NamedTuple):
    """A translated request (which has no PASID prefix), and for which I/O virtual address and PASID it is.

    Neither goes onto the bus: whoever answers for the address answers for the access.
    """

    request: DmaRequest
    address: int
    pasid: int | None

    @property
    def meant(self) -> DmaRequest:
        """The access as the device's user means it."""
        return self.request._replace(address=self.address, pasid=self.pasid)


class Fabric(Actor):
    """The root complex of one machine, with one remapping unit in front of memory; interrupts go to ``apic``."""

    actor = "root complex"

    def __init__(self, timeline: Timeline, memory: Memory, unit: Translator, apic: LocalApic | None = None) -> None:
        super().__init__(timeline, "fabric")
        self.memory = memory
        self.unit = unit
        self._apic = apic

    def interrupt(self, address: int, data: int) -> None:
        """A message of a device: a store without PASID to the interrupt range. Remapping of interrupts is left out."""
        if self._apic is not None:
            self._apic.message(address, data)

    def dma_read(self, rid: int, pasid: int | None, address: int, length: int, privileged: bool = False) -> bytes:
        """Read ``length`` bytes at an I/O virtual address."""
        data = b""
        for at, size in in_pages(address, length):
            physical = self._translate(DmaRequest(rid, at, Access.READ, pasid, privileged), len(data))
            data += self.memory.read(physical, size)
            self._moved(DmaRequest(rid, at, Access.READ, pasid), physical, size)
        return data

    def dma_write(self, rid: int, pasid: int | None, address: int, data: bytes, privileged: bool = False) -> None:
        """Write ``data`` at an I/O virtual address."""
        done = 0
        for at, size in in_pages(address, len(data)):
            physical = self._translate(DmaRequest(rid, at, Access.WRITE, pasid, privileged), done)
            self.memory.write(physical, data[done : done + size])
            done += size
            self._moved(DmaRequest(rid, at, Access.WRITE, pasid), physical, size)

    def read_translated(self, place: Translated, size: int) -> bytes:
        """Read within one page at an address that the device was given before."""
        physical = self._translate(place.request, 0)
        data = self.memory.read(physical, size)
        self._moved(place.meant, physical, size)
        return data

    def write_translated(self, place: Translated, data: bytes) -> None:
        """Write within one page at an address that the device was given before."""
        physical = self._translate(place.request, 0)
        self.memory.write(physical, data)
        self._moved(place.meant, physical, len(data))

    def _translate(self, request: DmaRequest, completed: int) -> int:
        answer = self.unit.translate(request)
        if isinstance(answer, Fault):
            raise DmaAborted(answer, completed)
        return answer

    def _moved(self, request: DmaRequest, physical: int, size: int) -> None:
        self.emit(
            Verb.DMA,
            f"{size} bytes",
            rid=request.rid,
            pasid=request.pasid,
            access=request.access.value,
            address=request.address,
            hpa=physical,
            size=size,
        )


def in_pages(address: int, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a byte range, cut at 4 KiB borders."""
    end = address + length
    while address < end:
        size = min(end, (address | PAGE_SIZE - 1) + 1) - address
        yield address, size
        address += size
