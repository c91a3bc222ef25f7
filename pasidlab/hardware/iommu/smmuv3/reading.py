"""How people read an SMMU: its tables from STRTAB_BASE, its walks, the bits that must be zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.smmuv3.shape import way_of
from pasidlab.hardware.iommu.smmuv3.survey import SmmuSurvey, must_be_zero, queues
from pasidlab.hardware.layouts.smmu import CD

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.contract import Walk
    from pasidlab.hardware.iommu.shape import Way
    from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters
    from pasidlab.hardware.iommu.survey import QueueSlot
    from pasidlab.hardware.memory import Memory

__all__ = ["SmmuReading"]


class SmmuReading:
    """See :class:`pasidlab.hardware.iommu.reading.Reading`."""

    family = "smmuv3"
    entry_layout = CD

    def __init__(self, unit: SmmuRegisters) -> None:
        self._unit = unit

    @property
    def memory(self) -> Memory:
        """The memory of the tables."""
        return self._unit.memory

    @property
    def root(self) -> int:
        """The stream table."""
        return self._unit.stream_table.base

    @property
    def queues(self) -> dict[str, int]:
        """Command queue, event queue, PRI queue."""
        return {queue.name: queue.base for queue in queues(self._unit)}

    def way(self, walk: Walk) -> Way:
        """A walk put into its shape."""
        return way_of(walk, self._unit)

    def must_be_zero(self, layout: Layout, words: tuple[int, ...], level: int = 0, *, nested: bool = False) -> int:
        """Bits that no field owns are ignored in tables."""
        return must_be_zero(layout)

    def marks(self, layout: Layout) -> int:
        """None: hardware update of flags is left out."""
        return 0

    def survey(self) -> SmmuSurvey:
        """All tables behind the stream table."""
        return SmmuSurvey(self._unit.memory, self._unit.stream_table, self._unit.rules)

    def queue_slots(self, address: int) -> Iterator[QueueSlot]:
        """The entries of queues."""
        for queue in queues(self._unit):
            slot = queue.slot(self._unit.memory, address)
            if slot is not None:
                yield slot

    def present(self, words: tuple[int, ...]) -> bool:
        """V of a context descriptor whose tables are walked (EPD0=0)."""
        return bool(words[0] >> 31 & 1) and not (words[0] >> 14 & 1 and words[0] >> 30 & 1)

    def silent(self, words: tuple[int, ...]) -> bool:
        """A descriptor that is not valid always tells."""
        return False
