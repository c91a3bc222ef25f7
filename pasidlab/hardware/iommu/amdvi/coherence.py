"""What the tables say now, and whether the caches agree: every entry of a device, every cached line.

Not a thing of silicon: it is how a checker reads what silicon reads. A cached line is compared with a walk of the
tables alone. Rights may have become more since, never less; accessed and dirty bits do not count. What was found
through a guest's own tables (GCR3 tables at guest-physical addresses) is marked as the guest's affair.

Lines of the host table belong to the device table entry: they are in use also while no request of the device could be
served, because the guest has no valid GCR3 entry, or its entry allows nothing.

A GCR3 table may be a guest's work and name itself: each table is visited once for each level, under the lowest PASID
that reaches it, so that the time is bounded by the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.amdvi.caches import (
    DTE_CACHE,
    GCR3_CACHE,
    HOST,
    PAGING_CACHE,
    TLB,
    TLB_ENTRY,
    DteLine,
    Gcr3Line,
    Translation,
)
from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS, HOST_SHIFT
from pasidlab.hardware.iommu.amdvi.walk import Errand
from pasidlab.hardware.iommu.contract import CacheLine, EntryKind, Stop, TableEntry
from pasidlab.hardware.layouts.amd import DEVICE_TABLE_REG, DTE, GCR3_ENTRY, V1_PTE, V2_PTE
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import Access, DmaRequest, format_rid

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.amdvi.unit import AmdUnit

__all__ = ["cache_lines", "entries_behind"]

_MARKS: Final = 1 << 5 | 1 << 6
_ENTRIES: Final = 512
_READ: Final = Access.READ
_TRANSLATED: Final = DTE["V"].mask | DTE["TV"].mask
_MODE: Final = DTE["Mode"].mask


# --- entries ----------------------------------------------------------------------------------------------------------


def entries_behind(unit: AmdUnit, rid: int) -> Iterator[TableEntry]:
    """Every entry that the unit would use for requests of ``rid``, lowest PASID first."""
    found = unit.find_dte(rid)
    line = found.line
    if found.reason is not None or line is None or (line.valid and not (line.translated and line.allowed)):
        return
    guest = line.valid and line.guest and unit.lookup().guest
    if not (guest and line.giov and unit.identity.giosup):
        yield _of_device(rid, line)
    if guest:
        yield from _Gcr3Tables(unit, rid, line).entries()


def _of_device(rid: int, line: DteLine) -> TableEntry:
    """What requests without PASID meet when the device table entry itself decides."""
    translates = line.valid and line.mode
    kind = EntryKind.SECOND if translates else EntryKind.PASS_THROUGH
    return TableEntry(rid, 0, kind, line.did, DTE, line.words, line.at, second=line.root if translates else 0)


class _Gcr3Tables:
    """All GCR3 tables behind one device table entry."""

    def __init__(self, unit: AmdUnit, rid: int, line: DteLine) -> None:
        self._unit, self._rid, self._line = unit, rid, line
        self._errand = Errand(unit.lookup(), line, DmaRequest(rid, 0, _READ), 0)
        self._guest_physical = bool(self._errand.lookup.guest_tables and line.mode)
        self._seen: set[tuple[int, int]] = set()

    def entries(self) -> Iterator[TableEntry]:
        """Every valid entry that names a guest page table; PASID 0 only with GIOV, or for requests that carry it."""
        yield from self._table(self._line.gcr3, self._line.glx, 0)

    def _table(self, table: int, level: int, first: int) -> Iterator[TableEntry]:
        """A table whose entries are for 512^level PASIDs each, from ``first`` on."""
        place = self._place(table)
        if place is None or (level, place) in self._seen:
            return
        self._seen.add((level, place))
        reserved = self._unit.rules.gcr3 & ~(self._unit.rules.wide if self._line.mode else 0)
        for index, word in enumerate(self._read(place)):
            pasid = first + (index << 9 * level)
            if not word & 1 or word & reserved or pasid >= self._unit.rules.pasid_limit:
                continue
            if level:
                yield from self._table(word & ADDRESS, level - 1, pasid)
            else:
                yield self._entry(pasid, word, place + 8 * index, table + 8 * index)

    def _place(self, table: int) -> int | None:
        if not self._guest_physical:
            return table
        found = self._unit.walker.through_host(self._errand, table)
        return found if found >= 0 else None

    def _read(self, place: int) -> tuple[int, ...]:
        try:
            return self._unit.memory.load_words(place, _ENTRIES)
        except BusError:
            return ()

    def _entry(self, pasid: int, word: int, at: int, named: int) -> TableEntry:
        line = self._line
        return TableEntry(
            self._rid,
            pasid,
            EntryKind.NESTED if line.mode else EntryKind.FIRST,
            line.did,
            GCR3_ENTRY,
            (word,),
            at,
            first=word & ADDRESS,
            second=line.root if line.mode else 0,
            guest_address=named if self._guest_physical else None,
        )


# --- caches -----------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """An entry that has a tag, and the device table entry before it."""

    entry: TableEntry
    line: DteLine


def _host_tables(unit: AmdUnit) -> Iterator[tuple[int, DteLine]]:
    """Every device table entry that can be used and names a host table, by requester ID."""
    table = unit.lookup().table
    for page in range(DEVICE_TABLE_REG["Size"].get((table,)) + 1):
        try:
            words = unit.memory.load_words((table & ADDRESS) + page * PAGE_SIZE, PAGE_SIZE // 8)
        except BusError:
            continue
        for at, word in enumerate(words[:: DTE.word_count]):
            if word & _TRANSLATED == _TRANSLATED and word & _MODE:
                rid = page * _ENTRIES // DTE.word_count + at
                found = unit.find_dte(rid)
                if found.reason is None and found.line is not None:
                    yield rid, found.line


class _Tables:
    """What the tables say now: entries by domain and PASID, and by domain alone.

    Where a tag is not found, every device table entry with a host table is looked at, once.
    """

    def __init__(self, unit: AmdUnit, present: Iterable[TableEntry]) -> None:
        self.unit, self.lookup = unit, unit.lookup()
        self.by_pasid: dict[tuple[int, int], _Known] = {}
        self.by_domain: dict[int, _Known] = {}
        self.guests: set[int] = set()
        self._looked_at_all = not unit.translation_enabled
        lines: dict[int, DteLine | None] = {}
        for entry in present:
            if entry.rid not in lines:
                lines[entry.rid] = unit.find_dte(entry.rid).line
            line = lines[entry.rid]
            if line is not None:
                self._add(_Known(entry, line._replace(allowed=3)))

    def _add(self, known: _Known) -> None:
        entry, line = known
        if entry.layout is GCR3_ENTRY:
            self.by_pasid.setdefault((entry.tag, entry.pasid), known)
        if entry.second:
            self.by_domain.setdefault(entry.tag, known)
        if line.guest and line.mode and self.lookup.guest_tables:
            self.guests.add(entry.tag)

    def known(self, did: int, tag: int) -> _Known | None:
        """The entry behind a tag."""
        found = self._known(did, tag)
        if found is None and not self._looked_at_all:
            self._looked_at_all = True
            for rid, line in _host_tables(self.unit):
                self._add(_Known(_of_device(rid, line), line._replace(allowed=3)))
            found = self._known(did, tag)
        return found

    def _known(self, did: int, tag: int) -> _Known | None:
        return self.by_domain.get(did) if tag == HOST else self.by_pasid.get((did, tag))

    def walk(
        self, known: _Known, tag: int, address: int, access: Access, *, privileged: bool
    ) -> tuple[int, list[Stop]]:
        """What the tables answer for a line with this tag: outcome and stops."""
        stops: list[Stop] = []
        lookup = self.lookup._replace(trace=stops)
        request = DmaRequest(known.entry.rid, address, access, max(tag, 0), privileged)
        errand = Errand(lookup, known.line, request, None if tag == HOST else tag)
        return self.unit.walker.resolve(errand), stops


def cache_lines(unit: AmdUnit, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
    """Lines that disagree with the tables; with ``every`` all."""
    tables = _Tables(unit, present)
    for found in (_dtes(unit), _gcr3(tables), _translations(tables), _paging(tables)):
        yield from (line for line in found if line.said or every)


def _dtes(unit: AmdUnit) -> Iterator[CacheLine]:
    for rid, line in unit.caches.dtes.items():
        now = unit.find_dte(rid).line
        said = "" if now is not None and now.words == line.words else "the device table entry in memory is another one"
        yield CacheLine(DTE_CACHE, format_rid(rid), DTE, line.words, line.at, said)


def _gcr3(tables: _Tables) -> Iterator[CacheLine]:
    for (did, pasid), line in tables.unit.caches.gcr3.items():
        known, tag = tables.known(did, pasid), f"PASID {pasid}, domain {did}"
        said = _other_entry(known.entry, line) if known is not None else "its entry is not valid"
        guest = did in tables.guests
        yield CacheLine(GCR3_CACHE, tag, GCR3_ENTRY, (line.word,), line.at, said, known is None, guest, did)


def _other_entry(entry: TableEntry, line: Gcr3Line) -> str:
    return "" if entry.words == (line.word,) else "its entry in memory is another one"


def _tag(did: int, tag: int, address: int) -> str:
    return f"domain {did}, " + (f"PASID {tag}, " if tag != HOST else "host table, ") + f"{address:#x}"


def _translations(tables: _Tables) -> Iterator[CacheLine]:
    caches = tables.unit.caches
    for key, found in caches.tlb.items():
        did, tag, page = key
        known = tables.known(did, tag)
        said = "no entry has this tag" if known is None else _translates(tables, known, tag, page << 12, found)
        words, row, guest = caches.words_of(key), _tag(did, tag, page << 12), tag != HOST and did in tables.guests
        yield CacheLine(TLB, row, TLB_ENTRY, words, found.page, said, known is None, guest, did)


def _translates(tables: _Tables, known: _Known, tag: int, address: int, found: Translation) -> str:
    """How the tables answer what a line of the TLB answers, if it is something else."""
    user, privileged = found.granted & 7, found.granted >> 3
    access = Access.WRITE if (user or privileged) & 2 else Access.READ
    now, _ = tables.walk(known, tag, address, access, privileged=not user)
    if now == found.page:
        return ""
    return f"the tables lead to {now:#x}" if now >= 0 else f"the tables say {Reason.of(-now).meaning}"


def _paging(tables: _Tables) -> Iterator[CacheLine]:
    for (did, tag, level, prefix), kept in tables.unit.caches.paging.items():
        address, known = prefix << HOST_SHIFT[level], tables.known(did, tag)
        layout = V1_PTE if tag == HOST else V2_PTE
        said = "no entry has this tag"
        if known is not None:
            _, stops = tables.walk(known, tag, address, _READ, privileged=tag != HOST)
            now = [stop for stop in stops if stop.layout is layout and stop.level == level]
            same = now and now[-1].address == kept.at and not (now[-1].words[0] ^ kept.word) & ~_MARKS
            said = "" if same else "the entry in memory is another one"
        row, guest = f"{_tag(did, tag, address)}, level {level}", tag != HOST and did in tables.guests
        yield CacheLine(PAGING_CACHE, row, layout, (kept.word,), kept.at, said, known is None, guest, did)
