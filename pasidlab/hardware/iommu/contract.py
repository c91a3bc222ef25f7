"""What every IOMMU unit offers, whatever its vendor: a walk that ends in an address or in a fault.

A walk object lists every stop (which structure, at which address, the raw words, the layout that decodes them), so that
text, tables and pictures need not know how the unit works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.pcie import DmaRequest

__all__ = ["DmaAborted", "Fault", "IommuUnit", "Stop", "Walk"]


class Stop(NamedTuple):
    """One structure that the walk read. ``stage`` says why: ``lookup``, ``first`` or ``second`` (level)."""

    stage: str
    name: str
    address: int
    words: tuple[int, ...]
    layout: Layout
    level: int | None = None

    def fields(self) -> dict[str, int]:
        """The stop's field values by name."""
        return self.layout.decode(self.words)


class Fault(NamedTuple):
    """Why a request was blocked: the unit's own reason code, its name and meaning.

    ``suppressed`` is true when a table entry asked not to record it (fault processing disable).
    """

    code: int
    name: str
    meaning: str
    request: DmaRequest
    suppressed: bool = False

    def __str__(self) -> str:
        return f"{self.request}: fault {self.code:#04x} {self.name} ({self.meaning})"

    def __repr__(self) -> str:
        return f"<{self}>"


@dataclass(frozen=True, slots=True, repr=False)
class Walk:
    """The way of one request through the tables. Exactly one of ``address`` and ``fault`` is set."""

    request: DmaRequest
    stops: tuple[Stop, ...]
    address: int | None
    fault: Fault | None

    def __str__(self) -> str:
        lines = [str(self.request)]
        for stop in self.stops:
            level = f" level {stop.level}" if stop.level else ""
            fields = " ".join(f"{name}={value:#x}" for name, value in stop.fields().items() if value)
            lines.append(f"  {stop.stage:>6}{level:<8} {stop.name} at {stop.address:#x}: {fields or 'all zero'}")
        lines.append(f"  -> {self.address:#x}" if self.address is not None else f"  -> {self.fault}")
        return "\n".join(lines)

    __repr__ = __str__


class DmaAborted(Exception):
    """A DMA request was blocked. ``completed`` bytes had moved before; ``fault`` says why it stopped."""

    def __init__(self, fault: Fault, completed: int) -> None:
        self.fault = fault
        self.completed = completed
        super().__init__(str(fault))


class IommuUnit(Protocol):
    """One remapping unit, as the root complex and the machine see it."""

    def translate(self, request: DmaRequest) -> int | Fault:
        """Translate a real request: the host-physical address, or the fault, which the unit has recorded."""

    def walk(self, request: DmaRequest) -> Walk:
        """Answer what would happen to a request. Changes nothing: no fault record, no accessed or dirty bit."""
