"""Invariants 10 and 13: what the caches of IOMMU and devices hold is what the tables say, and nothing of the dead.

A cached line is compared with a walk of the tables alone. Between operations all invalidations that a change needs have
been made, so that every line agrees: hardware that forgot it and walked again would see no difference. Rights may have
become more since, never less; accessed bits do not count. A guest that does not invalidate what it changes breaks this
for itself, and for nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.device_tlb import NO_PASID
from pasidlab.hardware.iommu.vtd.caches import (
    CONTEXT_CACHE,
    IOTLB,
    IOTLB_ENTRY,
    PAGING_CACHE,
    PASID_CACHE,
    SECOND_LEVEL,
    PasidLine,
    Translation,
)
from pasidlab.hardware.iommu.vtd.rules import PT_SHIFT
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_ENTRY, PGTT, SL_ENTRY
from pasidlab.hardware.pcie import Access, format_rid
from pasidlab.invariants.entries import entries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.vtd.unit import VtdUnit
    from pasidlab.invariants.entries import Entry
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine

__all__ = ["DEVICE_TLB", "CacheLine", "cache_lines", "coherent", "orphans", "wrong_lines"]

DEVICE_TLB: Final = "device TLB"
_BY_DOMAIN: Final = (PGTT.SECOND, PGTT.NESTED)
_FIRST_MARKS: Final = 1 << 5 | 1 << 10
_SECOND_MARKS: Final = 1 << 8


class CacheLine(NamedTuple):
    """One line of a cache: its ``tag`` in words, the ``words`` that ``layout`` explains, and where they lay (``at``).

    ``said``: what the tables say instead, empty if they agree. ``orphan``: what it belonged to is gone. A line of a
    device's TLB has no words; ``page`` is what it leads to.
    """

    cache: str
    tag: str
    layout: Layout | None
    words: tuple[int, ...]
    at: int
    said: str
    orphan: bool = False

    def __str__(self) -> str:
        return f"the {self.cache} holds {self.tag}; {self.said or 'the tables agree'}"


class _Tables:
    """What the tables say now: present entries by domain and PASID, and by domain alone.

    ``every``: lines that agree are asked for as well.
    """

    def __init__(self, machine: Machine, present: Iterable[Entry], *, every: bool) -> None:
        self.unit: VtdUnit = machine.unit
        self.every = every
        self.by_pasid: dict[tuple[int, int], tuple[int, ...]] = {}
        self.by_domain: dict[int, tuple[int, ...]] = {}
        self.by_rid: dict[tuple[int, int], tuple[int, ...]] = {}
        for entry in present:
            did = entry.field("DID")
            self.by_rid[entry.rid, entry.pasid] = entry.words
            self.by_pasid.setdefault((did, entry.pasid), entry.words)
            if entry.field("PGTT") in _BY_DOMAIN:
                self.by_domain.setdefault(did, PASID_ENTRY.change(entry.words, PGTT=PGTT.SECOND))

    def line(self, did: int, tag: int) -> PasidLine | None:
        """The entry behind a tag."""
        words = self.by_domain.get(did) if tag == SECOND_LEVEL else self.by_pasid.get((did, tag))
        return PasidLine.of(words, max(tag, 0)) if words is not None else None


def cache_lines(machine: Machine) -> Iterator[CacheLine]:
    """Every line of every cache of the machine's IOMMU and devices, compared with the tables."""
    yield from _lines(machine, _Tables(machine, entries(machine), every=True))


def wrong_lines(machine: Machine, present: Iterable[Entry]) -> Iterator[CacheLine]:
    """Those that disagree with the tables, whose ``present`` entries are given."""
    yield from _lines(machine, _Tables(machine, present, every=False))


def _lines(machine: Machine, tables: _Tables) -> Iterator[CacheLine]:
    yield from _contexts(tables)
    yield from _pasids(tables)
    yield from _translations(tables)
    yield from _paging(tables)
    yield from _device_lines(machine, tables)


def _contexts(tables: _Tables) -> Iterator[CacheLine]:
    unit = tables.unit
    for rid, line in unit.caches.contexts.items():
        now = unit.context_words(rid)
        said = "" if now == line.words else "the context entry in memory is another one"
        if said or tables.every:
            yield CacheLine(CONTEXT_CACHE, format_rid(rid), CONTEXT_ENTRY, line.words, line.at, said)


def _pasids(tables: _Tables) -> Iterator[CacheLine]:
    for (rid, pasid), line in tables.unit.caches.pasids.items():
        words = tables.by_rid.get((rid, pasid))
        gone = words is None and bool(line.words[0] & 1)
        said = "its entry is not present" if gone else ""
        if not gone and words is not None and words != line.words:
            said = "its entry in memory is another one"
        if said or tables.every:
            tag = f"PASID {pasid} of {format_rid(rid)}, domain {line.did}"
            yield CacheLine(PASID_CACHE, tag, PASID_ENTRY, line.words, line.at, said, gone)


def _tag(did: int, tag: int, address: int) -> str:
    return f"domain {did}, " + (f"PASID {tag}, " if tag != SECOND_LEVEL else "second level, ") + f"{address:#x}"


def _translations(tables: _Tables) -> Iterator[CacheLine]:
    caches = tables.unit.caches
    for key, found in caches.iotlb.items():
        did, tag, page = key
        line = tables.line(did, tag)
        said = "no present entry has this tag" if line is None else _translates(tables.unit, line, page << 12, found)
        if said or tables.every:
            words, row = caches.words_of(key), _tag(did, tag, page << 12)
            yield CacheLine(IOTLB, row, IOTLB_ENTRY, words, max(found.page, 0), said, line is None)


def _translates(unit: VtdUnit, line: PasidLine, address: int, found: Translation) -> str:
    """How the tables answer what a line of the IOTLB answers, if it is something else."""
    user, privileged = found.granted & 7, found.granted >> 3
    now = unit.resolve(line, address, _strongest(user or privileged), not user)
    if now == found.page:
        return ""
    return f"the tables lead to {now:#x}" if now >= 0 else f"the tables say fault {-now:#x}"


def _strongest(granted: int) -> Access:
    return Access.WRITE if granted & 2 else Access.READ


def _paging(tables: _Tables) -> Iterator[CacheLine]:
    for (did, tag, level, prefix), kept in tables.unit.caches.paging.items():
        second = tag == SECOND_LEVEL
        address, line = prefix << PT_SHIFT[level], tables.line(did, tag)
        said = "no present entry has this tag"
        if line is not None:
            now = tables.unit.entry_at(line, address, level, privileged=not second and not kept.rights & 4)
            ignored = _SECOND_MARKS if second else _FIRST_MARKS
            same = now is not None and now[0] == kept.at and not (now[1] ^ kept.word) & ~ignored
            said = "" if same else "the entry in memory is another one"
        if said or tables.every:
            layout = SL_ENTRY if second else FL_ENTRY
            words = f"{_tag(did, tag, address)}, level {level}"
            yield CacheLine(PAGING_CACHE, words, layout, (kept.word,), kept.at, said, line is None)


def _device_lines(machine: Machine, tables: _Tables) -> Iterator[CacheLine]:
    for name, device in machine.functions.items():
        for (tag, page, privileged), found in device.tlb.lines.items():
            number = machine.unit.rid_pasid(device.rid) if tag == NO_PASID else tag
            words = tables.by_rid.get((device.rid, number))
            said = "its entry is not present"
            if words is not None:
                granted = Translation(found.page, (3 if found.write else 1) << (3 if privileged else 0), 1)
                said = _translates(tables.unit, PasidLine.of(words, number), page << 12, granted)
            if not (said or tables.every):
                continue
            whose = "without PASID" if tag == NO_PASID else f"PASID {tag}"
            row = f"{whose}, {page << 12:#x}"
            yield CacheLine(f"{DEVICE_TLB} of {name}", row, None, (), found.page, said, words is None)


def coherent(evidence: Evidence) -> Iterator[str]:
    """13: hardware would come to the same answers without its caches."""
    yield from (str(line) for line in evidence.wrong_lines if not line.orphan)


def orphans(evidence: Evidence) -> Iterator[str]:
    """10, as far as caches go: nothing is kept of an entry that is not there any more."""
    yield from (str(line) for line in evidence.wrong_lines if line.orphan)
