"""From the PASID entry to the page: first-level, second-level and nested walks, and pass-through.

Models steps 8 and later of a scalable-mode translation. In a nested walk the first level's root and every pointer in
it are guest-physical: each table access goes through the second level, and so does the page, up to 24 reads for 4
over 4 levels. Follows Linux 6.1 ``dmar.c`` (the reason strings), recent QEMU (the order of checks within an entry:
present, permission, reserved), VBox/iommu-intel.h.

One walker serves real requests and questions. An outcome is one number: the address, or minus the fault reason, so
that the fast path makes no objects. With ``trace`` the stops are written down; without ``commit`` nothing is stored
in memory.

With ``caches`` a translation that was granted before is taken from the IOTLB, and a walk starts below the lowest kept
paging-structure entry; a walk with ``commit`` leaves behind what it has learnt.

Accessed and dirty bits are set entry by entry, as the walk passes. "Walks snoop" means PWSNP=1 on a unit with
ECAP.SMPWCS; a walk that does not snoop cannot set them (0x90, 0x7c). UNVERIFIED: 0x83 and 0x87 for pass-through; a
reserved bit in the second level keeps its code 0x7a when it is met on the way to a first-level table. First-level
addresses beyond the host width are reserved bits (0x72), hence 0x83 cannot occur there. Left out: SMEP, memory types.
"""

from __future__ import annotations

from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.vtd.caches import (
    IOTLB,
    IOTLB_ENTRY,
    PAGING_CACHE,
    SECOND_LEVEL,
    PagingLine,
    PasidLine,
    Translation,
    VtdCaches,
)
from pasidlab.hardware.iommu.vtd.faults import FaultReason as Reason
from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.iommu.vtd.rules import ADDRESS, PT_SHIFT, VtdRules, is_interrupt_address
from pasidlab.hardware.iommu.vtd.tables import Trace
from pasidlab.hardware.layouts.vtd import FL_ENTRY, SL_ENTRY
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import Access

__all__ = ["NEEDS", "VtdWalker"]

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4

NEEDS: Final = {
    Access.READ: READ,
    Access.WRITE: WRITE,
    Access.EXECUTE: READ | EXECUTE,
    Access.ATOMIC: READ | WRITE,
}
"""The permissions that each access needs, as bits; reading and writing are bits 0 and 1 of a second-level entry."""

_TABLE: Final = ~0xFFF
_PS: Final = 1 << 7
_SL_A, _SL_D = 1 << 8, 1 << 9
_FL_RW, _FL_US, _FL_A, _FL_D, _FL_EA, _FL_XD = 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 10, 1 << 63
_ALL_RIGHTS: Final = 7

# What a second-level fault becomes on the way to a first-level table: the top one, a lower one, and a store into one.
_TOP: Final = {
    Reason.SSS_2: Reason.SFS_6,
    Reason.SGN_7: Reason.SFS_6,
    Reason.SSS_1: Reason.SFS_4,
    Reason.SSS_4: Reason.SFS_4,
    Reason.SGN_5: Reason.SFS_5,
}
_LOWER: Final = {
    Reason.SSS_2: Reason.SFS_7,
    Reason.SGN_7: Reason.SFS_7,
    Reason.SSS_1: Reason.SFS_1,
    Reason.SSS_4: Reason.SFS_1,
    Reason.SGN_5: Reason.SFS_5,
}

# One level of a walk: its number, the shift that leaves the entry's byte offset, the reserved bits of an entry that
# names a table and of a leaf, the bits of an address within a page of this level.
_Level = tuple[int, int, int, int, int]


def _levels(depth: int, table: tuple[int, ...], leaf: tuple[int, ...]) -> tuple[_Level, ...]:
    return tuple(
        (level, PT_SHIFT[level] - 3, table[level], leaf[level], (1 << PT_SHIFT[level]) - 1)
        for level in range(depth, 0, -1)
    )


class _Second:
    """The second level that one PASID entry names."""

    __slots__ = ("ad", "did", "levels", "limit", "root", "snooped")

    def __init__(self, line: PasidLine, levels: tuple[_Level, ...], limit: int, ad: bool, snooped: bool) -> None:
        self.root, self.did = line.words[0] & _TABLE, line.did
        self.levels, self.limit, self.ad, self.snooped = levels, limit, ad, snooped


class _Walk:
    """One walk: what is asked, whether it happens, and the level of the first-level entry that named the page.

    ``keeps`` are the caches that learn from it. ``shared``: every PASID entry with the same tag would grant it.
    """

    __slots__ = ("caches", "commit", "keeps", "level", "line", "need", "privileged", "shared", "trace")

    def __init__(
        self, line: PasidLine, need: int, privileged: bool, commit: bool, trace: Trace, caches: VtdCaches | None
    ) -> None:
        self.line, self.need, self.privileged = line, need, privileged
        self.commit, self.trace, self.caches = commit, trace, caches
        self.keeps = caches if commit else None
        self.level = 1
        self.shared = True


class VtdWalker:
    """Walks the page tables in one memory by one unit's rules."""

    __slots__ = ("_first", "_limits", "_load", "_memory", "_nested", "_rules", "_second")

    def __init__(self, memory: Memory, rules: VtdRules) -> None:
        self._memory, self._rules, self._load = memory, rules, memory.load
        self._first = {depth: _levels(depth, rules.first_table, rules.first_leaf) for depth in (4, 5)}
        self._nested = {depth: _levels(depth, rules.nested_table, rules.nested_leaf) for depth in (4, 5)}
        self._second = {depth: _levels(depth, rules.second_table, rules.second_leaf) for depth in (3, 4, 5)}
        self._limits = {depth: min(rules.mgaw_limit, 1 << PT_SHIFT[depth] + 9) for depth in (3, 4, 5)}

    def resolve(
        self,
        line: PasidLine,
        address: int,
        access: Access,
        privileged: bool = False,
        commit: bool = False,
        trace: Trace = None,
        caches: VtdCaches | None = None,
    ) -> int:
        """The address that ``address`` leads to under a valid PASID entry, or minus a fault reason."""
        need, third = NEEDS[access], line.words[2]
        if need & EXECUTE and not third & 2:
            return -Reason.SPT_5
        if privileged and not third & 1:
            return -Reason.SPT_6
        pgtt = line.words[0] >> 6 & 7
        if pgtt == 4:
            outcome = address if address < self._rules.haw_limit else -Reason.SGN_4
        else:
            walk = _Walk(line, need, privileged, commit, trace, caches)
            second = None if pgtt == 1 else self._second_of(line)
            if pgtt == 2 and second is not None:
                outcome = self._walk_second(walk, second, address, need)
            else:
                outcome = self._first_or_nested(walk, second, address)
        return -Reason.SGN_8 if outcome >= 0 and is_interrupt_address(outcome) else outcome

    def _second_of(self, line: PasidLine) -> _Second:
        first = line.words[0]
        depth = self._rules.depths[first >> 2 & 7]
        ad = bool(first >> 9 & 1) and self._rules.identity.ssads
        return _Second(line, self._second[depth], self._limits[depth], ad, self._snooped(line.words))

    def _snooped(self, words: tuple[int, ...]) -> bool:
        return bool(words[1] >> 23 & 1) and self._rules.identity.smpwcs

    def _first_or_nested(self, walk: _Walk, second: _Second | None, address: int) -> int:
        """A first-level or nested translation: the IOTLB's, or that of a walk, which the IOTLB then keeps."""
        line, asked = walk.line, walk.need << 3 if walk.privileged else walk.need
        kept = _kept(walk, line.tag, address, asked)
        if kept is not None:
            return kept
        outcome = self._walk_first(walk, second, address)
        if second is not None and outcome >= 0:
            outcome = self._walk_second(walk, second, outcome, walk.need & 3)
        if walk.keeps is not None and walk.shared and outcome >= 0 and not is_interrupt_address(outcome):
            walk.keeps.keep(line.did, line.tag, address >> 12, Translation(outcome & _TABLE, asked, walk.level))
        return outcome

    # --- second level ---------------------------------------------------------------------------------------------

    def _walk_second(self, walk: _Walk, second: _Second, address: int, need: int) -> int:
        if address >= second.limit:
            return -Reason.SGN_5
        load, keeps, trace, did, bits = self._load, walk.keeps, walk.trace, second.did, need & 3
        table, rights, levels = whole = second.root, _ALL_RIGHTS, second.levels
        if walk.caches is not None:
            kept = _kept(walk, SECOND_LEVEL, address, need)
            if kept is not None:
                return kept
            table, rights, levels = _begin(walk, SECOND_LEVEL, address, whole, bits)
        for level, shift, table_mask, leaf_mask, offset in levels:
            at = table + (address >> shift & 0xFF8)
            try:
                word = load(at)
            except BusError:
                return -(Reason.SSS_4 if level == len(second.levels) else Reason.SSS_1)
            if trace is not None:
                trace.append(Stop("second", "second-level entry", at, (word,), SL_ENTRY, level))
            if word & bits != bits or not word & 3:
                return _denied_by_second(keeps, did, address, word, bits)
            leaf = level == 1 or word & _PS
            if word & (leaf_mask if leaf else table_mask):
                return -Reason.SSS_3
            if second.ad and (reason := self._mark_second(second, at, word, bool(leaf) and bits & WRITE, walk.commit)):
                return -reason
            if leaf:
                outcome = word & ADDRESS & ~offset | address & offset
                return outcome if keeps is None else _keep_second(keeps, did, address, outcome, need | need << 3, level)
            table = word & ADDRESS
            if keeps is not None:
                rights &= word
                keeps.paging[did, SECOND_LEVEL, level, address >> PT_SHIFT[level]] = PagingLine(word, at, rights)
        raise AssertionError("level 1 is always a leaf")

    def _mark_second(self, second: _Second, at: int, word: int, dirty: int, commit: bool) -> Reason | None:
        marked = word | _SL_A | (_SL_D if dirty else 0)
        if marked == word:
            return None
        if not second.snooped:
            return Reason.SSS_5
        return self._mark(at, marked & ~word, Reason.SSS_6, commit)

    # --- first level ----------------------------------------------------------------------------------------------

    def _walk_first(self, walk: _Walk, second: _Second | None, address: int) -> int:
        words, need, trace, keeps = walk.line.words, walk.need, walk.trace, walk.keeps
        third = words[2]
        depth = 5 if third >> 2 & 3 else 4
        top = address >> PT_SHIFT[depth] + 8
        if top and top != (1 << 56 - PT_SHIFT[depth]) - 1:
            return -Reason.SGN_1
        load = self._load
        accessed = _FL_A | _FL_EA if third >> 7 & 1 and self._rules.identity.eafs else _FL_A
        granted = self._rights_needed(walk)
        no_execute = need & EXECUTE and (third >> 5 & 1 or self._rules.identity.revision is Revision.V4_1)
        whole = third & _TABLE, _ALL_RIGHTS, self._first[depth] if second is None else self._nested[depth]
        line, forbidden = walk.line, _FL_XD if no_execute else 0
        table, rights, levels = _begin(walk, line.tag, address, whole, granted, forbidden)
        for level, shift, table_mask, leaf_mask, offset in levels:
            at = guest_at = table + (address >> shift & 0xFF8)
            if second is not None and (at := self._walk_second(walk, second, guest_at, READ)) < 0:
                return _on_the_way(at, level == depth)
            try:
                word = load(at)
            except BusError:
                return -(Reason.SFS_4 if level == depth else Reason.SFS_1)
            if trace is not None:
                trace.append(Stop("first", "first-level entry", at, (word,), FL_ENTRY, level))
            if word & granted != granted or (no_execute and word >> 63):
                return -_first_level_denies(word, granted)
            leaf = level == 1 or word & _PS
            if word & (leaf_mask if leaf else table_mask):
                return -Reason.SFS_3
            bits = accessed | _FL_D if leaf and need & WRITE else accessed
            if word & bits != bits:
                reason = self._mark_first(walk, second, guest_at, at, bits)
                if reason is not None:
                    return -reason
            if leaf:
                walk.level, walk.shared = level, _granted_to_all(rights & word | (rights | word) & _FL_XD, need)
                return word & ADDRESS & ~offset | address & offset
            table = word & ADDRESS
            rights = rights & word | (rights | word) & _FL_XD
            if keeps is not None:
                keeps.paging[line.did, line.tag, level, address >> PT_SHIFT[level]] = PagingLine(word, at, rights)
        raise AssertionError("level 1 is always a leaf")

    def _rights_needed(self, walk: _Walk) -> int:
        """The bits that must be set in every first-level entry on the way."""
        granted = 1 | (0 if walk.privileged else _FL_US)
        if walk.need & WRITE and (not walk.privileged or walk.line.words[2] >> 4 & 1):
            granted |= _FL_RW
        return granted

    def _mark_first(self, walk: _Walk, second: _Second | None, guest_at: int, at: int, bits: int) -> Reason | None:
        """Set accessed and dirty; in a nested walk the second level must let the unit write to the table."""
        if not self._snooped(walk.line.words):
            return Reason.SFS_9
        if second is not None:
            before = len(walk.trace) if walk.trace is not None else 0
            outcome = self._walk_second(walk, second, guest_at, WRITE)
            if walk.trace is not None:
                walk.trace[before:] = [stop._replace(stage="mark") for stop in walk.trace[before:]]
            if outcome < 0:
                return Reason.SFS_8 if -outcome == Reason.SGN_6 else Reason.of(-outcome)
        return self._mark(at, bits, Reason.SFS_10, walk.commit)

    def _mark(self, at: int, bits: int, failed: Reason, commit: bool) -> Reason | None:
        """Set bits by an atomic read-modify-write: what others have set meanwhile stays."""
        if commit:
            try:
                self._memory.store(at, self._load(at) | bits)
            except BusError:
                return failed
        return None


def _kept(walk: _Walk, tag: int, address: int, asked: int) -> int | None:
    """What the IOTLB says: an address, minus a reason (caching mode), or nothing."""
    did, caches = walk.line.did, walk.caches
    if caches is None:
        return None
    found = caches.iotlb.get((did, tag, address >> 12))
    if found is None or asked & ~found.granted:
        return None
    if walk.trace is not None:
        words = caches.words_of((did, tag, address >> 12))
        stage = "second" if tag == SECOND_LEVEL else "first"
        walk.trace.append(Stop(stage, "translation", max(found.page, 0), words, IOTLB_ENTRY, found.level, IOTLB))
    return found.page | address & 0xFFF if found.page >= 0 else found.page


_Start = tuple[int, int, tuple[_Level, ...]]
"""Where a walk begins: the table, the rights of everything above it, the levels that are left."""


def _begin(walk: _Walk, tag: int, address: int, whole: _Start, needed: int, forbidden: int = 0) -> _Start:
    """Begin below the lowest entry that was kept, if its rights are enough, else at the top (``whole``)."""
    caches = walk.caches
    above = caches.table_above(walk.line.did, tag, address, len(whole[2])) if caches is not None else None
    if above is None or needed & ~above[1].rights or forbidden & above[1].rights:
        return whole
    level, kept = above
    if walk.trace is not None:
        stage, layout = ("second", SL_ENTRY) if tag == SECOND_LEVEL else ("first", FL_ENTRY)
        walk.trace.append(Stop(stage, f"{stage}-level entry", kept.at, (kept.word,), layout, level, PAGING_CACHE))
    return kept.word & ADDRESS, kept.rights, whole[2][1 - level :]


def _keep_second(keeps: VtdCaches, did: int, address: int, outcome: int, granted: int, level: int) -> int:
    """Keep what the second level has granted; returns the ``outcome``."""
    if not is_interrupt_address(outcome):
        keeps.keep(did, SECOND_LEVEL, address >> 12, Translation(outcome & _TABLE, granted, level))
    return outcome


def _denied_by_second(keeps: VtdCaches | None, did: int, address: int, word: int, bits: int) -> int:
    """Why the second level says no; in caching mode a page that is not present is kept as such."""
    if word & 3:
        return -(Reason.SGN_6 if bits & ~word & WRITE else Reason.SGN_7)
    if keeps is not None and keeps.keeps_absent:
        keeps.keep(did, SECOND_LEVEL, address >> 12, Translation(-Reason.SSS_2, bits | bits << 3, 1))
    return -Reason.SSS_2


def _granted_to_all(rights: int, need: int) -> bool:
    """Whether the tables alone grant an access, and not only WPE=0 or NXE=0 in the PASID entry."""
    return not ((need & WRITE and not rights & _FL_RW) or (need & EXECUTE and rights & _FL_XD))


def _first_level_denies(word: int, granted: int) -> Reason:
    """Which of the bits that a request needs (``granted``) is missing, else it was execution that XD forbids."""
    missing = granted & ~word
    if missing & 1:
        return Reason.SFS_2
    if missing & _FL_US:
        return Reason.SGN_2
    return Reason.SGN_6 if missing else Reason.SGN_3


def _on_the_way(outcome: int, top: bool) -> int:
    """A second-level fault met while reading a first-level table, in the words of the first level."""
    reason = Reason.of(-outcome)
    return -(_TOP if top else _LOWER).get(reason, reason)
