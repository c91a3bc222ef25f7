"""From requester ID and PASID to the GCR3 entry: the lookups of a translation before any page table is read.

Models device table entry -> GCR3 table of one to three levels, with the reason of each step that fails. Works on any
:class:`~pasidlab.hardware.memory.Memory`: silicon reads host memory, an emulated unit reads its guest's. Follows
facts/hardware.md section 4 and Linux 6.1 ``drivers/iommu/amd/iommu.c`` (__get_gcr3_pte).

An entry with V=0 is legal whatever its other bits are: requests of this device pass untranslated. With V=1 reserved
bits are looked at first, then levels that the unit lacks (UNVERIFIED order). Whether a GCR3 table lies at
system-physical or at guest-physical addresses is decided by GCR3TRPMode (EFR2 bit 3 and control bit 58) and by whether
there is a host table at all: the caller gives the way ``through`` the host table then, for every level of the table.

UNVERIFIED: a PASID with more bits than the levels (GLX) look up, or than EFR.PASmax, is not found; a device table whose
register says that it is shorter than the requester ID.

An entry comes from the unit's caches when it is there; what was read from memory is kept only by a request that really
happens, never by a question, and only when it is legal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.amdvi.caches import DTE_CACHE, GCR3_CACHE, AmdCaches, DteLine, Gcr3Line
from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS, AmdRules
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.layouts.amd import DEVICE_TABLE_REG, DTE, GCR3_ENTRY
from pasidlab.hardware.memory import PAGE_SHIFT, Memory

__all__ = ["DteLookup", "Gcr3Lookup", "Lookup", "Through", "Trace", "find_dte", "find_gcr3"]

_TABLE_SIZE: Final = DEVICE_TABLE_REG["Size"].mask
"""The bits of DEV_TAB that say how many pages the table has, less one."""
Trace = list[Stop] | None
"""Where the stops of a walk are written down, or ``None`` on the fast path."""
Through = Callable[[int], int]
"""From a guest-physical address to a system-physical one, or to minus a reason."""


class Lookup(NamedTuple):
    """Where and how to search: the tables in ``memory`` behind ``table`` (the register DEV_TAB).

    ``guest``: guest translation is switched on (GTEn); ``guest_tables``: GCR3TRPMode is. ``caches`` may answer for
    memory; with ``keep`` they learn what was read. Stops are written down in ``trace``.
    """

    memory: Memory
    table: int
    rules: AmdRules
    guest: bool = True
    guest_tables: bool = False
    caches: AmdCaches | None = None
    keep: bool = False
    trace: Trace = None

    def read(self, name: str, address: int, layout: Layout, level: int | None = None) -> tuple[int, ...]:
        """The words of a structure in memory; ``BusError`` if no memory answers."""
        words = self.memory.load_words(address, layout.word_count)
        if self.trace is not None:
            self.trace.append(Stop("lookup", name, address, words, layout, level))
        return words

    def kept(self, name: str, address: int, words: tuple[int, ...], layout: Layout, cache: str) -> None:
        """Write down that a cache answered."""
        if self.trace is not None:
            self.trace.append(Stop("lookup", name, address, words, layout, cache=cache))


class DteLookup(NamedTuple):
    """The device table entry of a requester ID, or the ``reason`` why there is none that can be used."""

    reason: Reason | None
    line: DteLine | None = None


class Gcr3Lookup(NamedTuple):
    """What the tables say to a requester ID and a PASID: ``dte`` and ``gcr3``, as far as they were found, and the
    ``reason`` why not further.
    """

    reason: Reason | None
    dte: DteLine | None = None
    gcr3: Gcr3Line | None = None


def find_dte(lookup: Lookup, rid: int) -> DteLookup:
    """Find the device table entry that serves ``rid``. Nothing is written to memory, nothing is recorded."""
    line = lookup.caches.dtes.get(rid) if lookup.caches is not None else None
    if line is not None:
        lookup.kept("device table entry", line.at, line.words, DTE, DTE_CACHE)
        return DteLookup(None, line)
    size = (lookup.table & _TABLE_SIZE) + 1 << PAGE_SHIFT
    if (rid + 1) * DTE.size > size:
        return DteLookup(Reason.DTE_OUTSIDE)
    at = (lookup.table & ADDRESS) + rid * DTE.size
    try:
        line = DteLine.of(lookup.read("device table entry", at, DTE), at)
    except BusError:
        return DteLookup(Reason.DTE_UNREADABLE)
    reason = _broken(line, lookup.rules)
    if reason is None and lookup.keep and lookup.caches is not None:
        lookup.caches.dtes[rid] = line
    return DteLookup(reason, line)


def _broken(line: DteLine, rules: AmdRules) -> Reason | None:
    """Whether the entry can serve any request at all."""
    if not line.valid:
        return None
    first, second, third, fourth = line.words
    masks = rules.dte
    if first & masks[0] or second & masks[1] or third & masks[2] or fourth & masks[3]:
        return Reason.DTE_RESERVED
    if (line.root | line.gcr3) & rules.wide:
        return Reason.DTE_RESERVED
    return None if rules.is_encodable(line.words) else Reason.DTE_LEVEL


def find_gcr3(lookup: Lookup, line: DteLine, pasid: int, through: Through | None = None) -> Gcr3Line | Reason:
    """Find the GCR3 entry of ``pasid`` behind a device table entry; ``through``: the way of guest-physical addresses.

    A reason of the host table comes back as it is.
    """
    rules = lookup.rules
    if not (lookup.guest and line.guest):
        return Reason.NO_PASIDS
    if pasid >> 9 * (line.glx + 1) or pasid >= rules.pasid_limit:
        return Reason.PASID_BEYOND
    kept = lookup.caches.gcr3.get((line.did, pasid)) if lookup.caches is not None else None
    if kept is not None:
        lookup.kept("GCR3 entry", kept.at, (kept.word,), GCR3_ENTRY, GCR3_CACHE)
        return kept
    found = _descend(lookup, line, pasid, through)
    if lookup.keep and lookup.caches is not None and isinstance(found, Gcr3Line):
        lookup.caches.gcr3[line.did, pasid] = found
    return found


def _descend(lookup: Lookup, line: DteLine, pasid: int, through: Through | None) -> Gcr3Line | Reason:
    """Read one entry a level, 9 bits of the PASID each, the highest first."""
    table, at, word, named = line.gcr3, 0, 0, 0
    reserved = lookup.rules.gcr3 & ~(lookup.rules.wide if line.mode else 0)
    for level in range(line.glx, -1, -1):
        at = named = table + (pasid >> 9 * level & 511) * GCR3_ENTRY.size
        if through is not None and (at := through(named)) < 0:
            return Reason.of(-at)
        try:
            (word,) = lookup.read("GCR3 entry", at, GCR3_ENTRY, level + 1)
        except BusError:
            return Reason.GCR3_UNREADABLE
        if not word & 1:
            return Reason.GCR3_ABSENT
        if word & reserved:
            return Reason.GCR3_RESERVED
        table = word & ADDRESS
    return Gcr3Line(word, at, named if through is not None else None)
