"""From requester ID and PASID to the PASID entry: the first seven steps of a scalable-mode translation.

Models root entry -> context entry -> PASID directory -> PASID table, with the fault reason of each step. Works on any
:class:`~pasidlab.hardware.memory.Memory`: silicon reads host memory, an emulated unit reads its guest's. Follows the
order of recent QEMU and OpenVMM; which check wins inside one entry (reserved bits or content) is inferred, not
specification text.

Entries that are not present are looked at for FPD only: software keeps its own state in them (TDX Connect does). FPD
is merged over context, directory and PASID entry. Left out: legacy mode (TTM=0), which is answered as an unusable
table mode.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import RequestKind

__all__ = ["PasidLookup", "Trace", "find_pasid_entry"]

Trace = list[Stop] | None
"""Where the stops of a walk are written down, or ``None`` on the fast path."""

_POINTER = ~0xFFF


class PasidLookup(NamedTuple):
    """What was found: the PASID entry's ``words``, or the ``reason`` why not.

    ``fpd`` is the merged "do not record faults"; ``pasid`` the PASID in effect; ``rid_priv`` whether a request
    without PASID counts as privileged; ``address`` is where the entry lies (0 when the search did not get that far).
    """

    reason: FaultReason | None
    words: tuple[int, ...] = ()
    pasid: int = 0
    fpd: bool = False
    rid_priv: bool = False
    address: int = 0


def find_pasid_entry(
    memory: Memory,
    root_pointer: int,
    rules: VtdRules,
    rid: int,
    pasid: int | None,
    kind: RequestKind = RequestKind.MEMORY,
    trace: Trace = None,
) -> PasidLookup:
    """Find the PASID entry that serves ``rid`` and ``pasid`` (``None``: the request carries no PASID).

    ``root_pointer`` is RTADDR as the unit latched it. Nothing is written, nothing is recorded.
    """
    reason = _check_root_pointer(root_pointer, rules, pasid, kind)
    if reason is not None:
        return PasidLookup(reason)
    root = _root(memory, root_pointer, rules, rid, trace)
    if isinstance(root, FaultReason):
        return PasidLookup(root)
    return _context(memory, root, rules, rid, pasid, kind, trace)


def _check_root_pointer(root_pointer: int, rules: VtdRules, pasid: int | None, kind: RequestKind) -> FaultReason | None:
    mode = root_pointer >> 10 & 3
    if mode == 1 and rules.identity.smts and not root_pointer & rules.root_pointer:
        return None
    if mode == 0 and pasid is not None:
        return FaultReason.RTA_2
    if mode == 0 and kind is RequestKind.PAGE:
        return FaultReason.RTA_3
    return FaultReason.RTA_4 if mode == 3 and rules.identity.adms else FaultReason.RTA_1


def _root(memory: Memory, root_pointer: int, rules: VtdRules, rid: int, trace: Trace) -> int | FaultReason:
    """Where the context table of the requester's half of its bus is."""
    at = (root_pointer & _POINTER) + (rid >> 8) * 16
    try:
        words = memory.load_words(at, 2)
    except BusError:
        return FaultReason.SRT_1
    if trace is not None:
        trace.append(Stop("lookup", "root entry", at, words, ROOT_ENTRY))
    upper = rid >> 7 & 1
    half = words[upper]
    if not half & 1:
        return FaultReason.SRT_2
    if half & rules.root[upper]:
        return FaultReason.SRT_3
    return half & _POINTER


def _context(
    memory: Memory, table: int, rules: VtdRules, rid: int, pasid: int | None, kind: RequestKind, trace: Trace
) -> PasidLookup:
    at = table + (rid & 0x7F) * 32
    try:
        words = memory.load_words(at, 4)
    except BusError:
        return PasidLookup(FaultReason.SCT_1)
    if trace is not None:
        trace.append(Stop("lookup", "context entry", at, words, CONTEXT_ENTRY))
    reason = _check_context(words, rules, pasid, kind)
    low, fpd = words[0], bool(words[0] & 2)
    if reason is not None:
        return PasidLookup(reason, (), pasid or 0, fpd)
    rid_priv = False
    effective = pasid
    if effective is None:
        effective = words[1] & 0xFFFFF if rules.identity.rps else 0
        rid_priv = bool(rules.identity.rprivs and words[1] >> 20 & 1)
    if effective >> (low >> 9 & 7) + 13:
        return PasidLookup(FaultReason.SCT_7 if pasid is not None else FaultReason.SCT_9, (), effective, fpd)
    return _directory(memory, low & _POINTER, rules, effective, fpd, rid_priv, trace)


def _check_context(words: tuple[int, ...], rules: VtdRules, pasid: int | None, kind: RequestKind) -> FaultReason | None:
    """Everything that the context entry alone decides."""
    low, second, third, fourth = words
    masks = rules.context
    if not low & 1:
        return FaultReason.SCT_2
    if low & masks[0] or second & masks[1] or third or fourth:
        return FaultReason.SCT_3
    if rules.identity.revision is Revision.V4_1 and rules.identity.rps and (second & 0xFFFFF) >> (low >> 9 & 7) + 13:
        return FaultReason.SCT_4
    if kind in {RequestKind.TRANSLATION, RequestKind.TRANSLATED} and not low & 4:
        return FaultReason.SCT_5
    if pasid is not None and not low & 8:
        return FaultReason.SCT_6
    if kind is RequestKind.PAGE and not low & 16:
        return FaultReason.SCT_8
    return None


def _directory(
    memory: Memory, table: int, rules: VtdRules, pasid: int, fpd: bool, rid_priv: bool, trace: Trace
) -> PasidLookup:
    at = table + (pasid >> 6) * 8
    try:
        word = memory.load(at)
    except BusError:
        return PasidLookup(FaultReason.SPD_1, (), pasid, fpd)
    if trace is not None:
        trace.append(Stop("lookup", "PASID directory entry", at, (word,), PASID_DIR_ENTRY))
    fpd = fpd or bool(word & 2)
    if not word & 1:
        return PasidLookup(FaultReason.SPD_2, (), pasid, fpd)
    if word & rules.directory:
        return PasidLookup(FaultReason.SPD_3, (), pasid, fpd)
    at = (word & _POINTER) + (pasid & 63) * 64
    try:
        words = memory.load_words(at, 8)
    except BusError:
        return PasidLookup(FaultReason.SPT_1, (), pasid, fpd)
    if trace is not None:
        trace.append(Stop("lookup", "PASID entry", at, words, PASID_ENTRY))
    return PasidLookup(_check_entry(words, rules), words, pasid, fpd or bool(words[0] & 2), rid_priv, at)


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
    """Address bits at or above the width are reserved in the pointers that this translation uses."""
    if pgtt in {2, 3} and first & _POINTER >= rules.haw_limit:
        return True
    if pgtt == 1:
        return third & _POINTER >= rules.haw_limit
    return pgtt == 3 and third & _POINTER >= rules.mgaw_limit
