"""From the context descriptor and the stream table entry to the page: stage 1, stage 2, and both.

Models VMSAv8-64 translation (LPAE tables of 4, 16 and 64 KiB) as chapter 3 of the SMMUv3 specification (IHI 0070) and
the Arm architecture define it; entries as in Linux 6.1 ``io-pgtable-arm.c``. In a nested walk (Config 7) the root of
stage 1 and every pointer in it are intermediate physical addresses: each table access goes through stage 2, and so does
the page. What stage 2 refuses on such a way is told with CLASS: reading a context descriptor, a stage-1 table (TT), or
the address itself (IN).

Within one entry the order is: valid, the address that it names (F_ADDR_SIZE), the access flag, permissions. An entry
of stage 1 that faults is not followed into stage 2.

Rights: AP bit 6 lets unprivileged accesses in, AP bit 7 makes the page read-only, UXN and PXN forbid execution; what
unprivileged accesses may write no privileged one executes. Entries that name tables take rights away from everything
below (APTable, UXNTable, PXNTable in bits 62:59). Stage 2: S2AP, and XN in bit 54 (bit 53 is ignored, as without
XNX). An access to execute needs the right to execute alone. These details, the S2PTW check of context descriptors, and
that an atomic access needs both rights, are the Arm architecture's; the facts do not have them (UNVERIFIED there).

Left out: memory attributes but for Device memory under S2PTW, hardware update of flags, contiguous hints, and what
:mod:`~pasidlab.hardware.iommu.smmuv3.rules` leaves out.

One walker serves real requests and questions. With ``trace`` the stops are written down; with ``keep`` the caches
learn. Memory is never written. On the way an outcome is one number, the address, so that the fast path makes no
objects; what blocks a walk lies in the walk then.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.smmuv3.caches import (
    GLOBAL,
    SECOND_STAGE,
    TLB,
    TLB_ENTRY,
    CdLine,
    SmmuCaches,
    SteLine,
    Translation,
)
from pasidlab.hardware.iommu.smmuv3.faults import Blocked, FaultClass, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.rules import LEAF_LEVEL, SmmuRules, Stage, Step
from pasidlab.hardware.layouts.smmu import S1_ENTRY, S2_ENTRY
from pasidlab.hardware.memory import PAGE_SHIFT, Memory
from pasidlab.hardware.pcie import Access

__all__ = ["ALL_RIGHTS", "NEEDS", "READ", "SmmuWalker", "Trace", "Wish"]

Trace = list[Stop] | None
"""Where the stops of a walk are written down, or ``None`` on the fast path."""

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
ALL_RIGHTS: Final = 0o77

NEEDS: Final = {
    Access.READ: READ,
    Access.WRITE: WRITE,
    Access.EXECUTE: EXECUTE,
    Access.ATOMIC: READ | WRITE,
}
"""The rights that each access needs, as bits."""

_WORD: Final = (1 << 64) - 1
_SELECT: Final = 55
"""The address bit that chooses the half, where the top byte is ignored."""
_TABLE = 1 << 1
_NG, _AF = 1 << 11, 1 << 10
_UNPRIVILEGED, _READ_ONLY, _PXN, _UXN = 1 << 6, 1 << 7, 1 << 53, 1 << 54
_AP_TABLE_NONE, _AP_TABLE_READ_ONLY, _UXN_TABLE, _PXN_TABLE = 1 << 61, 1 << 62, 1 << 60, 1 << 59
_XN = 1 << 54
_MEMORY = 3 << 4
"""MemAttr bits 3:2 of a stage-2 leaf: zero for Device memory."""


class Wish(NamedTuple):
    """What an access asks for: rights as bits, with which privilege; ``some``: any one of them is enough (ATS)."""

    need: int
    privileged: bool = False
    some: bool = False

    def denied(self, granted: int) -> bool:
        """Whether the rights are not enough."""
        rights = granted >> 3 if self.privileged else granted & 7
        return not self.need & rights if self.some else bool(self.need & ~rights)

    def within(self, granted: int) -> Wish:
        """What is left to ask of the next stage."""
        if not self.some:
            return self
        return self._replace(need=self.need & (granted >> 3 if self.privileged else granted & 7))


_BLOCKED: Final = -1
"""In place of an address: the walk's ``blocked`` says why there is none."""


class _Walk:
    """One walk: through whose entry, which caches answer or learn, and what came out beside the address.

    Each stage leaves here the ``word`` of its leaf (not stage 2), the rights (``granted``), log2 of the page or block
    (``size``), whether stage 2 says that it is no memory (``device``), and after a fault what is told of it.
    """

    __slots__ = (
        *("blocked", "caches", "device", "granted", "keeps"),
        *("second", "size", "ste", "steps", "trace", "word"),
    )

    def __init__(self, ste: SteLine, trace: Trace, caches: SmmuCaches | None, keep: bool) -> None:
        self.ste, self.trace, self.caches = ste, trace, caches
        self.keeps = caches if keep else None
        self.second = ste.second
        self.steps: tuple[Step, ...] = () if ste.second is None else ste.second.steps
        self.word = self.granted = self.size = 0
        self.device = False
        self.blocked = _NOTHING

    def stop(self, blocked: Blocked) -> int:
        """End here."""
        self.blocked = blocked
        return _BLOCKED


_NOTHING: Final = Blocked(None)


class SmmuWalker:
    """Walks the page tables in one memory by one unit's rules."""

    __slots__ = ("_load", "_rules", "load_words")

    def __init__(self, memory: Memory, rules: SmmuRules) -> None:
        self._load, self._rules = memory.load, rules
        self.load_words = memory.load_words

    def translate(
        self,
        ste: SteLine,
        cd: CdLine | None,
        address: int,
        wish: Wish,
        trace: Trace = None,
        caches: SmmuCaches | None = None,
        keep: bool = False,
    ) -> Translation | Blocked:
        """The page that ``address`` leads to; without ``cd`` stage 1 is bypassed."""
        walk = _Walk(ste, trace, caches, keep)
        if cd is not None:
            return self._first_or_both(walk, cd, address, wish)
        if address >= self._rules.oas_limit:
            return Blocked(SmmuEvent.F_ADDR_SIZE, FaultClass.IN)
        if ste.second is None:
            return Translation(_page(address), ALL_RIGHTS, PAGE_SHIFT, PAGE_SHIFT)
        found = self._second(walk, ste.second, address, wish.need, FaultClass.IN, wish.some)
        if found < 0:
            return walk.blocked
        return Translation(_page(found), walk.granted, walk.size, walk.size, walk.device)

    def first(
        self, ste: SteLine, cd: CdLine, address: int, wish: Wish, trace: Trace = None, caches: SmmuCaches | None = None
    ) -> Translation | Blocked:
        """What stage 1 alone makes of an address: an intermediate page (split-stage ATS)."""
        walk = _Walk(ste, trace, caches, keep=False)
        found = self._first(walk, cd, address, wish)
        return walk.blocked if found < 0 else Translation(_page(found), walk.granted, walk.size, walk.size)

    def intermediate(
        self, ste: SteLine, address: int, trace: Trace = None, caches: SmmuCaches | None = None, keep: bool = False
    ) -> int | Blocked:
        """Where a context descriptor lies: its own address, or what stage 2 makes of it."""
        if ste.second is None:
            return address
        walk = _Walk(ste, trace, caches, keep)
        found = self._through(walk, ste.second, address, FaultClass.CD)
        return walk.blocked if found < 0 else found

    # --- stage 1 and both ---------------------------------------------------------------------------------------------

    def _first_or_both(self, walk: _Walk, cd: CdLine, address: int, wish: Wish) -> Translation | Blocked:
        if walk.caches is not None:
            kept = _kept(walk, walk.caches, cd, address, wish)
            if kept is not None:
                return kept
        place = self._first(walk, cd, address, wish)
        if place < 0:
            return walk.blocked
        granted, size, second = walk.granted, walk.size, walk.second
        if second is None:
            found = Translation(_page(place), granted, size, size)
        else:
            place = self._second(walk, second, place, wish.within(granted).need, FaultClass.IN, wish.some)
            if place < 0:
                return walk.blocked
            found = Translation(_page(place), granted & walk.granted, min(size, walk.size), size, walk.device)
        if walk.keeps is not None:
            tag = cd.asid if walk.word & _NG else GLOBAL
            walk.keeps.tlb[walk.ste.vmid, tag, _canonical(cd, address) >> PAGE_SHIFT] = found
        return found

    def _first(self, walk: _Walk, cd: CdLine, address: int, wish: Wish) -> int:
        """Stage 1: the output address, intermediate if there is a stage 2."""
        canonical = _canonical(cd, address)
        upper = canonical >> _SELECT & 1
        stage = cd.upper if upper else cd.lower
        if stage is None or canonical >> stage.bits != (_WORD >> stage.bits if upper else 0):
            return _stage1(walk, cd, SmmuEvent.F_TRANSLATION)
        place = self._descend(walk, cd, stage, canonical & (1 << stage.bits) - 1)
        if place < 0:
            return place
        if not (walk.word & _AF or cd.ignores_access_flag):
            return _stage1(walk, cd, SmmuEvent.F_ACCESS)
        return _stage1(walk, cd, SmmuEvent.F_PERMISSION) if wish.denied(walk.granted) else place

    def _descend(self, walk: _Walk, cd: CdLine, stage: Stage, address: int) -> int:
        """From the root of stage 1 to its leaf, which is left in the walk."""
        load, trace, second, wide, limit = self._load, walk.trace, walk.second, stage.wide, stage.limit
        table, taken = stage.root, 0
        for level, shift, within, types, names, inside in stage.steps:
            at = table + (address >> shift & within)
            if second is not None and (at := self._through(walk, second, at, FaultClass.TT)) < 0:
                return at
            try:
                word = load(at)
            except BusError:
                return walk.stop(Blocked(SmmuEvent.F_WALK_EABT, FaultClass.TT, fetch=at))
            if trace is not None:
                trace.append(Stop("first", "stage-1 entry", at, (word,), S1_ENTRY, level))
            if word & 3 not in types:
                return _stage1(walk, cd, SmmuEvent.F_TRANSLATION)
            output = stage.output(word) if wide else word & names
            if output >= limit:
                return _stage1(walk, cd, SmmuEvent.F_ADDR_SIZE)
            if level == LEAF_LEVEL or not word & _TABLE:
                walk.word, walk.granted, walk.size = word, _stage1_rights(word, taken), shift + 3
                return output & ~inside | address & inside
            table, taken = output, taken | word
        raise AssertionError("the last level has no tables")

    def _through(self, walk: _Walk, second: Stage, address: int, klass: FaultClass) -> int:
        """Where a table or context descriptor lies that is named by an intermediate physical address."""
        found = self._second(walk, second, address, READ, klass)
        if walk.device and found >= 0 and walk.ste.protects_walks:
            return _stage2(walk, SmmuEvent.F_PERMISSION, address, klass)
        return found

    # --- stage 2 ------------------------------------------------------------------------------------------------------

    def _second(self, walk: _Walk, stage: Stage, address: int, need: int, klass: FaultClass, some: bool = False) -> int:
        """Stage 2 of an intermediate physical address. Its rights are the same for all privileges."""
        if address >> stage.bits:
            return _stage2(walk, SmmuEvent.F_TRANSLATION, address, klass)
        if walk.caches is not None:
            kept = _kept_second(walk, walk.caches, address, need, some)
            if kept >= 0:
                return kept
        load, trace, wide, limit, table = self._load, walk.trace, stage.wide, stage.limit, stage.root
        for level, shift, within, types, names, inside in walk.steps:
            at = table + (address >> shift & within)
            try:
                word = load(at)
            except BusError:
                return walk.stop(Blocked(SmmuEvent.F_WALK_EABT, klass, s2=True, fetch=at))
            if trace is not None:
                trace.append(Stop("second", "stage-2 entry", at, (word,), S2_ENTRY, level))
            if word & 3 not in types:
                return _stage2(walk, SmmuEvent.F_TRANSLATION, address, klass)
            table = stage.output(word) if wide else word & names
            if table >= limit:
                return _stage2(walk, SmmuEvent.F_ADDR_SIZE, address, klass)
            if level == LEAF_LEVEL or not word & _TABLE:
                granted = word >> 6 & 3 | (0 if word & _XN else EXECUTE)
                if not word & _AF or (need & ~granted and not (some and need & granted)):
                    return _stage2(walk, SmmuEvent.F_PERMISSION if word & _AF else SmmuEvent.F_ACCESS, address, klass)
                walk.granted, walk.size, walk.device = granted | granted << 3, shift + 3, not word & _MEMORY
                outcome = table & ~inside | address & inside
                return outcome if walk.keeps is None else _keep_second(walk, walk.keeps, address, outcome)
        raise AssertionError("the last level has no tables")


def _page(address: int) -> int:
    return address >> PAGE_SHIFT << PAGE_SHIFT


def _canonical(cd: CdLine, address: int) -> int:
    """The address as it is looked up: with TBI its top byte is that of bit 55."""
    upper = address >> _SELECT & 1
    if not cd.ignores_top[upper]:
        return address
    return address | 0xFF << 56 if upper else address & (1 << 56) - 1


def _stage1_rights(word: int, taken: int) -> int:
    """The rights of a stage-1 leaf; ``taken`` are the entries above, of which any may take rights away."""
    writes = 0 if word & _READ_ONLY or taken & _AP_TABLE_READ_ONLY else WRITE
    user = 0
    if word & _UNPRIVILEGED and not taken & _AP_TABLE_NONE:
        user = READ | writes
    privileged = READ | writes
    if not (word & _PXN or taken & _PXN_TABLE or user & WRITE):
        privileged |= EXECUTE
    if not (word & _UXN or taken & _UXN_TABLE):
        user |= EXECUTE
    return user | privileged << 3


def _stage1(walk: _Walk, cd: CdLine, event: SmmuEvent) -> int:
    return walk.stop(Blocked(event, FaultClass.IN, silent=not cd.records, stall=cd.stalls))


def _stage2(walk: _Walk, event: SmmuEvent, address: int, klass: FaultClass) -> int:
    return walk.stop(Blocked(event, klass, s2=True, ipa=address, silent=not walk.ste.records))


def _kept(walk: _Walk, caches: SmmuCaches, cd: CdLine, address: int, wish: Wish) -> Translation | None:
    """What the TLB says of stage 1 or both stages, if that is enough."""
    page = _canonical(cd, address) >> PAGE_SHIFT
    hit = caches.find(walk.ste.vmid, cd.asid, page)
    if hit is None or wish.denied(hit[1].granted):
        return None
    _tell(walk, caches, "first", (walk.ste.vmid, hit[0], page))
    return hit[1]


def _kept_second(walk: _Walk, caches: SmmuCaches, address: int, need: int, some: bool) -> int:
    """What the TLB says of stage 2, if that is enough; else negative."""
    key = walk.ste.vmid, SECOND_STAGE, address >> PAGE_SHIFT
    kept = caches.tlb.get(key)
    if kept is None or (need & ~kept.granted and not (some and need & kept.granted)):
        return _BLOCKED
    _tell(walk, caches, "second", key)
    walk.granted, walk.size, walk.device = kept.granted, kept.size, kept.device
    return kept.page | address & 0xFFF


def _keep_second(walk: _Walk, keeps: SmmuCaches, address: int, outcome: int) -> int:
    """Keep what stage 2 has granted; returns the ``outcome``."""
    found = Translation(_page(outcome), walk.granted, walk.size, walk.size, walk.device)
    keeps.tlb[walk.ste.vmid, SECOND_STAGE, address >> PAGE_SHIFT] = found
    return outcome


def _tell(walk: _Walk, caches: SmmuCaches, stage: str, key: tuple[int, int, int]) -> None:
    """Write down that the TLB answered."""
    if walk.trace is not None:
        found, words = caches.tlb[key], caches.words_of(key)
        level = next((number for number in (3, 2, 1) if found.size <= _LARGEST[number]), 0)
        walk.trace.append(Stop(stage, "translation", found.page, words, TLB_ENTRY, level, TLB))


_LARGEST: Final = {3: 16, 2: 29, 1: 36}
"""log2 of the largest page or block that an entry of a level can name, over all granules."""
