"""Taking a context descriptor away, in the order that keeps hardware from seeing anything half done or long gone.

Models the end of a binding in ``arm-smmu-v3-sva.c`` of Linux 6.1 (``arm_smmu_mmu_notifier_put``,
``arm_smmu_mm_release``): one store makes the descriptor invalid; then the unit forgets it (CFGI_CD), its translations
(TLBI by ASID) and those in the device's own TLB (ATC_INV); then the rest of the words is zeroed, as later kernels do.
At the end page requests and held transactions are drained.

With ``fault_disable`` the process is exiting, and late DMA is to be blocked in silence. As in Linux the descriptor
stays valid then, but with walks off (EPD0) and without records (R=0): a *quiet* one. It stays until the PASID is used
again; Linux takes it away when the file of the device is closed. Its ASID becomes 0, which no process has: with walks
off a unit may still use what its TLB has (our choice: Linux keeps the ASID as long as the descriptor).

For people who want to see what each step is for, a step can be *left out* (:data:`STEPS`). No driver does that on
purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.smmu import CD
from pasidlab.kernel.iommu.contract import Teardown
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
    from pasidlab.timeline import Timeline

__all__ = ["STEPS", "SmmuTeardown"]

STEPS: Final = {
    "pasid-cache": "the invalidation of the context descriptor (CFGI_CD)",
    "iotlb": "the TLB invalidation by ASID",
    "device-tlb": "the device-TLB invalidation",
    "drain": "the draining of page requests",
}
"""The steps that can be left out, by name."""
_NOTHING: Final = (0,) * CD.word_count


class SmmuTeardown(Teardown):
    """How one SMMUv3 driver takes context descriptors away."""

    steps = STEPS

    def __init__(self, timeline: Timeline, driver: SmmuDriver) -> None:
        super().__init__(timeline, f"{driver.path}.teardown")
        self._driver = driver
        self.left_out = frozenset()

    def run(self, rid: int, pasid: int, *, fault_disable: bool = False) -> None:
        """Take the descriptor of ``pasid`` away; with ``fault_disable`` a quiet one stays."""
        driver = self._driver
        table, queue = driver.table_of(rid), driver.queue
        words = table.read(pasid)
        after = entries.quiet_context(words, forced=driver.unit.forced) if fault_disable else _NOTHING
        translations = self._unless("iotlb", queue.address_space(entries.asid_of(words)))
        of_device = self._unless("device-tlb", *driver.device_flush(rid, pasid))
        table.commit(pasid, after[0])
        flush = [*self._unless("pasid-cache", queue.context(rid, pasid)), *translations, *of_device]
        if flush:
            queue.submit(*flush)
        table.prepare(pasid, after)
        if self._unless("drain", ()):
            driver.page_requests.drain(rid, pasid, [*translations, *of_device])
        for step in sorted(self.left_out):
            driver.emit(Verb.LEAVE_OUT, STEPS[step], rid=rid, pasid=pasid)

    def _unless(self, step: str, *commands: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The commands of a step, or none if it is left out."""
        return () if step in self.left_out else commands
