"""Taking a PASID away, in the order that keeps hardware from keeping what is long gone.

Models ``amd_iommu_clear_gcr3`` and ``amd_iommu_dev_flush_pasid_all`` of ``drivers/iommu/amd/iommu.c``. The GCR3 entry
is one word, so it goes with one store. Then the caches are told, from the unit outwards, with a COMPLETION_WAIT after
each step: INVALIDATE_IOMMU_PAGES (GN=1, the PASID), then INVALIDATE_IOTLB_PAGES for the device. The other way round the
device could fill its TLB again from what the unit still knows (facts/hardware.md 4). At the end page requests are
drained.

There is no command for the GCR3 entry alone: the PDE bit of INVALIDATE_IOMMU_PAGES makes the unit forget it together
with the upper levels of the page table (UNVERIFIED). That bit is the step ``pasid-cache``; without the command itself
(``iotlb``) it is left out as well.

What a step that was left out leaves behind stays until the number is bound again: the driver invalidates after it has
written an entry as well, so that a successor does not inherit it.

A change of the device table entry follows the same order, with INVALIDATE_DEVTAB_ENTRY before.

DTE.SE and DTE.SA, by which faults can be kept out of the log, count for a whole device and not for a PASID, so late DMA
of a process that exits is recorded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.kernel.iommu.amdvi import entries
from pasidlab.kernel.iommu.contract import Teardown
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
    from pasidlab.timeline import Timeline

__all__ = ["STEPS", "AmdTeardown"]

STEPS: Final = {
    "pasid-cache": "the invalidation of the cached entry (GCR3 entry: PDE=1; device table entry)",
    "iotlb": "the TLB invalidation (INVALIDATE_IOMMU_PAGES)",
    "device-tlb": "the device-TLB invalidation (INVALIDATE_IOTLB_PAGES)",
    "drain": "the draining of page requests",
}
"""The steps that can be left out, by name."""


class AmdTeardown(Teardown):
    """How one AMD driver takes entries away."""

    steps = STEPS

    def __init__(self, timeline: Timeline, driver: AmdDriver) -> None:
        super().__init__(timeline, f"{driver.path}.teardown")
        self._driver = driver
        self.left_out = frozenset()

    def flush(self, rid: int, pasid: int) -> None:
        """Let unit and device forget a PASID whose entry was just written: nothing is left out of this."""
        self._in_turn(
            (self._driver.queue.pasid_pages(self._driver.tags[rid], pasid),),
            tuple(self._driver.device_flush(rid, pasid)),
        )

    def run(self, rid: int, pasid: int) -> None:
        """Take the GCR3 entry of ``pasid`` away."""
        driver, queue = self._driver, self._driver.queue
        did, tables = driver.tags[rid], "pasid-cache" not in self.left_out
        flush = self._unless("iotlb", queue.pasid_pages(did, pasid, tables=tables))
        device_flush = self._unless("device-tlb", *driver.device_flush(rid, pasid))
        driver.table_of(rid).clear(pasid)
        self._in_turn(flush, device_flush)
        if self._unless("drain", ()):
            driver.page_requests.drain(rid, pasid, [*flush, queue.fence(), *device_flush])
        for step in sorted(self.left_out):
            driver.emit(Verb.LEAVE_OUT, STEPS[step], rid=rid, pasid=pasid)

    def replace(self, rid: int, words: tuple[int, ...]) -> None:
        """Put another entry into the device table; everything that was kept because of the old one goes."""
        driver, queue = self._driver, self._driver.queue
        old = driver.table.read(rid)
        driver.table.write(rid, words)
        self._in_turn(
            (
                *self._unless("pasid-cache", queue.device_entry(rid)),
                *(self._unless("iotlb", queue.domain_pages(entries.domain_id(old))) if old != entries.BLOCKED else ()),
            ),
            self._unless("device-tlb", *driver.device_flush(rid)),
        )

    def _in_turn(self, *steps: tuple[tuple[int, ...], ...]) -> None:
        """Each step is done before the next begins."""
        for commands in steps:
            if commands:
                self._driver.queue.submit(*commands)

    def _unless(self, step: str, *commands: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The commands of a step, or none if it is left out."""
        return () if step in self.left_out else commands
