"""The words that the driver writes: device table entries (but for a guest's part, :mod:`.nested`) and GCR3 entries.

Models ``set_dte_entry``, ``set_dte_gcr3_table`` and ``__set_gcr3`` of ``drivers/iommu/amd/iommu.c``. One entry decides
about all requests of a device:

==================  ==========================================  ====================================================
entry               requests without PASID                      requests with PASID
==================  ==========================================  ====================================================
blocked             are faults                                  are faults
pass-through        pass (Mode=0)                               by the kernel's own GCR3 table (GV=1)
memory of a VM      by the host table of its domain             are faults, until its guest's GCR3 table is bound
==================  ==========================================  ====================================================

An entry with V=0 lets everything pass untranslated; what is to be blocked has V=1, TV=1 and no right (IR=IW=0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.amd import DTE, GCR3_ENTRY, gcr3_fields

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.domain import Domain

__all__ = [
    "BLOCKED",
    "GuestTable",
    "blocked",
    "domain_id",
    "gcr3_entry",
    "host_table",
    "is_present",
    "meaning_of",
    "pass_through",
    "with_table",
]

BLOCKED: Final = DTE.encode(V=1, TV=1)
"""The entry of a device that nobody has asked for."""


class GuestTable(NamedTuple):
    """A GCR3 table as a device table entry names it: its ``root``, ``levels``, and what goes with it.

    ``giov``: requests without PASID use the page table of PASID 0. ``ppr``: the device may ask for pages. ``mode``: 0
    for page tables of four levels, 1 for five.
    """

    root: int
    levels: int
    giov: bool = False
    ppr: bool = False
    mode: int = 0


def blocked() -> tuple[int, ...]:
    """Nothing passes."""
    return BLOCKED


def pass_through(did: int, *, ats: bool) -> tuple[int, ...]:
    """Requests without PASID are not translated: a device that its own kernel drives.

    >>> [hex(word) for word in pass_through(7, ats=True)[:2]]
    ['0x6000000000000003', '0x100000007']
    """
    return DTE.encode(V=1, TV=1, IR=1, IW=1, DomainID=did, I=int(ats))


def host_table(domain: Domain, levels: int, did: int, *, ats: bool) -> tuple[int, ...]:
    """Guest-physical to host-physical, whatever the device sends. ``-EINVAL``: the table does not fit the unit."""
    table = domain.fit(levels) if levels else None
    if table is None:
        raise KernelError("EINVAL", f"the IOMMU must support a host table that the one of {domain.name} fits into")
    return DTE.change(pass_through(did, ats=ats), Mode=table.levels, HostRoot=table.root)


def with_table(entry: tuple[int, ...], table: GuestTable) -> tuple[int, ...]:
    """``entry``, and a GCR3 table for requests with PASID."""
    return DTE.change(
        entry,
        GV=1,
        GLX=table.levels - 1,
        GIOV=int(table.giov),
        PPR=int(table.ppr),
        GPTMode=table.mode,
        **gcr3_fields(table.root),
    )


def gcr3_entry(address: int) -> tuple[int, ...]:
    """What a PASID, or a part of the PASIDs, has: a page table, or the next GCR3 table.

    >>> hex(gcr3_entry(0x4444_0000)[0])
    '0x44440001'
    """
    return GCR3_ENTRY.encode(V=1, CR3=address)


def is_present(words: tuple[int, ...]) -> bool:
    """Whether a GCR3 entry is in use."""
    return bool(GCR3_ENTRY["V"].get(words))


def domain_id(words: tuple[int, ...]) -> int:
    """The DomainID of a device table entry, which tags what caches keep."""
    return DTE["DomainID"].get(words)


def meaning_of(words: tuple[int, ...]) -> str:
    """A device table entry in words."""
    at = DTE.decode(words)
    if not at["V"]:
        return "everything passes"
    if not (at["TV"] and (at["IR"] or at["IW"])):
        return "blocked"
    host = "host table" if at["Mode"] else "pass-through"
    return f"{host} and GCR3 table" if at["GV"] else host
