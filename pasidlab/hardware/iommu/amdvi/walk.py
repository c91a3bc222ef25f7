"""From the GCR3 entry to the page: guest (v2) and host (v1) page tables, alone and combined.

Models the page-table part of a translation. When a guest table and a host table are both there, every guest-physical
address goes through the host table: CR3 and each pointer in the guest table, the page itself, and with GCR3TRPMode the
GCR3 tables too. Follows facts/hardware.md section 4, Linux 6.1 ``drivers/iommu/amd/io_pgtable.c`` (NextLevel, coded
sizes, skipped levels) and ``io_pgtable_v2.c``.

One walker serves real requests and questions. An outcome is one number: the address, or minus the reason, so that the
fast path makes no objects. With ``trace`` the stops are written down; without ``commit`` nothing is stored in memory.
With ``caches`` a translation that was granted before is taken from the TLB, and a walk starts below the lowest kept
entry; a walk with ``commit`` leaves behind what it has learnt.

Permissions are those of all entries on the way together; they are looked at when the page is found, so that an entry
which is not present is told before one that denies (the processor's rule; for host tables UNVERIFIED). Accessed and
dirty bits of a guest table are set when the guest table has granted the access, before the page goes through the host
table; that needs the host table's permission to write to the guest's table. Accessed bits are set in every entry on
the way. UNVERIFIED: supervisor writes obey RW (as with CR0.WP=1), requests without PASID count as user requests,
NX is ignored without EFR.NX; host accessed and dirty bits follow DTE.HAD bit by bit (bit 7 accessed, bit 8 dirty) on a
unit with HASUP and HDSUP; address bits that a skipped level would translate must be zero, else the page is not present.

A fault of the host table on the way of a request with PASID is told with the guest-physical address and the domain id
(GN=0; UNVERIFIED), because that is what the owner of the host table needs.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.amdvi.caches import (
    HOST,
    PAGING_CACHE,
    TLB,
    TLB_ENTRY,
    AmdCaches,
    DteLine,
    Gcr3Line,
    PagingLine,
    Translation,
)
from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS, CODED_SIZE, HOST_SHIFT, LEAF, AmdRules, leaf_shift
from pasidlab.hardware.iommu.amdvi.tables import Lookup, find_gcr3
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.layouts.amd import V1_PTE, V2_PTE
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import Access, DmaRequest

__all__ = ["EXECUTE", "NEEDS", "READ", "WRITE", "AmdWalker", "Errand"]

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4

NEEDS: Final = {
    Access.READ: READ,
    Access.WRITE: WRITE,
    Access.EXECUTE: READ | EXECUTE,
    Access.ATOMIC: READ | WRITE,
}
"""The permissions that each access needs, as bits; a host table knows reading and writing only."""

_A, _D = 1 << 5, 1 << 6
_RW, _US, _PSE, _NX = 1 << 1, 1 << 2, 1 << 7, 1 << 63
_ALL_RIGHTS: Final = _RW | _US
_HAD_A, _HAD_D = 1, 2
_NEXT_LEVEL: Final = 7 << 9
_NAMES_PAGE: Final = (LEAF, CODED_SIZE)

_Unmarked = list[tuple[int, int, int]]
"""Guest entries that lack accessed or dirty bits: the address by which each is named, where it lies, the bits."""

_Level = tuple[int, int, int, int]
"""One level of a guest table: its number, the reserved bits of an entry that names a table and of a leaf, the bits of
an address within a page of this level.
"""

_Start = tuple[int, int, tuple[_Level, ...]]
"""Where a walk begins: the table, the rights of everything above it, the levels that are left."""


def _levels(depth: int, rules: AmdRules, reserved: int) -> tuple[_Level, ...]:
    leaf = rules.guest_leaf
    return tuple(
        (level, reserved, reserved | leaf[level], (1 << HOST_SHIFT[level]) - 1) for level in range(depth, 0, -1)
    )


class Errand:
    """One walk: who asks for what, whether it really happens, and what came out beside the address.

    ``pasid`` is the one that is looked up (0 for a request without PASID that GIOV sends to the guest table), ``None``
    for host translation alone. ``where`` is set when the host table was at fault: the address that it was asked for.
    ``guest_shift`` and ``host_shift`` are log2 of the page that each table named last. ``keeps`` are the caches that
    learn from it.
    """

    __slots__ = (
        *("address", "caches", "commit", "guest_shift", "host_shift", "keeps", "line"),
        *("lookup", "need", "pasid", "privileged", "trace", "where"),
    )

    def __init__(self, lookup: Lookup, line: DteLine, request: DmaRequest, pasid: int | None) -> None:
        self.lookup, self.line, self.pasid = lookup, line, pasid
        self.address, self.need = request.address, NEEDS[request.access]
        self.privileged = request.privileged and request.pasid is not None
        self.commit, self.caches, self.trace = lookup.keep, lookup.caches, lookup.trace
        self.keeps = lookup.caches if lookup.keep else None
        self.where: int | None = None
        self.guest_shift = self.host_shift = 0


class AmdWalker:
    """Walks the page tables in one memory by one unit's rules."""

    __slots__ = ("_alone", "_load", "_memory", "_nested", "_rules")

    def __init__(self, memory: Memory, rules: AmdRules) -> None:
        self._memory, self._rules, self._load = memory, rules, memory.load
        self._alone = {depth: _levels(depth, rules, rules.wide) for depth in (4, 5)}
        self._nested = {depth: _levels(depth, rules, 0) for depth in (4, 5)}

    def resolve(self, errand: Errand) -> int:
        """The address that the errand's address leads to under a valid device table entry, or minus a reason."""
        line, address, need = errand.line, errand.address, errand.need & 3
        if need & ~line.allowed:
            return -Reason.DTE_DENIED
        if errand.pasid is None:
            if line.mode:
                return self._host(errand, address, need)
            return address if address < self._rules.limit else -Reason.BEYOND
        return self._combined(errand, errand.pasid, address)

    def _combined(self, errand: Errand, pasid: int, address: int) -> int:
        """Through the guest table, and through the host table if there is one."""
        line, asked = errand.line, errand.need << 3 if errand.privileged else errand.need
        if errand.caches is not None:
            kept = _kept(errand, errand.caches, pasid, address, asked)
            if kept is not None:
                return kept
        found = self.gcr3(errand, pasid)
        if isinstance(found, Reason):
            return -found
        outcome = self._guest(errand, pasid, found.word & ADDRESS)
        if outcome < 0:
            return outcome
        if line.mode:
            outcome = self._host(errand, outcome, errand.need & 3)
        if errand.keeps is not None and outcome >= 0:
            granted = Translation(outcome & ~0xFFF, asked, errand.guest_shift)
            errand.keeps.keep(line.did, pasid, address >> 12, granted)
        return outcome

    def gcr3(self, errand: Errand, pasid: int) -> Gcr3Line | Reason:
        """The GCR3 entry of a PASID, in tables that are system-physical, or guest-physical by GCR3TRPMode."""
        guest_physical = errand.lookup.guest_tables and errand.line.mode
        through = partial(self._host, errand, need=READ) if guest_physical else None
        return find_gcr3(errand.lookup, errand.line, pasid, through)

    def through_host(self, errand: Errand, address: int) -> int:
        """Where a guest-physical address lies by the host table, or minus a reason."""
        return self._host(errand, address, READ)

    # --- host tables --------------------------------------------------------------------------------------------------

    def _host(self, errand: Errand, address: int, need: int) -> int:
        """The system-physical address, or minus a reason, which is then explained by ``errand.where``."""
        if errand.caches is not None:
            kept = _kept(errand, errand.caches, HOST, address, need)
            if kept is not None:
                return kept
        outcome = self._host_walk(errand, address, need)
        if outcome < 0:
            errand.where = address
        elif errand.keeps is not None:
            found = Translation(outcome & ~0xFFF, need | need << 3, errand.host_shift)
            errand.keeps.keep(errand.line.did, HOST, address >> 12, found)
        return outcome

    def _host_walk(self, errand: Errand, address: int, need: int) -> int:
        line, load, checked, trace = errand.line, self._load, self._rules.host | 1, errand.trace
        table, level, rights = line.root, line.mode, READ | WRITE
        if address >> HOST_SHIFT[level + 1]:
            return -Reason.HOST_BEYOND
        if errand.caches is not None:
            table, level, rights = _begin_host(errand, errand.caches, address, need)
            if table < 0:
                return table
        keeps, marks, used = errand.keeps, line.had, list[int]()
        while True:
            at = table + (address >> 9 * level & 0xFF8)
            try:
                word = load(at)
            except BusError:
                return -Reason.HOST_UNREADABLE
            if trace is not None:
                trace.append(Stop("second", "host entry", at, (word,), V1_PTE, level))
            if word & checked != 1:
                return -(Reason.HOST_RESERVED if word & 1 else Reason.HOST_ABSENT)
            rights &= word >> 61
            if marks:
                used.append(at)
            below = (word & _NEXT_LEVEL) >> 9
            if below in _NAMES_PAGE:
                return self._host_page(errand, address, need, word, level, need & ~rights, used)
            if below != level - 1 and (reason := _illegal_step(address, level, below)):
                return -reason
            if keeps is not None:
                keeps.paging[line.did, HOST, level, address >> HOST_SHIFT[level]] = PagingLine(word, at, rights)
            table, level = word & ADDRESS, below

    def _host_page(
        self, errand: Errand, address: int, need: int, word: int, level: int, denied: int, used: list[int]
    ) -> int:
        """What a leaf makes of an address; ``denied`` are rights that some entry on the way (``used``) lacks."""
        shift = leaf_shift(word, level) if word & _NEXT_LEVEL else HOST_SHIFT[level]
        if shift is None:
            return -Reason.HOST_LEVEL
        if denied:
            return -Reason.HOST_DENIED
        inside = (1 << shift) - 1
        outcome = word & ADDRESS & ~inside | address & inside
        if outcome >= self._rules.limit:
            return -Reason.BEYOND
        if errand.line.had and errand.commit and not self._mark_host(errand.line, used, need):
            return -Reason.HOST_UNREADABLE
        errand.host_shift = shift
        return outcome

    def _mark_host(self, line: DteLine, used: list[int], need: int) -> bool:
        """Set accessed and dirty bits as DTE.HAD asks; whether that went well."""
        card = self._rules.identity
        accessed = _A if line.had & _HAD_A and card.hasup else 0
        dirty = _D if line.had & _HAD_D and card.hdsup and need & WRITE else 0
        marks = [(at, accessed) for at in used[:-1]] + [(at, accessed | dirty) for at in used[-1:]]
        return all(self._mark(at, bits) for at, bits in marks)

    # --- guest tables -------------------------------------------------------------------------------------------------

    def _guest(self, errand: Errand, pasid: int, cr3: int) -> int:
        """The outcome of the guest table; it is guest-physical when there is a host table."""
        address, line, depth = errand.address, errand.line, errand.line.levels
        top = address >> HOST_SHIFT[depth + 1] - 1
        if top and top != (1 << 65 - HOST_SHIFT[depth + 1]) - 1:
            return -Reason.GUEST_NOT_CANONICAL
        asked = (_RW if errand.need & WRITE else 0) | (0 if errand.privileged else _US)
        forbidden = _NX if errand.need & EXECUTE and self._rules.identity.nx else 0
        table, rights, levels = cr3, _ALL_RIGHTS, self._nested[depth] if line.mode else self._alone[depth]
        above = errand.caches.table_above(line.did, pasid, address, depth) if errand.caches is not None else None
        if above is not None and not (asked & ~above[1].rights or forbidden & above[1].rights):
            _tell_above(errand, "first", "guest entry", above)
            table, rights, levels = above[1].word & ADDRESS, above[1].rights, levels[1 - above[0] :]
        unmarked: _Unmarked = []
        outcome, rights = self._guest_walk(errand, pasid, (table, rights, levels), unmarked)
        if outcome < 0:
            return outcome
        if asked & ~rights or forbidden & rights:
            return -Reason.GUEST_DENIED
        return self._mark_guest(errand, unmarked) or outcome

    def _guest_walk(self, errand: Errand, pasid: int, start: _Start, unmarked: _Unmarked) -> tuple[int, int]:
        """The outcome, and the rights of all entries on the way."""
        address, line, load, trace, keeps = errand.address, errand.line, self._load, errand.trace, errand.keeps
        nested, marks, (table, rights, levels) = line.mode, _A | _D if errand.need & WRITE else _A, start
        for level, table_mask, leaf_mask, inside in levels:
            named = at = table + (address >> 9 * level & 0xFF8)
            if nested and (at := self._host(errand, named, READ)) < 0:
                return at, 0
            try:
                word = load(at)
            except BusError:
                return -Reason.GUEST_UNREADABLE, 0
            if trace is not None:
                trace.append(Stop("first", "guest entry", at, (word,), V2_PTE, level))
            leaf = level == 1 or word & _PSE
            if not word & 1 or word & (leaf_mask if leaf else table_mask):
                return -(Reason.GUEST_RESERVED if word & 1 else Reason.GUEST_ABSENT), 0
            rights = rights & word | (rights | word) & _NX
            bits = marks if leaf else _A
            if word & bits != bits:
                unmarked.append((named, at, bits))
            if leaf:
                errand.guest_shift = HOST_SHIFT[level]
                return word & ADDRESS & ~inside | address & inside, rights
            table = word & ADDRESS
            if keeps is not None:
                keeps.paging[line.did, pasid, level, address >> HOST_SHIFT[level]] = PagingLine(word, at, rights)
        raise AssertionError("level 1 is always a leaf")

    def _mark_guest(self, errand: Errand, unmarked: _Unmarked) -> int:
        """Set accessed and dirty bits; 0, or minus the reason why that cannot be."""
        for named, at, bits in unmarked:
            if errand.line.mode:
                failed = self._writable(errand, named)
                if failed < 0:
                    return failed
            if errand.commit and not self._mark(at, bits):
                return -Reason.GUEST_UNREADABLE
        return 0

    def _writable(self, errand: Errand, named: int) -> int:
        """May the unit write to this guest-physical address?"""
        before = len(errand.trace) if errand.trace is not None else 0
        outcome = self._host(errand, named, WRITE)
        if errand.trace is not None:
            errand.trace[before:] = [stop._replace(stage="mark") for stop in errand.trace[before:]]
        return outcome

    def _mark(self, at: int, bits: int) -> bool:
        """Set bits by an atomic read-modify-write: what others have set meanwhile stays."""
        try:
            word = self._load(at)
            if word | bits != word:
                self._memory.store(at, word | bits)
        except BusError:
            return False
        return True


def _illegal_step(address: int, level: int, below: int) -> Reason | None:
    """Why an entry of ``level`` cannot name a table of level ``below`` for this address."""
    if below >= level:
        return Reason.HOST_LEVEL
    skipped = HOST_SHIFT[level] - HOST_SHIFT[below + 1]
    return Reason.HOST_ABSENT if address >> HOST_SHIFT[below + 1] & (1 << skipped) - 1 else None


def _kept(errand: Errand, caches: AmdCaches, tag: int, address: int, asked: int) -> int | None:
    """The address that the TLB knows, if it grants the access."""
    did = errand.line.did
    found = caches.tlb.get((did, tag, address >> 12))
    if found is None or asked & ~found.granted:
        return None
    if errand.trace is not None:
        words = caches.words_of((did, tag, address >> 12))
        stage = "second" if tag == HOST else "first"
        errand.trace.append(Stop(stage, "translation", found.page, words, TLB_ENTRY, cache=TLB))
    return found.page | address & 0xFFF


def _begin_host(errand: Errand, caches: AmdCaches, address: int, need: int) -> tuple[int, int, int]:
    """Table, level and rights below the lowest entry that was kept, if its rights are enough, else at the top.

    Minus a reason in place of the table, when the entry does not fit the address.
    """
    line = errand.line
    above = caches.table_above(line.did, HOST, address, line.mode)
    if above is None or need & ~above[1].rights:
        return line.root, line.mode, READ | WRITE
    _tell_above(errand, "second", "host entry", above)
    level, kept = above
    below = (kept.word & _NEXT_LEVEL) >> 9
    reason = _illegal_step(address, level, below)
    return kept.word & ADDRESS if reason is None else -reason, below, kept.rights


def _tell_above(errand: Errand, stage: str, name: str, above: tuple[int, PagingLine]) -> None:
    """Write down that a paging-structure cache answered."""
    if errand.trace is not None:
        level, line = above
        layout = V1_PTE if stage == "second" else V2_PTE
        errand.trace.append(Stop(stage, name, line.at, (line.word,), layout, level, PAGING_CACHE))
