"""How people read a VT-d unit: its tables from RTADDR, its walks, the bits that must be zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.vtd.register_file import IQA, PQA
from pasidlab.hardware.iommu.vtd.shape import marks, way_of
from pasidlab.hardware.iommu.vtd.survey import VtdSurvey, must_be_zero, queue_slots
from pasidlab.hardware.layouts.vtd import PASID_ENTRY

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.contract import Walk
    from pasidlab.hardware.iommu.shape import Way
    from pasidlab.hardware.iommu.survey import QueueSlot
    from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
    from pasidlab.hardware.memory import Memory

__all__ = ["VtdReading"]

_POINTER: Final = ~0xFFF


class VtdReading:
    """See :class:`pasidlab.hardware.iommu.reading.Reading`."""

    family = "vtd"
    entry_layout = PASID_ENTRY

    def __init__(self, unit: VtdRegisters) -> None:
        self._unit = unit

    @property
    def memory(self) -> Memory:
        """The memory of the tables."""
        return self._unit.memory

    @property
    def root(self) -> int:
        """The root table."""
        return self._unit.root_pointer & _POINTER

    @property
    def queues(self) -> dict[str, int]:
        """Invalidation queue and page request queue."""
        registers = self._unit.registers
        found = {"invalidation queue": registers[IQA] & _POINTER, "page request queue": registers[PQA] & _POINTER}
        return {name: base for name, base in found.items() if base}

    def way(self, walk: Walk) -> Way:
        """A walk put into its shape."""
        return way_of(walk)

    def must_be_zero(self, layout: Layout, words: tuple[int, ...], level: int = 0, *, nested: bool = False) -> int:
        """By the rules of the unit's identity card."""
        return must_be_zero(layout, words, self._unit.rules, level, nested=nested)

    def marks(self, layout: Layout) -> int:
        """Accessed and dirty."""
        return marks(layout)

    def survey(self) -> VtdSurvey:
        """All tables behind RTADDR."""
        return VtdSurvey(self._unit.memory, self._unit.root_pointer, self._unit.rules)

    def queue_slots(self, address: int) -> Iterator[QueueSlot]:
        """Descriptors and page requests."""
        return queue_slots(self._unit, address)

    def present(self, words: tuple[int, ...]) -> bool:
        """P of a PASID entry."""
        return bool(words[0] & 1)

    def silent(self, words: tuple[int, ...]) -> bool:
        """FPD counts even when P=0."""
        return bool(words[0] & 2)
