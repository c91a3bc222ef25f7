"""From requester ID and PASID to the PASID entry: the first seven steps of a scalable-mode translation.

Models root entry -> context entry -> PASID directory -> PASID table, with the fault reason of each step. Works on any
:class:`~pasidlab.hardware.memory.Memory`: silicon reads host memory, an emulated unit reads its guest's. Follows the
order of recent QEMU and OpenVMM; which check wins inside one entry (reserved bits or content) is inferred, not
specification text.

Entries that are not present are looked at for FPD only: software keeps its own state in them (TDX Connect does). FPD
is merged over context, directory and PASID entry. Left out: legacy mode (TTM=0), which is answered as an unusable
table mode.

A translated request has no PASID: one that has is refused as if ATS were not allowed (UNVERIFIED: its code).

A context or PASID entry comes from the unit's caches when it is there; what was read from memory is kept only by a
request that really happens, never by a question.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.vtd.caches import CONTEXT_CACHE, PASID_CACHE, ContextLine, PasidLine, VtdCaches
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import RequestKind

__all__ = ["Lookup", "PasidLookup", "Trace", "find_context", "find_pasid_entry"]

Trace = list[Stop] | None
"""Where the stops of a walk are written down, or ``None`` on the fast path."""

_POINTER = ~0xFFF


class PasidLookup(NamedTuple):
    """What was found: the PASID entry's ``words``, or the ``reason`` why not.

    ``fpd`` is the merged "do not record faults"; ``pasid`` the PASID in effect; ``rid_priv`` whether a request
    without PASID counts as privileged; ``address`` is where the entry lies (0 when the search did not get that far);
    ``line`` is the entry as a cache keeps it.
    """

    reason: FaultReason | None
    words: tuple[int, ...] = ()
    pasid: int = 0
    fpd: bool = False
    rid_priv: bool = False
    address: int = 0
    line: PasidLine | None = None


class Lookup(NamedTuple):
    """Where and how to search: the tables in ``memory`` behind ``root_pointer`` (RTADDR as the unit latched it).

    ``caches`` may answer for memory; with ``keep`` they learn what was read. Stops are written down in ``trace``.
    """

    memory: Memory
    root_pointer: int
    rules: VtdRules
    caches: VtdCaches | None = None
    keep: bool = False
    trace: Trace = None

    def read(self, name: str, address: int, layout: Layout) -> tuple[int, ...]:
        """The words of a structure in memory; ``BusError`` if no memory answers."""
        words = self.memory.load_words(address, layout.word_count)
        if self.trace is not None:
            self.trace.append(Stop("lookup", name, address, words, layout))
        return words

    def kept(self, name: str, line: ContextLine | PasidLine, layout: Layout, cache: str) -> None:
        """Write down that a cache answered."""
        if self.trace is not None:
            self.trace.append(Stop("lookup", name, line.at, line.words, layout, cache=cache))


def find_pasid_entry(
    lookup: Lookup, rid: int, pasid: int | None, kind: RequestKind = RequestKind.MEMORY
) -> PasidLookup:
    """Find the PASID entry that serves ``rid`` and ``pasid`` (``None``: the request carries no PASID).

    Nothing is written to memory, nothing is recorded.
    """
    context = find_context(lookup, rid, pasid, kind)
    if isinstance(context, PasidLookup):
        return context
    low, rules = context.words[0], lookup.rules
    fpd, effective = bool(low & 2), context.rid_pasid if pasid is None else pasid
    if effective >= context.limit:
        return PasidLookup(FaultReason.SCT_7 if pasid is not None else FaultReason.SCT_9, (), effective, fpd)
    line = lookup.caches.pasids.get((rid, effective)) if lookup.caches is not None else None
    if line is not None:
        lookup.kept("PASID entry", line, PASID_ENTRY, PASID_CACHE)
    else:
        found = _directory(lookup, low & _POINTER, effective, fpd)
        if isinstance(found, PasidLookup):
            return found
        line = found
    words = line.words
    fpd = fpd or line.fpd or bool(words[0] & 2)
    reason = _check_entry(words, rules)
    if lookup.keep and lookup.caches is not None and (reason is None or _absent(lookup.caches, words)):
        lookup.caches.pasids[rid, effective] = line
    rid_priv = pasid is None and context.rid_priv
    return PasidLookup(reason, words, effective, fpd, rid_priv, line.at, line)


def find_context(
    lookup: Lookup, rid: int, pasid: int | None, kind: RequestKind = RequestKind.MEMORY
) -> ContextLine | PasidLookup:
    """Find the context entry of ``rid``, and whether it lets such a request pass; if not, the answer has a reason."""
    reason = _check_root_pointer(lookup.root_pointer, lookup.rules, pasid, kind)
    if reason is not None:
        return PasidLookup(reason)
    line = lookup.caches.contexts.get(rid) if lookup.caches is not None else None
    if line is not None:
        lookup.kept("context entry", line, CONTEXT_ENTRY, CONTEXT_CACHE)
    else:
        table = _root(lookup, rid)
        if isinstance(table, FaultReason):
            return PasidLookup(table)
        at = table + (rid & 0x7F) * 32
        try:
            line = _context_line(lookup.read("context entry", at, CONTEXT_ENTRY), at, lookup.rules)
        except BusError:
            return PasidLookup(FaultReason.SCT_1)
    words = line.words
    reason = _broken_context(words, lookup.rules)
    if lookup.keep and lookup.caches is not None and (reason is None or _absent(lookup.caches, words)):
        lookup.caches.contexts[rid] = line
    reason = reason or _denied(words, pasid, kind)
    return line if reason is None else PasidLookup(reason, (), pasid or 0, bool(words[0] & 2))


def _absent(caches: VtdCaches, words: tuple[int, ...]) -> bool:
    """Whether an entry that is not present is kept all the same."""
    return caches.keeps_absent and not words[0] & 1


def _check_root_pointer(root_pointer: int, rules: VtdRules, pasid: int | None, kind: RequestKind) -> FaultReason | None:
    mode = root_pointer >> 10 & 3
    if mode == 1 and rules.identity.smts and not root_pointer & rules.root_pointer:
        return None
    if mode == 0 and pasid is not None:
        return FaultReason.RTA_2
    if mode == 0 and kind is RequestKind.PAGE:
        return FaultReason.RTA_3
    return FaultReason.RTA_4 if mode == 3 and rules.identity.adms else FaultReason.RTA_1


def _root(lookup: Lookup, rid: int) -> int | FaultReason:
    """Where the context table of the requester's half of its bus is."""
    try:
        words = lookup.read("root entry", (lookup.root_pointer & _POINTER) + (rid >> 8) * 16, ROOT_ENTRY)
    except BusError:
        return FaultReason.SRT_1
    upper = rid >> 7 & 1
    half = words[upper]
    if not half & 1:
        return FaultReason.SRT_2
    if half & lookup.rules.root[upper]:
        return FaultReason.SRT_3
    return half & _POINTER


def _context_line(words: tuple[int, ...], at: int, rules: VtdRules) -> ContextLine:
    rid_pasid = words[1] & 0xFFFFF if rules.identity.rps else 0
    rid_priv = bool(rules.identity.rprivs and words[1] >> 20 & 1)
    limit = 1 << (words[0] >> 9 & 7) + 13 if words[0] & 1 else 0
    return ContextLine(words, at, rid_pasid, rid_priv, bool(words[0] & 8), limit)


def _broken_context(words: tuple[int, ...], rules: VtdRules) -> FaultReason | None:
    """Whether the entry can serve any request at all."""
    low, second, third, fourth = words
    masks = rules.context
    if not low & 1:
        return FaultReason.SCT_2
    if low & masks[0] or second & masks[1] or third or fourth:
        return FaultReason.SCT_3
    if rules.identity.revision is Revision.V4_1 and rules.identity.rps and (second & 0xFFFFF) >> (low >> 9 & 7) + 13:
        return FaultReason.SCT_4
    return None


def _denied(words: tuple[int, ...], pasid: int | None, kind: RequestKind) -> FaultReason | None:
    """Whether the entry forbids this kind of request."""
    low = words[0]
    if kind in {RequestKind.TRANSLATION, RequestKind.TRANSLATED} and not low & 4:
        return FaultReason.SCT_5
    if kind is RequestKind.TRANSLATED and pasid is not None:
        return FaultReason.SCT_5
    if pasid is not None and not low & 8:
        return FaultReason.SCT_6
    if kind is RequestKind.PAGE and not low & 16:
        return FaultReason.SCT_8
    return None


def _directory(lookup: Lookup, table: int, pasid: int, fpd: bool) -> PasidLine | PasidLookup:
    """Read the directory entry, and the PASID entry behind it."""
    try:
        (word,) = lookup.read("PASID directory entry", table + (pasid >> 6) * 8, PASID_DIR_ENTRY)
    except BusError:
        return PasidLookup(FaultReason.SPD_1, (), pasid, fpd)
    here = bool(word & 2)
    if not word & 1:
        return PasidLookup(FaultReason.SPD_2, (), pasid, fpd or here)
    if word & lookup.rules.directory:
        return PasidLookup(FaultReason.SPD_3, (), pasid, fpd or here)
    at = (word & _POINTER) + (pasid & 63) * 64
    try:
        words = lookup.read("PASID entry", at, PASID_ENTRY)
    except BusError:
        return PasidLookup(FaultReason.SPT_1, (), pasid, fpd or here)
    return PasidLine.of(words, pasid, at, here)


def _check_entry(words: tuple[int, ...], rules: VtdRules) -> FaultReason | None:
    """Present, no reserved bit, and a translation that this unit can carry out."""
    first, second, third, fourth, fifth, sixth, seventh, eighth = words
    if not first & 1:
        return FaultReason.SPT_2
    masks = rules.entry
    if first & masks[0] or second & masks[1] or third & masks[2] or fourth | fifth | sixth | seventh | eighth:
        return FaultReason.SPT_3
    pgtt = first >> 6 & 7
    if _pointer_too_wide(pgtt, first, third, rules):
        return FaultReason.SPT_3
    if pgtt not in rules.translations:
        return FaultReason.SPT_4
    if pgtt in {2, 3} and (first >> 2 & 7) not in rules.depths:
        return FaultReason.SPT_4
    mode = third >> 2 & 3
    if pgtt in {1, 3} and mode and not (mode == 1 and rules.identity.fl5lp):
        return FaultReason.SPT_4
    return None


def _pointer_too_wide(pgtt: int, first: int, third: int, rules: VtdRules) -> bool:
    """Address bits at or above the width are reserved in the pointers that this translation uses (UNVERIFIED: not in
    one that it does not use, as in QEMU).
    """
    if pgtt in {2, 3} and first & _POINTER >= rules.haw_limit:
        return True
    if pgtt == 1:
        return third & _POINTER >= rules.haw_limit
    return pgtt == 3 and third & _POINTER >= rules.mgaw_limit
