"""A walk of an AMD IOMMU for each way in which one can end, with the box at which its fault lies."""

from __future__ import annotations

from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.pcie import Access, RequestKind
from tests.hardware.iommu.amdvi.by_hand import GCR3, GPA, GUEST, IOVA, ON, PAGE, PASID, Bench

BEYOND = 0x8000_0000_0000


def bench(**identity):
    """A process's page under a guest table."""
    made = Bench(**identity)
    made.dte(GV=1)
    made.gcr3()
    made.guest()
    return made


def host(**values):
    """A page under a host table."""
    made = Bench()
    made.dte(Mode=4, **values)
    made.host()
    return made


def nested(*modes, **values):
    """Both tables; with ``GCR3TRPMode`` the GCR3 tables are guest-physical, too."""
    made = Bench()
    made.nested(**values)
    if modes:
        made.control(*ON, *modes)
        made.host_maps(GCR3, GCR3 + 0x1000)
    return made


def asked(made, access=Access.READ, address=IOVA, pasid=PASID, kind=RequestKind.MEMORY, rid=None):
    """The walk of a request."""
    request = made.request(access, address, pasid)._replace(kind=kind)
    return made.unit.walk(request if rid is None else request._replace(rid=rid), caches=False)


def plain(made, access=Access.READ, address=GPA):
    """The walk of a request without PASID."""
    return asked(made, access, address, None)


def changed(made, method, *args, **values):
    """A bench with one entry written anew."""
    getattr(made, method)(*args, **values)
    return made


def stored(made, at, word):
    """A bench with this word in its memory."""
    made.memory.store(at, word)
    return made


def _marking():
    """The page of the lowest guest table cannot be written."""
    made = nested()
    made.host(GUEST + 0x3000, GUEST + 0x3000, IW=0)
    return made


ENDS = {
    "guest": lambda: asked(bench()),
    "a page of 2 MiB": lambda: asked(changed(bench(), "guest", leaf=2, page=PAGE & ~0x1F_FFFF)),
    "host": lambda: plain(host()),
    "nested": lambda: asked(nested()),
    "guest-physical tables": lambda: asked(nested("GCR3TRPMode")),
    "pass-through": lambda: asked(changed(Bench(), "dte", V=0), pasid=None),
}
"""Walks that lead to an address."""

FAULTS = {
    Reason.DTE_OUTSIDE: (lambda: asked(_small(), rid=0x180), "dte"),
    Reason.DTE_RESERVED: (lambda: asked(_reserved()), "dte"),
    Reason.NOT_TRANSLATED: (lambda: asked(changed(bench(), "dte", TV=0)), "dte"),
    Reason.DTE_DENIED: (lambda: asked(changed(bench(), "dte", GV=1, IW=0), Access.WRITE), "dte"),
    Reason.BEYOND: (lambda: asked(changed(Bench(), "dte", V=0), address=1 << 60, pasid=None), "asked:0"),
    Reason.NO_PASIDS: (lambda: asked(changed(bench(), "dte", GV=0)), "dte"),
    Reason.PASID_BEYOND: (lambda: asked(bench(), pasid=0x8_0000), "dte"),
    Reason.GCR3_ABSENT: (lambda: asked(changed(bench(), "gcr3", V=0)), "gcr3-1"),
    Reason.GCR3_RESERVED: (lambda: asked(stored(bench(), _gcr3_at(), GUEST | 3)), "gcr3-1"),
    Reason.GCR3_UNREADABLE: (lambda: asked(changed(bench(), "dte", GV=1, root=BEYOND)), "gcr3-2"),
    Reason.GUEST_NOT_CANONICAL: (lambda: asked(bench(), address=1 << 47), "asked:0"),
    Reason.GUEST_ABSENT: (lambda: asked(changed(bench(), "guest", P=0)), "first:1"),
    Reason.GUEST_DENIED: (lambda: asked(changed(bench(), "guest", RW=0), Access.WRITE), "first:1"),
    Reason.GUEST_RESERVED: (lambda: asked(stored(bench(), bench().guest_at(4), GUEST | 0x87)), "first:4"),
    Reason.GUEST_UNREADABLE: (lambda: asked(changed(bench(), "gcr3", cr3=BEYOND)), "asked:0"),
    Reason.HOST_BEYOND: (lambda: plain(host(), address=1 << 50), "asked:0"),
    Reason.HOST_ABSENT: (lambda: plain(changed(host(), "host", PR=0)), "second:0:1"),
    Reason.HOST_DENIED: (lambda: asked(_marking()), "first:1"),
    Reason.HOST_LEVEL: (lambda: plain(changed(host(), "host", leaf=2, NextLevel=5)), "second:0:2"),
    Reason.HOST_RESERVED: (
        lambda: plain(stored(host(), host().host_at(1), PAGE | 1 << 52 | 3 << 61 | 1)),
        "second:0:1",
    ),
    Reason.HOST_UNREADABLE: (lambda: plain(host(HostRoot=BEYOND)), "asked:0"),
    Reason.INTERRUPT_READ: (lambda: plain(host(), address=0xFEE0_0000), "asked:0"),
    Reason.INTERRUPT_WRITE: (lambda: plain(host(), Access.WRITE, 0xFEE0_0000), "asked:0"),
    Reason.NOT_ALLOWED_TRANSLATED: (lambda: asked(_no_ats(), kind=RequestKind.TRANSLATED), "dte"),
    Reason.NO_ATS: (lambda: asked(_no_ats(), kind=RequestKind.TRANSLATION), "dte"),
    Reason.SWITCHED_OFF: (lambda: asked(changed(bench(), "control"), kind=RequestKind.TRANSLATION), "request"),
    Reason.DTE_LEVEL: (lambda: asked(changed(bench(), "dte", GV=1, GLX=3)), "dte"),
    Reason.DTE_UNREADABLE: (lambda: asked(_nowhere()), "dte"),
}
"""By reason: a walk, and the box at which its fault lies."""
NOT_ASKED = frozenset({Reason.NO_PAGE_REQUESTS})
"""What no question ends in: page requests are looked up on another way."""


def _gcr3_at():
    return GCR3 + 0x1000 + (PASID & 511) * 8


def _no_ats():
    return changed(bench(), "dte", GV=1, I=0)


def _small():
    made = bench()
    made.unit.mmio_write(0x0, made.unit.mmio_read(0x0) & ~0x1FF)
    return made


def _reserved():
    made = bench()
    at = (made.unit.mmio_read(0x0) & ~0xFFF) + made.request().rid * 32
    return stored(made, at, made.memory.load(at) | 1 << 2)


def _nowhere():
    made = bench()
    made.unit.mmio_write(0x0, BEYOND | 0x1FF)
    return made
