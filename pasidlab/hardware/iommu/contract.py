"""What every IOMMU unit offers, whatever its vendor: a walk that ends in an address or in a fault, the entries that its
tables hold, the lines that its caches hold.

A walk object lists every stop (which structure, at which address, the raw words, the layout that decodes them), so that
text, tables and pictures need not know how the unit works. The three units (``vtd``, ``smmuv3``, ``amdvi``) lie beside
each other with the same file names; :mod:`pasidlab.hardware.iommu.families` lists them.

==================  ====================  ===============================  =====================================
in this contract    VT-d                  SMMUv3                           AMD
==================  ====================  ===============================  =====================================
device entry        context entry         stream table entry (STE)         device table entry (DTE)
table of PASIDs     PASID directory       context descriptor table         GCR3 table
entry of a PASID    PASID entry           context descriptor (CD)          GCR3 entry
first level         first stage           stage 1                          guest (v2) page table
second level        second stage          stage 2                          host (v1) page table
tag                 domain id             VMID                             DomainID
==================  ====================  ===============================  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import ClassVar, Final, NamedTuple, Protocol

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.reading import Reading
from pasidlab.hardware.mmio import MmioTarget
from pasidlab.hardware.pcie import DmaRequest, PageRequest, TranslationCompletion, format_rid

__all__ = [
    "TRANSLATION",
    "CacheLine",
    "DmaAborted",
    "EntryKind",
    "Fault",
    "Identity",
    "IommuUnit",
    "Stop",
    "TableEntry",
    "Translator",
    "WaitingPages",
    "Walk",
]


TRANSLATION: Final = "translation"
"""The name of the stop at which a TLB answered with a whole translation."""


@unique
class EntryKind(StrEnum):
    """What an entry makes of the requests that it is for."""

    PASS_THROUGH = "pass-through"
    FIRST = "first-level"
    SECOND = "second-level"
    NESTED = "nested"


class TableEntry(NamedTuple):
    """An entry that the unit uses for some requests of a device: those with ``pasid``, or with 0 those without any
    (no kernel here hands out PASID 0, on no unit).

    ``words`` lie at ``address`` (host-physical) and are decoded by ``layout``; of a table in a guest's memory
    ``guest_address`` is where the guest has them. ``first`` and ``second`` are the roots of the page tables, 0 where
    there is none: ``first`` is guest-physical when nested, ``second`` host-physical. ``tag`` is what the TLB tags its
    translations with beside the PASID: domain id, VMID, DomainID.
    """

    rid: int
    pasid: int
    kind: EntryKind
    tag: int
    layout: Layout
    words: tuple[int, ...]
    address: int
    first: int = 0
    second: int = 0
    guest_address: int | None = None

    def field(self, name: str) -> int:
        """The value of one field."""
        return self.layout[name].get(self.words)

    @property
    def bounded(self) -> bool:
        """Whether a second level bounds what can be reached."""
        return self.kind in (EntryKind.SECOND, EntryKind.NESTED)

    def __str__(self) -> str:
        return f"PASID {self.pasid} of {format_rid(self.rid)}"


class CacheLine(NamedTuple):
    """One line of a cache: its ``tag`` in words, the ``words`` that ``layout`` explains, and where they lay (``at``).

    ``said``: what the tables say instead, empty if they agree. ``orphan``: what it belonged to is gone. A line of a
    device's TLB has no words. Of a translation ``at`` is the page that it leads to. ``guest``: what it keeps belongs to
    a guest's own table, which the guest alone keeps coherent; ``did`` is then the tag (VMID, DomainID) of that guest.
    """

    cache: str
    tag: str
    layout: Layout | None
    words: tuple[int, ...]
    at: int
    said: str
    orphan: bool = False
    guest: bool = False
    did: int = -1

    def __str__(self) -> str:
        return f"the {self.cache} holds {self.tag}; {self.said or 'the tables agree'}"


class Identity(Protocol):
    """What one unit can do, as its capability registers tell it."""

    @property
    def expression(self) -> str:
        """The Python expression that makes it again."""

    @property
    def address_bits(self) -> int:
        """How wide a host-physical address may be."""

    def check_silicon(self) -> None:
        """``ValueError`` for what only the emulated unit of a guest may have."""


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

    @property
    def in_tlb(self) -> bool:
        """Whether it is a whole translation out of a TLB, which has no place in memory."""
        return self.cached and self.name == TRANSLATION

    def fields(self) -> dict[str, int]:
        """The stop's field values by name."""
        return self.layout.decode(self.words)

    def __str__(self) -> str:
        level = f" level {self.level}" if self.level is not None else ""
        fields = " ".join(f"{name}={value:#x}" for name, value in self.fields().items() if value)
        where = f" (from the {self.cache})" if self.cache else ""
        return f"{self.stage:>6}{level:<8} {self.name} at {self.address:#x}{where}: {fields or 'all zero'}"


class Fault(NamedTuple):
    """Why a request was blocked: the unit's own reason code, its name and meaning.

    ``suppressed`` is true when a table entry asked not to record it (fault processing disable). With ``stall`` the
    request is not lost but held by the unit, under this tag, until software says how to go on (SMMUv3).
    ``reason`` names what ``code`` alone does not tell, where one code stands for several reasons (AMD).
    """

    code: int
    name: str
    meaning: str
    request: DmaRequest
    suppressed: bool = False
    stall: int | None = None
    reason: str = ""

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


class WaitingPages(Protocol):
    """The queue in memory in which page requests wait for software."""

    def requests(self) -> list[PageRequest]:
        """What waits, oldest first."""


class Translator(Protocol):
    """What of a unit lies in the way of DMA: this alone is what the root complex needs."""

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


class IommuUnit(MmioTarget, Translator, Protocol):
    """One remapping unit, as the machine sees it: its registers are an MMIO target."""

    @property
    def page_queue(self) -> WaitingPages:
        """The queue of page requests."""

    @property
    def reading(self) -> Reading:
        """How people read its tables."""

    def entries(self, rid: int) -> list[TableEntry]:
        """Every entry that requests of ``rid`` could meet, read from the tables in memory alone, lowest PASID first.

        What the unit would fault on is not listed.
        """

    def cache_lines(self, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
        """The lines of the unit's caches that disagree with the tables, whose ``present`` entries (of all devices) are
        given; with ``every`` also those that agree.
        """
