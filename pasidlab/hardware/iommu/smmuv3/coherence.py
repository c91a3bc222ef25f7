"""What the tables say now, and whether the caches agree: every entry of a device, every cached line.

Not a thing of silicon: it is how a checker reads what silicon reads. Each cached line is compared with the tables
alone. Rights may have become more since, never less. A line of the configuration caches that holds something not valid
is compared too: hardware would go on refusing after software has made it valid. What belongs to a nested stream is the
guest's own, except what stage 2 alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import CacheLine, EntryKind, TableEntry
from pasidlab.hardware.iommu.smmuv3.caches import (
    CD_CACHE,
    CD_TABLE_CACHE,
    GLOBAL,
    SECOND_STAGE,
    STE_CACHE,
    STREAM_TABLE_CACHE,
    TLB,
    TLB_ENTRY,
    CdLine,
    SmmuCaches,
    SteLine,
    Translation,
)
from pasidlab.hardware.iommu.smmuv3.faults import Blocked
from pasidlab.hardware.iommu.smmuv3.tables import context_number, context_table, leaf_address, read_cd, read_ste
from pasidlab.hardware.iommu.smmuv3.walk import Wish
from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC, STE, STREAM_TABLE_DESC
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import format_rid

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters

__all__ = ["cache_lines", "entries_of"]

_PAGE_WORDS: Final = PAGE_SIZE // 8
_PER_PAGE: Final = PAGE_SIZE // CD.size
_VALID: Final = CD["V"].mask


# --- entries ----------------------------------------------------------------------------------------------------------


def entries_of(unit: SmmuRegisters, rid: int) -> list[TableEntry]:
    """Every entry that requests of a device could meet. PASID 0 stands for those without one, as S1DSS decides."""
    ste = unit.find_ste(rid)
    if isinstance(ste, Blocked) or not ste.config:
        return []
    number = context_number(ste, None)
    found: list[TableEntry] = []
    if number is None:
        kind = EntryKind.PASS_THROUGH if ste.second is None else EntryKind.SECOND
        second = 0 if ste.second is None else ste.second.root
        found.append(TableEntry(rid, 0, kind, ste.vmid, STE, ste.words, ste.at, 0, second))
    for at in _present(unit, ste):
        cd = unit.find_cd(rid, ste, at) if at or number == 0 else Blocked(None)
        if isinstance(cd, CdLine) and (cd.lower is not None or cd.upper is not None):
            found.append(_of_context(rid, at, ste, cd))
    return found


def _of_context(rid: int, pasid: int, ste: SteLine, cd: CdLine) -> TableEntry:
    stage = cd.lower or cd.upper
    first = stage.root if stage is not None else 0
    if ste.second is None:
        return TableEntry(rid, pasid, EntryKind.FIRST, ste.vmid, CD, cd.words, cd.at, first)
    second, where = ste.second.root, cd.address
    return TableEntry(rid, pasid, EntryKind.NESTED, ste.vmid, CD, cd.words, cd.at, first, second, where)


def _present(unit: SmmuRegisters, ste: SteLine) -> Iterator[int]:
    """The numbers of the context descriptors that are marked valid, lowest first."""
    if not ste.stage1:
        return
    count = 1 << (min(ste.split, ste.cdmax) if ste.split else ste.cdmax)
    for leaf, base in _leaves(unit, ste):
        for page in range(0, count, _PER_PAGE):
            size = min(_PER_PAGE, count - page) * CD.word_count
            for at, low in enumerate(_page(unit, ste, base + page * CD.size, size)[:: CD.word_count]):
                if low & _VALID:
                    yield (leaf << ste.split) + page + at


def _leaves(unit: SmmuRegisters, ste: SteLine) -> Iterator[tuple[int, int]]:
    """Number and address of each leaf of a context descriptor table; a linear table is one leaf."""
    table = context_table(ste)
    if not ste.split:
        yield 0, table
        return
    count = 1 << max(0, ste.cdmax - ste.split)
    for first in range(0, count, _PAGE_WORDS):
        for at, word in enumerate(_page(unit, ste, table + 8 * first, min(_PAGE_WORDS, count - first))):
            leaf = leaf_address(ste, word)
            if leaf is not None:
                yield first + at, leaf


def _page(unit: SmmuRegisters, ste: SteLine, address: int, count: int) -> tuple[int, ...]:
    """The words of a part of a table in one page, or none if they are all zero or cannot be read."""
    at = unit.walker.intermediate(ste, address)
    try:
        words = () if isinstance(at, Blocked) else unit.memory.load_words(at, count)
    except BusError:
        return ()
    return words if words.count(0) < len(words) else ()


# --- cached lines -----------------------------------------------------------------------------------------------------


class _Context(NamedTuple):
    """What a tag of the TLB stands for in the tables."""

    ste: SteLine
    cd: CdLine | None

    @property
    def key(self) -> tuple[object, ...]:
        """What a translation depends on: contexts that agree in it give the same answers."""
        ste, cd = self.ste, self.cd
        stages = () if cd is None else (cd.lower, cd.upper, cd.ignores_top, cd.ignores_access_flag)
        return ste.second, ste.protects_walks, *stages


class _Tables:
    """What the tables say now: streams by StreamID, and by VMID and ASID what translates."""

    def __init__(self, unit: SmmuRegisters, present: Iterable[TableEntry], streams: Iterable[int]) -> None:
        self.unit = unit
        self.by_tag: dict[tuple[int, int], dict[tuple[object, ...], _Context]] = {}
        stes: dict[int, SteLine | Blocked] = {sid: unit.find_ste(sid) for sid in streams}
        for ste in stes.values():
            if isinstance(ste, SteLine) and ste.second is not None:
                self._add(ste.vmid, SECOND_STAGE, _Context(ste, None))
        for entry in present:
            if entry.rid not in stes:
                stes[entry.rid] = unit.find_ste(entry.rid)
            ste = stes[entry.rid]
            if not isinstance(ste, SteLine):
                continue
            cd = unit.find_cd(entry.rid, ste, entry.pasid) if entry.layout is CD else None
            if isinstance(cd, Blocked):
                continue
            if ste.second is not None:
                self._add(ste.vmid, SECOND_STAGE, _Context(ste, None))
            if cd is not None:
                self._add(ste.vmid, cd.asid, _Context(ste, cd))
                self._add(ste.vmid, GLOBAL, _Context(ste, cd))

    def _add(self, vmid: int, tag: int, context: _Context) -> None:
        self.by_tag.setdefault((vmid, tag), {}).setdefault(context.key, context)


def cache_lines(
    unit: SmmuRegisters,
    caches: SmmuCaches,
    present: Iterable[TableEntry],
    streams: Iterable[int] = (),
    *,
    every: bool,
) -> Iterator[CacheLine]:
    """Lines that disagree with the tables; with ``every`` all.

    ``streams`` are the devices that are there: their stage 2 is in use also while no context of theirs is valid.
    """
    tables = _Tables(unit, present, streams)
    for found in (_streams(unit, caches), _stes(unit, caches), _contexts(unit, caches), _cds(unit, caches)):
        yield from (line for line in found if line.said or every)
    yield from (line for line in _translations(tables, caches) if line.said or every)


def _streams(unit: SmmuRegisters, caches: SmmuCaches) -> Iterator[CacheLine]:
    split = unit.stream_table.split
    for number, line in caches.streams.items():
        same = bool(split) and line.at == unit.stream_table.base + 8 * number and _word(unit, line.at) == line.word
        said = "" if same else "the stream table in memory has another entry"
        tag = f"streams {number << split:#x} and up"
        yield CacheLine(STREAM_TABLE_CACHE, tag, STREAM_TABLE_DESC, (line.word,), line.at, said)


def _stes(unit: SmmuRegisters, caches: SmmuCaches) -> Iterator[CacheLine]:
    for sid, line in caches.stes.items():
        now = read_ste(unit.lookup(), sid)
        same = isinstance(now, SteLine) and (now.words, now.at) == (line.words, line.at)
        gone = not line.bad and (isinstance(now, Blocked) or now.bad)
        said = "" if same else "its entry is not valid" if gone else "its entry in memory is another one"
        yield CacheLine(STE_CACHE, format_rid(sid), STE, line.words, line.at, said, gone)


def _stream(unit: SmmuRegisters, sid: int) -> SteLine | None:
    """The stream table entry in memory, if it is valid and stage 1 translates."""
    now = unit.find_ste(sid)
    return now if isinstance(now, SteLine) and now.stage1 else None


def _contexts(unit: SmmuRegisters, caches: SmmuCaches) -> Iterator[CacheLine]:
    for (sid, number), line in caches.contexts.items():
        ste = _stream(unit, sid)
        same = ste is not None and bool(ste.split) and _word(unit, line.at) == line.word
        said = "" if same else "the context descriptor table in memory has another entry"
        tag = f"part {number} of the context descriptor table of {format_rid(sid)}"
        nested = ste is not None and ste.second is not None
        yield CacheLine(
            CD_TABLE_CACHE, tag, CD_TABLE_DESC, (line.word,), line.at, said, ste is None, nested, _vmid(ste)
        )


def _cds(unit: SmmuRegisters, caches: SmmuCaches) -> Iterator[CacheLine]:
    for (sid, number), line in caches.cds.items():
        ste = _stream(unit, sid)
        now = None if ste is None else read_cd(unit.lookup(), sid, ste, number)
        same = isinstance(now, CdLine) and (now.words, now.at) == (line.words, line.at)
        gone = not line.bad and (not isinstance(now, CdLine) or now.bad)
        said = "" if same else "its entry is not valid" if gone else "its entry in memory is another one"
        nested = ste is not None and ste.second is not None
        yield CacheLine(
            CD_CACHE, f"PASID {number} of {format_rid(sid)}", CD, line.words, line.at, said, gone, nested, _vmid(ste)
        )


def _vmid(ste: SteLine | None) -> int:
    """The VMID of a stream with a stage 2."""
    return ste.vmid if ste is not None else -1


def _word(unit: SmmuRegisters, at: int) -> int | None:
    try:
        return unit.memory.load(at)
    except BusError:
        return None


def _translations(tables: _Tables, caches: SmmuCaches) -> Iterator[CacheLine]:
    for key, found in caches.tlb.items():
        vmid, tag, page = key
        contexts = list(tables.by_tag.get((vmid, tag), {}).values())
        said = "no present entry has this tag"
        for number, context in enumerate(contexts):
            answer = _translates(tables.unit, context, page << PAGE_SHIFT, found)
            said = answer if not number or not answer else said
            if not answer:
                break
        nested = tag != SECOND_STAGE and (vmid, SECOND_STAGE) in tables.by_tag
        whose = {SECOND_STAGE: "stage 2", GLOBAL: "every ASID"}.get(tag, f"ASID {tag}")
        row = f"VMID {vmid}, {whose}, {page << PAGE_SHIFT:#x}"
        words = caches.words_of(key)
        yield CacheLine(TLB, row, TLB_ENTRY, words, found.page, said, not contexts, nested, vmid)


def _translates(unit: SmmuRegisters, context: _Context, address: int, found: Translation) -> str:
    """How the tables answer what a line of the TLB answers, if it is something else."""
    granted = found.granted
    for wish in (Wish(granted & 7), Wish(granted >> 3, privileged=True)):
        if wish.need:
            now = unit.walker.translate(context.ste, context.cd, address, wish)
            if isinstance(now, Blocked):
                return f"the tables say {now.name}"
            if now.page != found.page:
                return f"the tables lead to {now.page:#x}"
    return ""
