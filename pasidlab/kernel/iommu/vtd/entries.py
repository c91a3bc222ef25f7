"""The four kinds of PASID entry that the driver writes.

Models ``intel_pasid_setup_{first_level,second_level,nested,pass_through}`` of ``drivers/iommu/intel/pasid.c``. All
first-level and pass-through entries of a machine carry one fixed domain id (FLPT_DEFAULT_DID): it is the PASID that
separates processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.kernel.iommu.vtd.pasid_table import PGTT

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.vtd.domain import Domain

__all__ = [
    "FLPT_DEFAULT_DID",
    "did_of",
    "first_level",
    "meaning_of",
    "nested",
    "pass_through",
    "second_level",
    "translates_by_domain",
]

FLPT_DEFAULT_DID: Final = 1
_AW_48: Final = 2
_PROGRAMMABLE: Final = ("SRE", "WPE", "EAFE")


def first_level(root: int, *, snoop: bool) -> tuple[int, ...]:
    """Translate with a process's page table: native SVA, and what a guest writes for its own process.

    NXE is set as Linux 6.1 does (later specifications deprecate the bit).
    """
    return PASID_ENTRY.encode(
        P=1, PGTT=PGTT.FIRST, AW=_AW_48, FLPTPTR=root, DID=FLPT_DEFAULT_DID, NXE=1, PWSNP=int(snoop)
    )


def second_level(domain: Domain, *, snoop: bool, supervisor: bool) -> tuple[int, ...]:
    """Translate guest-physical to host-physical: a default PASID, or a device's requests without PASID.

    ``supervisor`` lets privileged requests pass (SRE): the addresses are guest-physical, so there is no user to
    protect.
    """
    return PASID_ENTRY.encode(
        P=1,
        PGTT=PGTT.SECOND,
        AW=_AW_48,
        SLPTPTR=domain.table.root,
        DID=domain.did,
        SRE=int(supervisor),
        PWSNP=int(snoop),
    )


def pass_through(*, snoop: bool, supervisor: bool) -> tuple[int, ...]:
    """Do not translate: requests without PASID of a device that its own kernel drives."""
    return PASID_ENTRY.encode(
        P=1,
        PGTT=PGTT.PASS_THROUGH,
        AW=_AW_48,
        DID=FLPT_DEFAULT_DID,
        SRE=int(supervisor),
        PWSNP=int(snoop),
    )


def nested(data: GuestPasidBind, domain: Domain, *, snoop: bool, lacks: frozenset[str]) -> tuple[int, ...]:
    """The guest's page table over the VM's domain. ``-EINVAL`` for what a nested entry cannot, or a unit ``lacks``."""
    if data.addr_width != 48:
        raise KernelError("EINVAL", f"the guest page table must be 4-level (48 bits), not {data.addr_width} bits wide")
    if data.gpgd & 0xFFF or data.gpgd >> 48:
        raise KernelError("EINVAL", f"the guest page-table root must be a page below 2^48, not {data.gpgd:#x}")
    asked = {name: int(bool(data.vtd_flags & bit)) for name, bit in VTD_FLAGS.items()}
    refused = [name for name, on in asked.items() if on and (name in lacks or name not in _PROGRAMMABLE)]
    if refused:
        raise KernelError("EINVAL", f"a nested entry of this unit must not ask for {', '.join(refused)}")
    return PASID_ENTRY.encode(
        P=1,
        PGTT=PGTT.NESTED,
        AW=_AW_48,
        FLPTPTR=data.gpgd,
        SLPTPTR=domain.table.root,
        DID=domain.did,
        PWSNP=int(snoop),
        **{name: asked[name] for name in _PROGRAMMABLE},
    )


def did_of(words: tuple[int, ...]) -> int:
    """The domain id that tags an entry's translations."""
    return PASID_ENTRY["DID"].get(words)


def translates_by_domain(words: tuple[int, ...]) -> bool:
    """Whether the unit tags an entry's translations by domain only, so that a flush must name the domain."""
    return PASID_ENTRY["PGTT"].get(words) in (PGTT.SECOND, PGTT.NESTED)


def meaning_of(words: tuple[int, ...]) -> str:
    """An entry's translation type in words."""
    names = {
        PGTT.FIRST: "first-level",
        PGTT.SECOND: "second-level",
        PGTT.NESTED: "nested",
        PGTT.PASS_THROUGH: "pass-through",
    }
    return names.get(PASID_ENTRY["PGTT"].get(words), "unknown")
