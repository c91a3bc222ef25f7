"""A walk of an SMMU for each way in which one can end, with the box at which its fault lies."""

from __future__ import annotations

from pasidlab.hardware.layouts.smmu import CD_TABLE_DESC
from pasidlab.hardware.pcie import Access, RequestKind
from tests.hardware.iommu.smmuv3.by_hand import BEYOND, CONTEXTS, FIRST, IOVA, LEAF, PAGE, PASID, STREAMS, Bench

CD_AT = LEAF + (PASID & 0x3FF) * 64


def bench(**identity):
    """A process's page under stage 1."""
    made = Bench(**identity)
    made.cd()
    made.first()
    return made


def second(**values):
    """A page under stage 2."""
    made = Bench()
    made.stage_2(**values)
    made.second()
    return made


def nested(**values):
    """Both stages."""
    made = Bench()
    made.nested(**values)
    return made


def asked(made, access=Access.READ, address=IOVA, pasid=PASID, kind=RequestKind.MEMORY, rid=None):
    """The walk of a request."""
    request = made.request(access, address, pasid)._replace(kind=kind)
    return made.unit.walk(request if rid is None else request._replace(rid=rid), caches=False)


def changed(made, method, **values):
    """A bench with one entry written anew."""
    getattr(made, method)(**values)
    return made


def stored(made, at, *words):
    """A bench with these words in its memory."""
    made.memory.store_words(at, words)
    return made


def plain(made, **more):
    """The walk of a request without SubstreamID to the page of stage 2."""
    return asked(made, address=PAGE, pasid=None, **more)


def _off():
    made = Bench(on=0x1E)
    made.unit.mmio_write(0x44, 1 << 20 | 1 << 31, 4)
    return made


def _unmapped(address):
    """Stage 2 does not know one page of a nested bench."""
    made = nested()
    made.second(address & -0x1000, TYPE=0)
    return made


ENDS = {
    "stage 1": lambda: asked(bench()),
    "a block of 2 MiB": lambda: asked(changed(bench(), "first", leaf=2)),
    "stage 2": lambda: plain(second()),
    "nested": lambda: asked(nested()),
    "a linear table": lambda: asked(
        stored(changed(Bench(), "ste", S1Fmt=0, S1CDMax=4), CONTEXTS + 3 * 64, *_third()), pasid=3
    ),
    "bypass": lambda: asked(changed(Bench(), "ste", Config=4), pasid=None),
}
"""Walks that lead to an address, but for the linear table: its process has no page."""


def _third():
    return Bench.cd_words()


FAULTS = {
    "ABORT": (lambda: asked(changed(bench(), "ste", Config=0)), "ste"),
    "F_UUT": (lambda: asked(bench(), kind=RequestKind.PAGE), "request"),
    "C_BAD_STREAMID": (lambda: asked(bench(), rid=0x100), "l1std"),
    "F_STE_FETCH": (lambda: asked(stored(bench(), STREAMS + 0x6A * 8, BEYOND | 9)), "ste"),
    "C_BAD_STE": (lambda: asked(changed(bench(), "ste", V=0)), "ste"),
    "C_BAD_STE illegal": (lambda: asked(changed(bench(), "ste", S1CDMax=31)), "ste"),
    "F_BAD_ATS_TREQ": (lambda: asked(changed(bench(), "ste", EATS=0), kind=RequestKind.TRANSLATION), "ste"),
    "F_STREAM_DISABLED": (lambda: asked(changed(bench(), "ste", S1DSS=0), pasid=None), "ste"),
    "F_TRANSL_FORBIDDEN": (lambda: asked(changed(bench(), "ste", EATS=0), kind=RequestKind.TRANSLATED), "ste"),
    "C_BAD_SUBSTREAMID": (lambda: asked(second()), "ste"),
    "C_BAD_SUBSTREAMID too large": (lambda: asked(changed(bench(), "ste", S1CDMax=12)), "ste"),
    "C_BAD_SUBSTREAMID no leaf": (lambda: asked(bench(), pasid=0x8_0000), "l1cd"),
    "F_CD_FETCH": (lambda: asked(stored(bench(), CONTEXTS + 32, CD_TABLE_DESC.encode(V=1, L2Ptr=BEYOND)[0])), "cd"),
    "C_BAD_CD": (lambda: asked(changed(bench(), "cd", V=0)), "cd"),
    "C_BAD_CD illegal": (lambda: asked(changed(bench(), "cd", AA64=0)), "cd"),
    "F_WALK_EABT": (lambda: asked(changed(bench(), "cd", TTB0=BEYOND)), "asked:0"),
    "F_WALK_EABT S2": (lambda: plain(second(S2TTB=BEYOND)), "asked:0"),
    "F_TRANSLATION": (lambda: asked(changed(bench(), "first", TYPE=0)), "first:1"),
    "F_TRANSLATION too wide": (lambda: asked(bench(), address=1 << 50), "asked:0"),
    "F_TRANSLATION S2": (lambda: plain(changed(second(), "second", TYPE=0)), "second:0:1"),
    "F_TRANSLATION S2 l1cd": (lambda: asked(_unmapped(CONTEXTS)), "second:l1cd:1"),
    "F_TRANSLATION S2 cd": (lambda: asked(_unmapped(CD_AT)), "second:cd:1"),
    "F_TRANSLATION S2 table": (lambda: asked(_unmapped(FIRST + 0x2000)), "second:2:1"),
    "F_TRANSLATION S2 page": (lambda: asked(_unmapped(PAGE)), "second:0:1"),
    "F_ADDR_SIZE": (lambda: asked(changed(changed(bench(), "cd", IPS=0), "first", page=1 << 33)), "first:1"),
    "F_ADDR_SIZE S2": (lambda: plain(changed(second(S2PS=0), "second", addr=1 << 33)), "second:0:1"),
    "F_ACCESS": (lambda: asked(changed(bench(), "first", AF=0)), "first:1"),
    "F_ACCESS S2": (lambda: plain(changed(second(), "second", AF=0)), "second:0:1"),
    "F_PERMISSION": (lambda: asked(changed(bench(), "first", AP=3), Access.WRITE), "first:1"),
    "F_PERMISSION S2": (lambda: plain(changed(second(), "second", S2AP=2)), "second:0:1"),
}
"""By the key of its sentences, then what tells it apart: a walk, and the box at which its fault lies."""
NOT_RAISED = frozenset({"F_TLB_CONFLICT", "F_CFG_CONFLICT", "E_PAGE_REQUEST", "F_VMS_FETCH"})
