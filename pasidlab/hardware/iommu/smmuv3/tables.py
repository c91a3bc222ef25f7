"""From StreamID and SubstreamID to the context descriptor: stream table and context descriptor table.

Models the look-up of chapters 3.3 and 15 of the specification (IHI 0070): stream table (linear or two-level) -> stream
table entry -> context descriptor table (linear or two-level) -> context descriptor, with the event of each step. Works
on any :class:`~pasidlab.hardware.memory.Memory`: silicon reads host memory, an emulated unit its guest's. StreamID is
the requester ID and SubstreamID the PASID, as PCIe root complexes are wired (3.2).

With stage 2 on, the context descriptor table is named by an intermediate physical address: each fetch goes through the
walker. The order of the checks is that of the specification's procedure: C_BAD_STE, then the SubstreamID
(C_BAD_SUBSTREAMID before F_STREAM_DISABLED), then the context descriptor; the facts have it as UNVERIFIED.

An entry comes from the configuration caches when it is there; what was read from memory is kept only by a request that
really happens, never by a question.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.smmuv3.caches import (
    CD_CACHE,
    CD_TABLE_CACHE,
    STE_CACHE,
    STREAM_TABLE_CACHE,
    CdLine,
    Descriptor,
    SmmuCaches,
    SteLine,
)
from pasidlab.hardware.iommu.smmuv3.faults import Blocked, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.rules import SPLITS, SmmuRules
from pasidlab.hardware.iommu.smmuv3.walk import SmmuWalker, Trace
from pasidlab.hardware.layouts.smmu import (
    CD,
    CD_TABLE_DESC,
    STE,
    STREAM_TABLE_DESC,
    STRTAB_BASE_REG,
)

__all__ = [
    "Lookup",
    "StreamTable",
    "context_number",
    "context_table",
    "find_cd",
    "find_ste",
    "leaf_address",
    "read_cd",
    "read_ste",
]

_TWO_LEVEL = 1
_STE_SIZE = STE.size
_CD_SIZE = CD.size
_SPAN = STREAM_TABLE_DESC["span"].mask
_STREAM_TABLE, _STREAM_LEAF = STRTAB_BASE_REG["ADDR"].mask, STREAM_TABLE_DESC["L2Ptr"].mask
_CONTEXT_LEAF = CD_TABLE_DESC["L2Ptr"].mask
"""The address bits of the words that name tables."""


class StreamTable(NamedTuple):
    """Where the stream table is, as STRTAB_BASE and STRTAB_BASE_CFG say: for StreamIDs of ``bits`` bits.

    ``split`` is how many of them choose within the second level; 0: the table is linear.
    """

    base: int
    bits: int
    split: int

    @classmethod
    def of(cls, base: int, config: int, rules: SmmuRules) -> StreamTable:
        """The table that the two registers name.

        >>> from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
        >>> StreamTable.of(0x5000, 0x10000 | 8 << 6 | 16, SmmuRules(SmmuIdentity()))
        StreamTable(base=20480, bits=16, split=8)
        """
        bits, split = min(config & 0x3F, rules.identity.sidsize), config >> 6 & 0x1F
        if config >> 16 & 3 != _TWO_LEVEL or not rules.identity.st_level:
            split = 0
        elif split not in SPLITS:
            split = SPLITS[0]
        size = 8 << max(0, bits - split) if split else _STE_SIZE << bits
        return cls(base & _STREAM_TABLE & -max(size, 64), bits, split)


class Lookup(NamedTuple):
    """Where and how to search: the tables in memory behind a stream table, with the ``walker`` for nested ones.

    ``caches`` may answer for memory; with ``keep`` they learn what was read. Stops are written down in ``trace``.
    """

    streams: StreamTable
    walker: SmmuWalker
    rules: SmmuRules
    caches: SmmuCaches | None = None
    keep: bool = False
    trace: Trace = None

    def read(self, name: str, address: int, layout: Layout) -> tuple[int, ...]:
        """The words of a structure in memory; ``BusError`` if no memory answers."""
        words = self.walker.load_words(address, layout.word_count)
        self.tell(name, address, words, layout)
        return words

    def tell(self, name: str, address: int, words: tuple[int, ...], layout: Layout, cache: str = "") -> None:
        """Write down a stop."""
        if self.trace is not None:
            self.trace.append(Stop("lookup", name, address, words, layout, cache=cache))


# --- stream table -----------------------------------------------------------------------------------------------------


def find_ste(lookup: Lookup, sid: int) -> SteLine | Blocked:
    """The stream table entry of ``sid``; one that is ILLEGAL is an answer with a reason (C_BAD_STE)."""
    line = read_ste(lookup, sid)
    return Blocked(SmmuEvent.C_BAD_STE) if isinstance(line, SteLine) and line.bad else line


def read_ste(lookup: Lookup, sid: int) -> SteLine | Blocked:
    """The stream table entry of ``sid`` as it stands, valid or not; the answer has a reason if none can be read."""
    line = lookup.caches.stes.get(sid) if lookup.caches is not None else None
    if line is None:
        return _ste_from_memory(lookup, sid)
    lookup.tell("stream table entry", line.at, line.words, STE, STE_CACHE)
    return line


def _ste_from_memory(lookup: Lookup, sid: int) -> SteLine | Blocked:
    at = _ste_address(lookup, sid)
    if isinstance(at, Blocked):
        return at
    try:
        words = lookup.read("stream table entry", at, STE)
    except BusError:
        return Blocked(SmmuEvent.F_STE_FETCH, fetch=at)
    line = SteLine.of(words, at, lookup.rules)
    if lookup.keep and lookup.caches is not None:
        lookup.caches.stes[sid] = line
    return line


def _ste_address(lookup: Lookup, sid: int) -> int | Blocked:
    base, bits, split = lookup.streams
    if sid >> bits:
        return Blocked(SmmuEvent.C_BAD_STREAMID)
    if not split:
        return base + sid * _STE_SIZE
    descriptor = _stream_descriptor(lookup, base, sid >> split)
    if isinstance(descriptor, Blocked):
        return descriptor
    span = descriptor.word & _SPAN
    number = sid & (1 << split) - 1
    if not 0 < span <= split + 1 or number >> span - 1:
        return Blocked(SmmuEvent.C_BAD_STREAMID)
    return (descriptor.word & _STREAM_LEAF & -(_STE_SIZE << span - 1)) + number * _STE_SIZE


def _stream_descriptor(lookup: Lookup, base: int, number: int) -> Descriptor | Blocked:
    """The entry of the first level, from its cache or from memory."""
    kept = lookup.caches.streams.get(number) if lookup.caches is not None else None
    if kept is not None:
        lookup.tell("stream table descriptor", kept.at, (kept.word,), STREAM_TABLE_DESC, STREAM_TABLE_CACHE)
        return kept
    at = base + number * 8
    try:
        (word,) = lookup.read("stream table descriptor", at, STREAM_TABLE_DESC)
    except BusError:
        return Blocked(SmmuEvent.F_STE_FETCH, fetch=at)
    found = Descriptor(word, at)
    if lookup.keep and lookup.caches is not None:
        lookup.caches.streams[number] = found
    return found


# --- context descriptors ----------------------------------------------------------------------------------------------


def context_number(ste: SteLine, pasid: int | None) -> int | Blocked | None:
    """Which context descriptor serves a transaction: its number, none (stage 1 is bypassed), or why it is refused.

    This is the whole of the table "Where a transaction has none, S1DSS decides" in facts/hardware.md 3.
    """
    if not ste.stage1:
        return None if pasid is None else Blocked(SmmuEvent.C_BAD_SUBSTREAMID)
    if pasid is None:
        if not ste.cdmax or ste.dss == _USE_CD_0:
            return 0
        return None if ste.dss == _BYPASS else Blocked(SmmuEvent.F_STREAM_DISABLED)
    if not ste.cdmax or pasid >> ste.cdmax:
        return Blocked(SmmuEvent.C_BAD_SUBSTREAMID)
    if not pasid and ste.dss == _USE_CD_0:
        return Blocked(SmmuEvent.F_STREAM_DISABLED)
    return pasid


_BYPASS, _USE_CD_0 = 1, 2
"""Values of S1DSS."""


def find_cd(lookup: Lookup, sid: int, ste: SteLine, number: int) -> CdLine | Blocked:
    """Context descriptor ``number`` of a stream; one that is ILLEGAL is an answer with a reason (C_BAD_CD)."""
    line = read_cd(lookup, sid, ste, number)
    return Blocked(SmmuEvent.C_BAD_CD) if isinstance(line, CdLine) and line.bad else line


def read_cd(lookup: Lookup, sid: int, ste: SteLine, number: int) -> CdLine | Blocked:
    """Context descriptor ``number`` as it stands, valid or not; the answer has a reason if none can be read."""
    line = lookup.caches.cds.get((sid, number)) if lookup.caches is not None else None
    if line is None:
        return _cd_from_memory(lookup, sid, ste, number)
    lookup.tell("context descriptor", line.at, line.words, CD, CD_CACHE)
    return line


def _cd_from_memory(lookup: Lookup, sid: int, ste: SteLine, number: int) -> CdLine | Blocked:
    address = _cd_address(lookup, sid, ste, number)
    if isinstance(address, Blocked):
        return address
    at = _through(lookup, ste, address)
    if isinstance(at, Blocked):
        return at
    try:
        words = lookup.read("context descriptor", at, CD)
    except BusError:
        return Blocked(SmmuEvent.F_CD_FETCH, fetch=at)
    line = CdLine.of(words, at, address, ste, lookup.rules)
    if lookup.keep and lookup.caches is not None:
        lookup.caches.cds[sid, number] = line
    return line


def _through(lookup: Lookup, ste: SteLine, address: int) -> int | Blocked:
    return lookup.walker.intermediate(ste, address, lookup.trace, lookup.caches, lookup.keep)


def _cd_address(lookup: Lookup, sid: int, ste: SteLine, number: int) -> int | Blocked:
    """Where a context descriptor is (an intermediate physical address when stage 2 is on)."""
    if not ste.split:
        return context_table(ste) + number * _CD_SIZE
    descriptor = _context_descriptor(lookup, sid, ste, context_table(ste), number >> ste.split)
    if isinstance(descriptor, Blocked):
        return descriptor
    leaf = leaf_address(ste, descriptor.word)
    if leaf is None or leaf >= lookup.rules.oas_limit:
        return Blocked(SmmuEvent.C_BAD_SUBSTREAMID)
    return leaf + (number & (1 << ste.split) - 1) * _CD_SIZE


def context_table(ste: SteLine) -> int:
    """Where a stream's context descriptor table begins: the first level of a two-level one. Aligned to its size."""
    return ste.context & -(8 << max(3, ste.cdmax - ste.split) if ste.split else _CD_SIZE << ste.cdmax)


def leaf_address(ste: SteLine, word: int) -> int | None:
    """Where the leaf is that an entry of the first level names, if it is valid."""
    return word & _CONTEXT_LEAF & -(_CD_SIZE << ste.split) if word & 1 else None


def _context_descriptor(lookup: Lookup, sid: int, ste: SteLine, table: int, number: int) -> Descriptor | Blocked:
    """The entry of the first level, from its cache or from memory."""
    kept = lookup.caches.contexts.get((sid, number)) if lookup.caches is not None else None
    if kept is not None:
        lookup.tell("context descriptor table entry", kept.at, (kept.word,), CD_TABLE_DESC, CD_TABLE_CACHE)
        return kept
    at = _through(lookup, ste, table + number * 8)
    if isinstance(at, Blocked):
        return at
    try:
        (word,) = lookup.read("context descriptor table entry", at, CD_TABLE_DESC)
    except BusError:
        return Blocked(SmmuEvent.F_CD_FETCH, fetch=at)
    found = Descriptor(word, at)
    if lookup.keep and lookup.caches is not None:
        lookup.caches.contexts[sid, number] = found
    return found
