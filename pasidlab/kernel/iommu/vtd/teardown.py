"""Taking a PASID entry away, in the order that keeps hardware from seeing anything half done or long gone.

Models ``intel_pasid_tear_down_entry`` and ``intel_svm_drain_prq`` of Linux 6.1. The entry is 64 bytes, hardware may
read it in pieces: therefore P is cleared first and the rest is zeroed last. In between every cache that may hold
something of the entry is told to forget, from the unit outwards: PASID cache, IOTLB, the device's own TLB. A nested or
second-level entry is flushed by its domain, since the second level is tagged by it. In caching mode the device's TLB is
left to the hypervisor, which sees the IOTLB invalidation and does the rest. At the end page requests are drained.

For people who want to see what each step is for, a step can be *left out* (:data:`STEPS`). No driver does that on
purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.kernel.iommu.contract import Teardown
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.vtd.driver import VtdDriver
    from pasidlab.timeline import Timeline

__all__ = ["STEPS", "VtdTeardown"]

STEPS: Final = {
    "pasid-cache": "the PASID-cache invalidation",
    "iotlb": "the IOTLB invalidation",
    "device-tlb": "the device-TLB invalidation",
    "drain": "the draining of page requests",
}
"""The steps that can be left out, by name."""
_RID_PASID: Final = 0


class VtdTeardown(Teardown):
    """How one VT-d driver takes entries away."""

    steps = STEPS

    def __init__(self, timeline: Timeline, driver: VtdDriver) -> None:
        super().__init__(timeline, f"{driver.path}.teardown")
        self._driver = driver
        self.left_out = frozenset()

    def run(self, rid: int, pasid: int, *, fault_disable: bool = False) -> None:
        """Take the entry of ``pasid`` away; with ``fault_disable`` FPD stays: late DMA is blocked in silence."""
        table, queue = self._driver.table_of(rid), self._driver.queue
        words = table.read(pasid)
        did, by_domain = entries.did_of(words), entries.translates_by_domain(words)
        device_flush = self._unless("device-tlb", *self._driver.device_flush(rid, pasid))
        table.clear_present(pasid)
        flush = [
            *self._unless("pasid-cache", queue.pasid_cache(did, pasid)),
            *self._unless("iotlb", queue.domain_iotlb(did) if by_domain else queue.pasid_iotlb(did, pasid)),
            *device_flush,
        ]
        if flush:
            queue.submit(*flush)
        table.zero(pasid, fault_disable=fault_disable)
        if self._unless("drain", ()):
            again = self._unless("iotlb", queue.pasid_iotlb(did, pasid))
            self._driver.page_requests.drain(rid, pasid, [*again, *device_flush])
        for step in sorted(self.left_out):
            self._driver.emit(Verb.LEAVE_OUT, STEPS[step], rid=rid, pasid=pasid)

    def _unless(self, step: str, *descriptors: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The descriptors of a step, or none if it is left out."""
        return () if step in self.left_out else descriptors
