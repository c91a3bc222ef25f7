"""A walk for each way in which one can end: tables written by hand, one thing wrong in each."""

from __future__ import annotations

from collections.abc import Callable

from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.iommu.vtd.faults import FaultReason as Reason
from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.layouts.vtd import FL_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import Access, RequestKind
from tests.hardware.iommu.vtd.by_hand import (
    BEYOND,
    CONTEXT_AT,
    DIRECTORY_AT,
    ENTRY_AT,
    FIRST,
    IOVA,
    PASID,
    ROOT,
    ROOT_AT,
    Bench,
)

_FL_BEYOND = FL_ENTRY.encode(P=1, RW=1, US=1, A=1, ADDR=BEYOND)[0]
_SL_BEYOND = SL_ENTRY.encode(R=1, W=1, ADDR=BEYOND)[0]
NOT_RAISED = frozenset({Reason.SSS_6, Reason.SGN_9, Reason.SGN_10, Reason.SFS_10})
"""Reasons that the model never gives, or only to a request that really writes."""


def first(leaf: int = 1, **entry: int) -> Bench:
    """A first-level translation of ``IOVA``."""
    bench = Bench()
    bench.entry(PGTT=1, **entry)
    bench.first_level(leaf=leaf)
    return bench


def second(**entry: int) -> Bench:
    """A second-level one."""
    bench = Bench()
    bench.entry(PGTT=2, **entry)
    bench.second_level()
    return bench


def nested(**entry: int) -> Bench:
    """A nested one."""
    bench = Bench()
    bench.nested()
    bench.entry(PGTT=3, **entry)
    return bench


def with_words(bench: Bench, at: int, *words: int) -> Bench:
    """A bench with these words in its memory."""
    bench.memory.store_words(at, words)
    return bench


def flipped(bench: Bench, at: int, mask: int) -> Bench:
    """A bench with some bits of one word turned over."""
    bench.memory.store(at, bench.memory.load(at) ^ mask)
    return bench


def with_root(value: int, **identity: bool) -> Bench:
    """A bench with another root pointer."""
    bench = Bench(**identity)
    bench.set_root(value)
    return bench


def with_context(**values: int) -> Bench:
    """A bench with another context entry."""
    bench = first()
    bench.context(**values)
    return bench


def asked(
    bench: Bench,
    access: Access = Access.READ,
    address: int = IOVA,
    pasid: int | None = PASID,
    privileged: bool = False,
    kind: RequestKind = RequestKind.MEMORY,
) -> Walk:
    """The walk of a request."""
    request = bench.request(access, address, pasid, privileged)._replace(kind=kind)
    return bench.unit.walk(request, caches=False)


def _mapped_to_interrupts() -> Bench:
    bench = Bench()
    bench.entry(PGTT=1)
    bench.first_level(page=0xFEE0_0000)
    return bench


def _contradicting() -> Bench:
    """In revision 4.1 a RID_PASID beyond the directory is a contradiction."""
    bench = Bench(revision=Revision.V4_1)
    bench.entry(PGTT=1)
    bench.context(PDTS=0, RID_PASID=1 << 19)
    return bench


def _read_only_tables() -> Bench:
    """The guest's page that holds the last first-level table cannot be written, and A is not set in its entry."""
    bench = nested()
    flipped(bench, bench.first_at(1), FL_ENTRY["A"].mask)
    return flipped(bench, bench.second_at(1, FIRST + 0x3000), SL_ENTRY["W"].mask)


def _pass_through() -> Bench:
    bench = Bench()
    bench.entry(PGTT=4)
    return bench


def _not_snooped() -> Bench:
    bench = first(PWSNP=0)
    return flipped(bench, bench.first_at(1), FL_ENTRY["A"].mask)


FAULTS: dict[Reason, Callable[[], Walk]] = {
    Reason.RTA_1: lambda: asked(with_root(ROOT | 0x800)),
    Reason.RTA_2: lambda: asked(with_root(ROOT)),
    Reason.RTA_3: lambda: asked(with_root(ROOT), pasid=None, kind=RequestKind.PAGE),
    Reason.RTA_4: lambda: asked(with_root(ROOT | 0xC00, adms=True)),
    Reason.SRT_1: lambda: asked(with_root(BEYOND | 0x400)),
    Reason.SRT_2: lambda: asked(with_words(first(), ROOT_AT, 0)),
    Reason.SRT_3: lambda: asked(flipped(first(), ROOT_AT, 0x10)),
    Reason.SCT_1: lambda: asked(with_words(first(), ROOT_AT, BEYOND | 1)),
    Reason.SCT_2: lambda: asked(with_context(P=0)),
    Reason.SCT_3: lambda: asked(flipped(first(), CONTEXT_AT, 0x60)),
    Reason.SCT_4: lambda: asked(_contradicting()),
    Reason.SCT_5: lambda: asked(with_context(DTE=0), kind=RequestKind.TRANSLATION),
    Reason.SCT_6: lambda: asked(with_context(PASIDE=0)),
    Reason.SCT_7: lambda: asked(with_context(PDTS=0), pasid=1 << 19),
    Reason.SCT_8: lambda: asked(with_context(PRE=0), kind=RequestKind.PAGE),
    Reason.SCT_9: lambda: asked(with_context(PDTS=0, RID_PASID=1 << 19), pasid=None),
    Reason.SPD_1: lambda: asked(with_context(PASIDDIRPTR=BEYOND)),
    Reason.SPD_2: lambda: asked(with_words(first(), DIRECTORY_AT, 0)),
    Reason.SPD_3: lambda: asked(flipped(first(), DIRECTORY_AT, 0x10)),
    Reason.SPT_1: lambda: asked(with_words(first(), DIRECTORY_AT, BEYOND | 1)),
    Reason.SPT_2: lambda: asked(first(P=0)),
    Reason.SPT_3: lambda: asked(flipped(first(), ENTRY_AT + 24, 1 << 7)),
    Reason.SPT_4: lambda: asked(second(AW=3)),
    Reason.SPT_5: lambda: asked(first(), Access.EXECUTE),
    Reason.SPT_6: lambda: asked(first(), privileged=True),
    Reason.SFS_1: lambda: asked(with_words(first(), first().first_at(3), _FL_BEYOND)),
    Reason.SFS_2: lambda: asked(with_words(first(), first().first_at(2), 0)),
    Reason.SFS_3: lambda: asked(flipped(first(), first().first_at(4), 1 << 7)),
    Reason.SFS_4: lambda: asked(first(FLPTPTR=BEYOND)),
    Reason.SFS_5: lambda: asked(with_words(nested(), FIRST + (IOVA >> 36 & 0xFF8), 0x000F_0000_0000_0027)),
    Reason.SFS_6: lambda: asked(with_words(nested(), nested().second_at(1, FIRST), 0)),
    Reason.SFS_7: lambda: asked(with_words(nested(), nested().second_at(1, FIRST + 0x1000), 0)),
    Reason.SFS_8: lambda: asked(_read_only_tables()),
    Reason.SSS_1: lambda: asked(with_words(second(), second().second_at(3), _SL_BEYOND)),
    Reason.SSS_2: lambda: asked(with_words(second(), second().second_at(2), 0)),
    Reason.SSS_3: lambda: asked(flipped(second(), second().second_at(1), 1 << 51)),
    Reason.SSS_4: lambda: asked(second(SLPTPTR=BEYOND)),
    Reason.SSS_5: lambda: asked(second(SSADE=1, PWSNP=0)),
    Reason.SGN_1: lambda: asked(first(), address=1 << 47),
    Reason.SGN_2: lambda: asked(flipped(first(), first().first_at(1), FL_ENTRY["US"].mask)),
    Reason.SGN_3: lambda: asked(flipped(first(ERE=1, NXE=1), first().first_at(1), 1 << 63), Access.EXECUTE),
    Reason.SGN_4: lambda: asked(_pass_through(), address=1 << 50),
    Reason.SGN_5: lambda: asked(second(), address=1 << 48),
    Reason.SGN_6: lambda: asked(flipped(first(), first().first_at(1), FL_ENTRY["RW"].mask), Access.WRITE),
    Reason.SGN_7: lambda: asked(flipped(second(), second().second_at(1), SL_ENTRY["R"].mask)),
    Reason.SGN_8: lambda: asked(_mapped_to_interrupts()),
    Reason.SFS_9: lambda: asked(_not_snooped()),
}
"""A walk that ends in each reason that the model can give to a question."""
