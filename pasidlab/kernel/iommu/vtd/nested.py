"""The nested PASID entry: the guest's page table over its VM's domain, and everything that it may be refused for.

Models ``intel_pasid_setup_nested`` and ``intel_pasid_setup_bind_data`` of ``drivers/iommu/intel/pasid.c`` (guest SVA
series): the refusals in their order (:data:`NESTED_CHECKS`), then the words. All is checked before anything is written;
the code clears the entry between its checks.

Choices of our own: a root that is no multiple of 4096 is refused together with one that lies too high. The second
level's limit is taken to be its address width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.kernel.iommu.checks import Check, refuse
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.iommu.vtd.capabilities import Capabilities

__all__ = ["NESTED_CHECKS", "NestedEntry"]

_FOUR_LEVEL: Final = 48
_FIVE_LEVEL: Final = 57
_PROGRAMMABLE: Final = ("SRE", "WPE", "EAFE")
_MEMORY_TYPE: Final = ("PCD", "PWT", "EMTE", "CD")


class NestedEntry(NamedTuple):
    """A nested entry that is asked for; ``current`` are the words that are in its place now."""

    data: GuestPasidBind
    domain: Domain
    unit: Capabilities
    current: tuple[int, ...] = (0,) * PASID_ENTRY.word_count

    def words(self) -> tuple[int, ...]:
        """The entry's eight words. ``-EINVAL``, ``-EBUSY``: :data:`NESTED_CHECKS`."""
        refuse(NESTED_CHECKS, self)
        second = self.domain.fit(self.unit.second_levels)
        assert second is not None
        return PASID_ENTRY.encode(
            P=1,
            PGTT=PGTT.NESTED,
            AW=second.levels - 2,
            FLPTPTR=self.data.gpgd,
            FLPM=int(self.data.addr_width == _FIVE_LEVEL),
            SLPTPTR=second.root,
            DID=self.domain.did,
            PWSNP=int(self.unit.snoop),
            **{name: int(self.asks(name)) for name in _PROGRAMMABLE},
        )

    def asks(self, name: str) -> bool:
        """Whether a flag of the VT-d part is set."""
        return bool(self.data.vtd_flags & VTD_FLAGS[name])


def _nesting(entry: NestedEntry) -> str:
    return "" if entry.unit.nesting else "the IOMMU must support nested translation"


def _nesting_mode(entry: NestedEntry) -> str:
    return "" if entry.domain.nesting else f"the domain of {entry.domain.name} must be in nesting mode"


def _in_use(entry: NestedEntry) -> str:
    nested = PASID_ENTRY["P"].get(entry.current) and PASID_ENTRY["PGTT"].get(entry.current) == PGTT.NESTED
    return f"the entry of PASID {entry.data.hpasid} must not be nested already" if nested else ""


def _five_levels(entry: NestedEntry) -> str:
    wrong = entry.data.addr_width == _FIVE_LEVEL and not entry.unit.five_level
    return "5-level page tables must be supported by the CPU and by the IOMMU" if wrong else ""


def _width(entry: NestedEntry) -> str:
    width = entry.data.addr_width
    wrong = width not in (_FOUR_LEVEL, _FIVE_LEVEL)
    return (
        f"the guest page table must be 4-level (48 bits) or 5-level (57 bits), not {width} bits wide" if wrong else ""
    )


def _root(entry: NestedEntry) -> str:
    root, width = entry.data.gpgd, entry.domain.width
    wrong = root & 0xFFF or root >> width
    return f"the guest page-table root must be a page below 2^{width}, not {root:#x}" if wrong else ""


def _supervisor(entry: NestedEntry) -> str:
    return _unsupported(entry, "SRE")


def _extended_accessed(entry: NestedEntry) -> str:
    return _unsupported(entry, "EAFE")


def _unsupported(entry: NestedEntry, name: str) -> str:
    return (
        f"a nested entry of this unit must not ask for {name}" if entry.asks(name) and name in entry.unit.lacks else ""
    )


def _memory_type(entry: NestedEntry) -> str:
    asked = [name for name in _MEMORY_TYPE if entry.asks(name)]
    return f"a nested entry must not ask for {', '.join(asked)}: memory types are not supported" if asked else ""


def _second_level(entry: NestedEntry) -> str:
    levels = entry.unit.second_levels
    fits = entry.domain.fit(levels) is not None
    return "" if fits else f"the second-level table of {entry.domain.name} must fit into {levels} levels"


NESTED_CHECKS: Final = (
    Check("nested translation", "EINVAL", _nesting),
    Check("nesting mode", "EINVAL", _nesting_mode),
    Check("in use", "EBUSY", _in_use),
    Check("5-level", "EINVAL", _five_levels),
    Check("width", "EINVAL", _width),
    Check("root", "EINVAL", _root),
    Check("SRE", "EINVAL", _supervisor),
    Check("EAFE", "EINVAL", _extended_accessed),
    Check("memory type", "EINVAL", _memory_type),
    Check("second level", "EINVAL", _second_level),
)
"""What a nested entry is refused for, in order (facts 4.3). Without memory for an entry's table: ``-ENOMEM``, later."""
