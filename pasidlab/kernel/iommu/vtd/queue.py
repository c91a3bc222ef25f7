"""How the driver talks to the unit: descriptors in a ring in memory, and a wait descriptor to know that they are done.

Models ``qi_submit_sync`` of ``drivers/iommu/intel/dmar.c``: in scalable mode a ring of 8 KiB with 256 descriptors of
256 bits, and behind each batch a wait descriptor that stores a value where the driver looks for it. A guest's driver
does exactly this with its emulated unit; that is where the hypervisor's trap sits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import ECAP_REG, IQA_REG
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
    QI_WAIT,
)
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import PageGroupResponse
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["InvalidationQueue"]

_ENTRIES: Final = 256
_ENTRY_WORDS: Final = 4
_PAGES: Final = 2
_GLOBAL: Final = 1
_ALL_PASIDS: Final = 3
_DEVICE_SELECTIVE: Final = 3
_PASID_SELECTIVE: Final = 1
_ALL_PAGES_OF_PASID: Final = 2
_SOME_PAGES: Final = 3
_DOMAIN_SELECTIVE: Final = 2
_WHOLE_ORDER: Final = 52
"""Address mask that stands for the whole address space, in a device-TLB invalidation."""

Descriptor = tuple[int, ...]


class InvalidationQueue(Part, state=("_done", "_tail")):
    """The driver's end of one unit's invalidation queue."""

    def __init__(self, platform: Platform, pages: PageAllocator, path: str) -> None:
        super().__init__(platform.timeline, path)
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._ring = pages.alloc_run(_PAGES)
        self._status = pages.alloc()
        extended = (self._mmio.read(reg.BASE + reg.ECAP),)
        self._drains = bool(ECAP_REG["PDS"].get(extended))
        self._throttles = bool(ECAP_REG["DIT"].get(extended))
        self._tail = 0
        self._done = 0
        self._mmio.write(reg.BASE + reg.IQA, IQA_REG.encode(IQA=self._ring, DW=1, QS=_PAGES.bit_length() - 1)[0])

    # --- descriptors --------------------------------------------------------------------------------------------------

    def everything(self) -> tuple[Descriptor, ...]:
        """Forget all; needed after a new root table unless the unit does so by itself (CAP.ESRTPS)."""
        return (
            QI_CONTEXT_CACHE.encode(TYPE=1, G=_GLOBAL),
            self.all_pasids(),
            QI_IOTLB.encode(TYPE=2, G=_GLOBAL, DR=1, DW=1),
        )

    def all_pasids(self) -> Descriptor:
        """Forget every PASID entry."""
        return QI_PASID_CACHE.encode(TYPE=7, G=_ALL_PASIDS)

    def context_cache(self, rid: int) -> Descriptor:
        """Forget the context entry of one device (tagged with domain 0 while it was not present)."""
        return QI_CONTEXT_CACHE.encode(TYPE=1, G=_DEVICE_SELECTIVE, SID=rid)

    def pasid_cache(self, did: int, pasid: int) -> Descriptor:
        """Forget the PASID entry of one PASID."""
        return QI_PASID_CACHE.encode(TYPE=7, G=_PASID_SELECTIVE, DID=did, PASID=pasid)

    def pasid_iotlb(self, did: int, pasid: int) -> Descriptor:
        """Forget every first-level translation of one PASID."""
        return QI_PIOTLB.encode(TYPE=6, G=_ALL_PAGES_OF_PASID, DID=did, PASID=pasid)

    def pasid_pages(self, did: int, pasid: int, start: int, order: int) -> Descriptor:
        """Forget the first-level translations of 2^``order`` pages of one PASID."""
        return QI_PIOTLB.encode(TYPE=6, G=_SOME_PAGES, DID=did, PASID=pasid, AM=order, ADDR=start)

    def domain_iotlb(self, did: int) -> Descriptor:
        """Forget every translation of a domain (nested and second-level entries are tagged by it)."""
        return QI_IOTLB.encode(TYPE=2, G=_DOMAIN_SELECTIVE, DID=did, DR=1, DW=1)

    def device_tlb(self, rid: int) -> Descriptor:
        """Let a device forget every translation for requests without PASID."""
        return QI_DEV_TLB.encode(TYPE=3, SID=rid, S=1, ADDR=_device_address(0, _WHOLE_ORDER), **self._physical(rid))

    def pasid_device_tlb(
        self, rid: int, pasid: int, start: int = 0, order: int = _WHOLE_ORDER, depth: int = 0
    ) -> Descriptor:
        """Let a device forget 2^``order`` pages of one PASID; ``depth`` is its invalidate queue depth."""
        where = {"S": int(order > 0), "ADDR": _device_address(start, order)}
        return QI_PASID_DEV_TLB.encode(TYPE=8, MIP=depth, SID=rid, PASID=pasid, **where, **self._physical(rid))

    def _physical(self, rid: int) -> dict[str, int]:
        """The physical function whose invalidations the unit may throttle (ECAP.DIT): here each device is one."""
        return {"PFSID_LO": rid & 0xF, "PFSID_HI": rid >> 4} if self._throttles else {}

    def page_response(self, response: PageGroupResponse) -> Descriptor:
        """Answer a group of page requests."""
        pasid = response.pasid
        return QI_PAGE_GROUP_RESP.encode(
            TYPE=9,
            PP=int(pasid is not None),
            RC=response.code,
            RID=response.rid,
            PASID=pasid or 0,
            LPIG=1,
            PRGI=response.group,
        )

    def fence(self) -> Descriptor:
        """Begin what follows only when all before is done."""
        return QI_WAIT.encode(TYPE=5, FN=1)

    # --- submission ---------------------------------------------------------------------------------------------------

    def submit(self, *descriptors: Descriptor, drain_page_requests: bool = False) -> None:
        """Hand descriptors to the unit and wait until they are carried out; ``-EIO`` if the unit stopped at one.

        With ``drain_page_requests`` the wait also covers page requests that are on their way to the queue, if the unit
        can wait for them (ECAP.PDS).
        """
        self._done = self._done % 0xFFFF + 1
        drain = int(drain_page_requests and self._drains)
        wait = QI_WAIT.encode(TYPE=5, SW=1, FN=1, PD=drain, STDATA=self._done, STADDR=self._status)
        for words in (*descriptors, wait):
            padded = (*words, *(0,) * (_ENTRY_WORDS - len(words)))
            self._memory.store_words(self._ring + self._tail * 8 * _ENTRY_WORDS, padded)
            self._tail = (self._tail + 1) % _ENTRIES
        self._mmio.write(reg.BASE + reg.IQT, self._tail * 8 * _ENTRY_WORDS)
        if self._memory.load32(self._status) != self._done:
            raise KernelError("EIO", "the IOMMU did not complete an invalidation")


def _device_address(start: int, order: int) -> int:
    """The address of a device-TLB invalidation: its low ones and the zero above them say how many pages are meant.

    >>> hex(_device_address(0x10000, 2)), hex(_device_address(0, _WHOLE_ORDER))
    ('0x11000', '0x7ffffffffffff000')
    """
    return start & -(PAGE_SIZE << order) | ((1 << order - 1) - 1 << PAGE_SHIFT if order else 0)
