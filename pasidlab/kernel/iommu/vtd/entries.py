"""The kinds of PASID entry that the driver writes, but for the nested one (:mod:`.nested`), and what entries say.

Models ``intel_pasid_setup_{first_level,second_level,pass_through}`` of ``drivers/iommu/intel/pasid.c``. All
first-level and pass-through entries of a machine carry one fixed domain id (FLPT_DEFAULT_DID): it is the PASID that
separates processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.iommu.vtd.capabilities import Capabilities

__all__ = [
    "FLPT_DEFAULT_DID",
    "did_of",
    "first_level",
    "is_present",
    "meaning_of",
    "pass_through",
    "second_level",
    "translates_by_domain",
]

FLPT_DEFAULT_DID: Final = 1
_LEVELS_OF_NO_AW: Final = 2


def first_level(root: int, unit: Capabilities) -> tuple[int, ...]:
    """Translate with a process's page table: native SVA, and what a guest writes for its own process.

    NXE is set as Linux 6.1 does (later specifications deprecate the bit). ``-EINVAL``: the unit has no first level.
    """
    if not unit.first_level:
        raise KernelError("EINVAL", "the IOMMU must support first-level translation")
    return PASID_ENTRY.encode(
        P=1, PGTT=PGTT.FIRST, AW=_aw(unit), FLPTPTR=root, DID=FLPT_DEFAULT_DID, NXE=1, PWSNP=int(unit.snoop)
    )


def second_level(domain: Domain, unit: Capabilities, *, supervisor: bool) -> tuple[int, ...]:
    """Translate guest-physical to host-physical: a default PASID, or a device's requests without PASID.

    ``supervisor`` lets privileged requests pass (SRE): the addresses are guest-physical, so there is no user to
    protect. ``-EINVAL``: the unit has no second level, or the domain's table does not fit into it.
    """
    table = domain.fit(unit.second_levels) if unit.second_level else None
    if table is None:
        raise KernelError("EINVAL", f"the IOMMU must support a second level that the table of {domain.name} fits into")
    return PASID_ENTRY.encode(
        P=1,
        PGTT=PGTT.SECOND,
        AW=table.levels - _LEVELS_OF_NO_AW,
        SLPTPTR=table.root,
        DID=domain.did,
        SRE=int(supervisor),
        PWSNP=int(unit.snoop),
    )


def pass_through(unit: Capabilities, *, supervisor: bool) -> tuple[int, ...]:
    """Do not translate: requests without PASID of a device that its own kernel drives."""
    return PASID_ENTRY.encode(
        P=1,
        PGTT=PGTT.PASS_THROUGH,
        AW=_aw(unit),
        DID=FLPT_DEFAULT_DID,
        SRE=int(supervisor),
        PWSNP=int(unit.snoop),
    )


def _aw(unit: Capabilities) -> int:
    """The unit's widest second level, which Linux programs even where none is used (at least AW=1)."""
    return max(unit.second_levels - _LEVELS_OF_NO_AW, 1)


def is_present(words: tuple[int, ...]) -> bool:
    """Whether an entry is in use."""
    return bool(PASID_ENTRY["P"].get(words))


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
