"""How the driver talks to the unit: descriptors in a ring in memory, and a wait descriptor to know that they are done.

Models ``qi_submit_sync`` of ``drivers/iommu/intel/dmar.c``: one 4 KiB ring of 256 descriptors of 128 bits, and behind
each batch a wait descriptor that stores a value where the driver looks for it. A guest's driver does exactly this with
its emulated unit; that is where the hypervisor's trap sits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import IQA_REG
from pasidlab.hardware.layouts.vtd_queue import QI_CONTEXT_CACHE, QI_IOTLB, QI_PASID_CACHE, QI_PIOTLB, QI_WAIT
from pasidlab.kernel.platform import IOMMU_BASE
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["InvalidationQueue"]

_ENTRIES: Final = 256
_ENTRY_SIZE: Final = 16
_GLOBAL: Final = 1
_ALL_PASIDS: Final = 3
_DEVICE_SELECTIVE: Final = 3
_PASID_SELECTIVE: Final = 1
_ALL_PAGES_OF_PASID: Final = 2
_DOMAIN_SELECTIVE: Final = 2


class InvalidationQueue(Part, state=("_done", "_tail")):
    """The driver's end of one unit's invalidation queue."""

    def __init__(self, platform: Platform, pages: PageAllocator, path: str) -> None:
        super().__init__(platform.timeline, path)
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._ring = pages.alloc()
        self._status = pages.alloc()
        self._tail = 0
        self._done = 0
        self._mmio.write(IOMMU_BASE + reg.IQA, IQA_REG.encode(IQA=self._ring)[0])

    def everything(self) -> tuple[tuple[int, ...], ...]:
        """Descriptors: forget all; needed after a new root table unless the unit does so by itself (CAP.ESRTPS)."""
        return (
            QI_CONTEXT_CACHE.encode(TYPE=1, G=_GLOBAL),
            QI_PASID_CACHE.encode(TYPE=7, G=_ALL_PASIDS),
            QI_IOTLB.encode(TYPE=2, G=_GLOBAL, DR=1, DW=1),
        )

    def context_cache(self, rid: int) -> tuple[int, ...]:
        """Descriptor: forget the context entry of one device (tagged with domain 0 while it was not present)."""
        return QI_CONTEXT_CACHE.encode(TYPE=1, G=_DEVICE_SELECTIVE, SID=rid)

    def pasid_cache(self, did: int, pasid: int) -> tuple[int, ...]:
        """Descriptor: forget the PASID entry of one PASID."""
        return QI_PASID_CACHE.encode(TYPE=7, G=_PASID_SELECTIVE, DID=did, PASID=pasid)

    def pasid_iotlb(self, did: int, pasid: int) -> tuple[int, ...]:
        """Descriptor: forget every first-level translation of one PASID."""
        return QI_PIOTLB.encode(TYPE=6, G=_ALL_PAGES_OF_PASID, DID=did, PASID=pasid)

    def domain_iotlb(self, did: int) -> tuple[int, ...]:
        """Descriptor: forget every translation of a domain (nested and second-level entries are tagged by it)."""
        return QI_IOTLB.encode(TYPE=2, G=_DOMAIN_SELECTIVE, DID=did, DR=1, DW=1)

    def submit(self, *descriptors: tuple[int, ...]) -> None:
        """Hand descriptors to the unit and wait until they are carried out; ``-EIO`` if the unit stopped at one."""
        self._done = self._done % 0xFFFF + 1
        wait = QI_WAIT.encode(TYPE=5, SW=1, FN=1, STDATA=self._done, STADDR=self._status)
        for words in (*descriptors, wait):
            self._memory.store_words(self._ring + self._tail * _ENTRY_SIZE, words)
            self._tail = (self._tail + 1) % _ENTRIES
        self._mmio.write(IOMMU_BASE + reg.IQT, self._tail * _ENTRY_SIZE)
        if self._memory.load32(self._status) != self._done:
            raise KernelError("EIO", "the IOMMU did not complete an invalidation")
