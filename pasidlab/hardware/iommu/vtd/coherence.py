"""What the tables say now, and whether the caches agree: every present entry of a device, every cached line.

Not a thing of silicon: it is how a checker reads what silicon reads. A cached line is compared with a walk of the
tables alone. Rights may have become more since, never less; accessed bits do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import CacheLine, EntryKind, TableEntry
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
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, PGTT, SL_ENTRY
from pasidlab.hardware.pcie import Access, format_rid

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.vtd.unit import VtdUnit
    from pasidlab.hardware.memory import Memory

__all__ = ["cache_lines", "entries_behind"]

_KINDS: Final = {
    int(PGTT.FIRST): EntryKind.FIRST,
    int(PGTT.SECOND): EntryKind.SECOND,
    int(PGTT.NESTED): EntryKind.NESTED,
    int(PGTT.PASS_THROUGH): EntryKind.PASS_THROUGH,
}
_FIRST_MARKS: Final = 1 << 5 | 1 << 10
_SECOND_MARKS: Final = 1 << 8
_PAGE_WORDS: Final = 512
_POINTER: Final = ~0xFFF


def entries_behind(memory: Memory, rid: int, context: tuple[int, ...]) -> Iterator[TableEntry]:
    """Every present PASID entry behind a context entry, lowest PASID first. What cannot be read is left out."""
    slots = 1 << CONTEXT_ENTRY["PDTS"].get(context) + 7
    directory = CONTEXT_ENTRY["PASIDDIRPTR"].get(context)
    for first in range(0, slots, _PAGE_WORDS):
        for at, word in enumerate(_read(memory, directory + 8 * first, min(_PAGE_WORDS, slots - first))):
            if word & 1:
                table = PASID_DIR_ENTRY["SMPTBLPTR"].get((word,))
                yield from _leaf(memory, rid, first + at << 6, table)


def _read(memory: Memory, address: int, count: int) -> tuple[int, ...]:
    """Words, or none if they are all zero or cannot be read: most of a directory is empty."""
    try:
        words = memory.load_words(address, count)
    except BusError:
        return ()
    return words if words.count(0) < count else ()


def _leaf(memory: Memory, rid: int, pasid: int, table: int) -> Iterator[TableEntry]:
    words, size = _read(memory, table, _PAGE_WORDS), PASID_ENTRY.word_count
    for at, low in enumerate(words[::size]):
        kind = _KINDS.get(low >> 6 & 7)
        if low & 1 and kind is not None:
            yield _entry(rid, pasid + at, kind, words[size * at : size * (at + 1)], table + at * PASID_ENTRY.size)


def _entry(rid: int, pasid: int, kind: EntryKind, words: tuple[int, ...], address: int) -> TableEntry:
    first = words[2] & _POINTER if kind in (EntryKind.FIRST, EntryKind.NESTED) else 0
    second = words[0] & _POINTER if kind in (EntryKind.SECOND, EntryKind.NESTED) else 0
    return TableEntry(rid, pasid, kind, words[1] & 0xFFFF, PASID_ENTRY, words, address, first, second)


class _Tables:
    """What the tables say now: present entries by domain and PASID, and by domain alone."""

    def __init__(self, present: Iterable[TableEntry]) -> None:
        self.by_pasid: dict[tuple[int, int], tuple[int, ...]] = {}
        self.by_domain: dict[int, tuple[int, ...]] = {}
        self.by_rid: dict[tuple[int, int], tuple[int, ...]] = {}
        for entry in present:
            self.by_rid[entry.rid, entry.pasid] = entry.words
            self.by_pasid.setdefault((entry.tag, entry.pasid), entry.words)
            if entry.bounded and entry.tag not in self.by_domain:
                self.by_domain[entry.tag] = PASID_ENTRY.change(entry.words, PGTT=PGTT.SECOND)

    def line(self, did: int, tag: int) -> PasidLine | None:
        """The entry behind a tag."""
        words = self.by_domain.get(did) if tag == SECOND_LEVEL else self.by_pasid.get((did, tag))
        return PasidLine.of(words, max(tag, 0)) if words is not None else None


def cache_lines(unit: VtdUnit, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
    """Lines that disagree with the tables; with ``every`` all."""
    tables = _Tables(present)
    for found in (_contexts(unit), _pasids(unit, tables), _translations(unit, tables), _paging(unit, tables)):
        yield from (line for line in found if line.said or every)


def _contexts(unit: VtdUnit) -> Iterator[CacheLine]:
    for rid, line in unit.caches.contexts.items():
        said = "" if unit.context_words(rid) == line.words else "the context entry in memory is another one"
        yield CacheLine(CONTEXT_CACHE, format_rid(rid), CONTEXT_ENTRY, line.words, line.at, said)


def _pasids(unit: VtdUnit, tables: _Tables) -> Iterator[CacheLine]:
    for (rid, pasid), line in unit.caches.pasids.items():
        words = tables.by_rid.get((rid, pasid))
        gone = words is None and bool(line.words[0] & 1)
        said = "its entry is not present" if gone else ""
        if not gone and words is not None and words != line.words:
            said = "its entry in memory is another one"
        tag = f"PASID {pasid} of {format_rid(rid)}, domain {line.did}"
        yield CacheLine(PASID_CACHE, tag, PASID_ENTRY, line.words, line.at, said, gone)


def _tag(did: int, tag: int, address: int) -> str:
    return f"domain {did}, " + (f"PASID {tag}, " if tag != SECOND_LEVEL else "second level, ") + f"{address:#x}"


def _translations(unit: VtdUnit, tables: _Tables) -> Iterator[CacheLine]:
    caches = unit.caches
    for key, found in caches.iotlb.items():
        did, tag, page = key
        line = tables.line(did, tag)
        said = "no present entry has this tag" if line is None else _translates(unit, line, page << 12, found)
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


def _paging(unit: VtdUnit, tables: _Tables) -> Iterator[CacheLine]:
    for (did, tag, level, prefix), kept in unit.caches.paging.items():
        second = tag == SECOND_LEVEL
        address, line = prefix << PT_SHIFT[level], tables.line(did, tag)
        said = "no present entry has this tag"
        if line is not None:
            now = unit.entry_at(line, address, level, privileged=not second and not kept.rights & 4)
            ignored = _SECOND_MARKS if second else _FIRST_MARKS
            same = now is not None and now[0] == kept.at and not (now[1] ^ kept.word) & ~ignored
            said = "" if same else "the entry in memory is another one"
        layout = SL_ENTRY if second else FL_ENTRY
        words = f"{_tag(did, tag, address)}, level {level}"
        yield CacheLine(PAGING_CACHE, words, layout, (kept.word,), kept.at, said, line is None)
