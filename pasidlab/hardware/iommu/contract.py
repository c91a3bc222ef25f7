"""What every IOMMU unit offers, whatever its vendor: a walk that ends in an address or in a fault.

A walk object lists every stop (which structure, at which address, the raw words, the layout that decodes them), so that
text, tables and pictures need not know how the unit works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.pcie import DmaRequest, PageRequest, TranslationCompletion

__all__ = ["DmaAborted", "Fault", "IommuUnit", "Stop", "Walk"]


class Stop(NamedTuple):
    """One structure that the walk read. ``stage`` says why: ``lookup``, ``first`` or ``second`` (level), or ``mark``:
    may accessed or dirty be set in the entry before?

    ``cache`` names the cache that answered in place of memory (empty: the structure was read from memory at
    ``address``, which is host-physical). A translation that was found whole in a TLB has no place in memory: there
    ``address`` is the page that it leads to, and ``layout`` describes the cache's own entry.
    """

    stage: str
    name: str
    address: int
    words: tuple[int, ...]
    layout: Layout
    level: int | None = None
    cache: str = ""

    @property
    def cached(self) -> bool:
        """Whether a cache answered; what lies in memory may be different by now."""
        return bool(self.cache)

    def fields(self) -> dict[str, int]:
        """The stop's field values by name."""
        return self.layout.decode(self.words)

    def __str__(self) -> str:
        level = f" level {self.level}" if self.level else ""
        fields = " ".join(f"{name}={value:#x}" for name, value in self.fields().items() if value)
        where = f" (from the {self.cache})" if self.cache else ""
        return f"{self.stage:>6}{level:<8} {self.name} at {self.address:#x}{where}: {fields or 'all zero'}"


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
    """The way of one request through the tables of ``unit``. Exactly one of ``address`` and ``fault`` is set.

    ``draw`` is set by the package itself: pictures are made above this floor.
    """

    draw: ClassVar[Callable[[Walk], dict[str, str]] | None] = None

    request: DmaRequest
    stops: tuple[Stop, ...]
    address: int | None
    fault: Fault | None
    unit: IommuUnit | None = field(default=None, compare=False)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """How a notebook shows a walk: as picture and table from the floor above, and always as text."""
        drawn = {} if Walk.draw is None else Walk.draw(self)
        return {"text/plain": repr(self), **drawn}

    def __str__(self) -> str:
        lines = [str(self.request), *(f"  {stop}" for stop in self.stops)]
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

    def complete(self, request: DmaRequest) -> TranslationCompletion | Fault:
        """Answer a translation request (ATS), or block it with a fault, which the unit has recorded."""

    def page_request(self, request: PageRequest) -> None:
        """Take a page request (PRI); the answer comes to the device as a message."""

    def walk(self, request: DmaRequest, *, caches: bool = True) -> Walk:
        """Answer what would happen to a request. Changes nothing: no fault record, no cache, no accessed or dirty bit.

        Without ``caches`` it is the tables alone that answer.
        """
