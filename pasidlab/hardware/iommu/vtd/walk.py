"""From the PASID entry to the page: first-level, second-level and nested walks, and pass-through.

Models steps 8 and later of a scalable-mode translation. In a nested walk the first level's root and every pointer in
it are guest-physical: each table access goes through the second level, and so does the page, up to 24 reads for 4
over 4 levels. Follows Linux 6.1 ``dmar.c`` (the reason strings), recent QEMU (the order of checks within an entry:
present, permission, reserved), VBox/iommu-intel.h.

One walker serves real requests and questions. An outcome is one number: the address, or minus the fault reason, so
that the fast path makes no objects. With ``trace`` the stops are written down; without ``commit`` nothing is stored
in memory.

Accessed and dirty bits are set entry by entry, as the walk passes. "Walks snoop" means PWSNP=1 on a unit with
ECAP.SMPWCS; a walk that does not snoop cannot set them (0x90, 0x7c). UNVERIFIED: 0x83 and 0x87 for pass-through; a
reserved bit in the second level keeps its code 0x7a when it is met on the way to a first-level table. First-level
addresses beyond the host width are reserved bits (0x72), hence 0x83 cannot occur there. Left out: SMEP, memory types.
"""

from __future__ import annotations

from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import Stop
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
_FL_RW, _FL_US, _FL_A, _FL_D, _FL_EA = 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 10

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

    __slots__ = ("ad", "levels", "limit", "root", "snooped")

    def __init__(self, root: int, levels: tuple[_Level, ...], limit: int, ad: bool, snooped: bool) -> None:
        self.root, self.levels, self.limit, self.ad, self.snooped = root, levels, limit, ad, snooped


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
        words: tuple[int, ...],
        address: int,
        access: Access,
        privileged: bool = False,
        commit: bool = False,
        trace: Trace = None,
    ) -> int:
        """The address that ``address`` leads to under the valid PASID entry ``words``, or minus a fault reason."""
        need, third = NEEDS[access], words[2]
        if need & EXECUTE and not third & 2:
            return -Reason.SPT_5
        if privileged and not third & 1:
            return -Reason.SPT_6
        pgtt = words[0] >> 6 & 7
        if pgtt == 1:
            outcome = self._walk_first(words, address, need, privileged, None, commit, trace)
        elif pgtt == 4:
            outcome = address if address < self._rules.haw_limit else -Reason.SGN_4
        else:
            outcome = self._through_second(words, pgtt, address, need, privileged, commit, trace)
        return -Reason.SGN_8 if outcome >= 0 and is_interrupt_address(outcome) else outcome

    def _through_second(
        self, words: tuple[int, ...], pgtt: int, address: int, need: int, privileged: bool, commit: bool, trace: Trace
    ) -> int:
        first = words[0]
        depth = self._rules.depths[first >> 2 & 7]
        ad = bool(first >> 9 & 1) and self._rules.identity.ssads
        second = _Second(first & _TABLE, self._second[depth], self._limits[depth], ad, self._snooped(words))
        if pgtt == 3:
            address = self._walk_first(words, address, need, privileged, second, commit, trace)
            if address < 0:
                return address
        return self._walk_second(second, address, need & 3, commit, trace)

    def _snooped(self, words: tuple[int, ...]) -> bool:
        return bool(words[1] >> 23 & 1) and self._rules.identity.smpwcs

    # --- second level ---------------------------------------------------------------------------------------------

    def _walk_second(self, second: _Second, address: int, need: int, commit: bool, trace: Trace) -> int:
        if address >= second.limit:
            return -Reason.SGN_5
        load, table, levels = self._load, second.root, second.levels
        for level, shift, table_mask, leaf_mask, offset in levels:
            at = table + (address >> shift & 0xFF8)
            try:
                word = load(at)
            except BusError:
                return -(Reason.SSS_4 if level == len(levels) else Reason.SSS_1)
            if trace is not None:
                trace.append(Stop("second", "second-level entry", at, (word,), SL_ENTRY, level))
            if word & need != need or not word & 3:
                return -_second_level_denies(word, need)
            leaf = level == 1 or word & _PS
            if word & (leaf_mask if leaf else table_mask):
                return -Reason.SSS_3
            if second.ad:
                reason = self._mark_second(second, at, word, bool(leaf) and need & WRITE, commit)
                if reason is not None:
                    return -reason
            if leaf:
                return word & ADDRESS & ~offset | address & offset
            table = word & ADDRESS
        raise AssertionError("level 1 is always a leaf")

    def _mark_second(self, second: _Second, at: int, word: int, dirty: int, commit: bool) -> Reason | None:
        marked = word | _SL_A | (_SL_D if dirty else 0)
        if marked == word:
            return None
        if not second.snooped:
            return Reason.SSS_5
        return self._mark(at, marked, Reason.SSS_6, commit)

    # --- first level ----------------------------------------------------------------------------------------------

    def _walk_first(
        self,
        words: tuple[int, ...],
        address: int,
        need: int,
        privileged: bool,
        second: _Second | None,
        commit: bool,
        trace: Trace,
    ) -> int:
        third = words[2]
        depth = 5 if third >> 2 & 3 else 4
        top = address >> PT_SHIFT[depth] + 8
        if top and top != (1 << 56 - PT_SHIFT[depth]) - 1:
            return -Reason.SGN_1
        load, table = self._load, third & _TABLE
        accessed = _FL_A | _FL_EA if third >> 7 & 1 else _FL_A
        granted = 1 | (0 if privileged else _FL_US)
        if need & WRITE and (not privileged or third >> 4 & 1):
            granted |= _FL_RW
        no_execute = need & EXECUTE and (third >> 5 & 1 or self._rules.identity.revision is Revision.V4_1)
        levels = self._first[depth] if second is None else self._nested[depth]
        for level, shift, table_mask, leaf_mask, offset in levels:
            at = guest_at = table + (address >> shift & 0xFF8)
            if second is not None and (at := self._walk_second(second, guest_at, READ, commit, trace)) < 0:
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
                reason = self._mark_first(words, second, guest_at, at, word | bits, commit)
                if reason is not None:
                    return -reason
            if leaf:
                return word & ADDRESS & ~offset | address & offset
            table = word & ADDRESS
        raise AssertionError("level 1 is always a leaf")

    def _mark_first(
        self, words: tuple[int, ...], second: _Second | None, guest_at: int, at: int, marked: int, commit: bool
    ) -> Reason | None:
        """Set accessed and dirty; in a nested walk the second level must let the unit write to the table."""
        if not self._snooped(words):
            return Reason.SFS_9
        if second is not None:
            outcome = self._walk_second(second, guest_at, WRITE, commit, None)
            if outcome < 0:
                return Reason.SFS_8 if -outcome == Reason.SGN_6 else Reason.of(-outcome)
        return self._mark(at, marked, Reason.SFS_10, commit)

    def _mark(self, at: int, marked: int, failed: Reason, commit: bool) -> Reason | None:
        if commit:
            try:
                self._memory.store(at, marked)
            except BusError:
                return failed
        return None


def _second_level_denies(word: int, need: int) -> Reason:
    if not word & 3:
        return Reason.SSS_2
    return Reason.SGN_6 if need & ~word & WRITE else Reason.SGN_7


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
