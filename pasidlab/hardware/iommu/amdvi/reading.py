"""How people read an AMD IOMMU: its tables from DEV_TAB, its walks, the bits that must be zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.amdvi.register_file import DEV_TAB
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS
from pasidlab.hardware.iommu.amdvi.shape import marks, way_of
from pasidlab.hardware.iommu.amdvi.survey import AmdSurvey, must_be_zero, queues
from pasidlab.hardware.layouts.amd import GCR3_ENTRY

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters
    from pasidlab.hardware.iommu.contract import Walk
    from pasidlab.hardware.iommu.shape import Way
    from pasidlab.hardware.iommu.survey import QueueSlot
    from pasidlab.hardware.memory import Memory

__all__ = ["AmdReading"]


class AmdReading:
    """See :class:`pasidlab.hardware.iommu.reading.Reading`."""

    family = "amdvi"
    entry_layout = GCR3_ENTRY

    def __init__(self, unit: AmdRegisters) -> None:
        self._unit = unit

    @property
    def memory(self) -> Memory:
        """The memory of the tables."""
        return self._unit.memory

    @property
    def root(self) -> int:
        """The device table."""
        return self._unit.registers[DEV_TAB] & ADDRESS

    @property
    def queues(self) -> dict[str, int]:
        """Command buffer, event log, PPR log."""
        return {queue.name: queue.base for queue in queues(self._unit)}

    def way(self, walk: Walk) -> Way:
        """A walk put into its shape."""
        return way_of(walk, self._unit)

    def must_be_zero(self, layout: Layout, words: tuple[int, ...], level: int = 0, *, nested: bool = False) -> int:
        """By the rules of the unit's identity card."""
        return must_be_zero(layout, words, self._unit.rules, level, nested=nested)

    def marks(self, layout: Layout) -> int:
        """Accessed and dirty."""
        return marks(layout)

    def survey(self) -> AmdSurvey:
        """All tables behind the device table."""
        return AmdSurvey(self._unit.lookup())

    def queue_slots(self, address: int) -> Iterator[QueueSlot]:
        """The entries of queues."""
        for queue in queues(self._unit):
            slot = queue.slot(self._unit.memory, address)
            if slot is not None:
                yield slot

    def present(self, words: tuple[int, ...]) -> bool:
        """V of a GCR3 entry."""
        return bool(words[0] & 1)

    def silent(self, words: tuple[int, ...]) -> bool:
        """It is the device table entry that suppresses, not an entry of a PASID."""
        return False
