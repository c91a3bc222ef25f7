"""What the driver reads once out of the feature registers and asks for afterwards.

Models the ``iommu_feature``/``check_feature`` tests of ``drivers/iommu/amd``, and ``get_gcr3_levels``: a GCR3 table has
as many levels of nine bits as PASIDs need, which Linux keeps to 16 bits (facts/hardware.md 4), as many as
INVALIDATE_IOTLB_PAGES can say.

UNVERIFIED: that the unit can talk to device TLBs is told by the firmware (the IOTLB support flag of IVRS and of the
PCI capability), which is not modelled; it is taken to be so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.layouts.amd import EFR, EFR2
from pasidlab.kernel.iommu.device import Reach

__all__ = ["NO_HOST_TABLES", "Capabilities", "gcr3_levels"]

NO_HOST_TABLES: Final = 3
"""HATS of a unit without host translation: what a guest is shown."""
_LEAST_HOST_LEVELS: Final = 4
_BITS_OF_LEVEL: Final = 9
_PASID_MASK_BITS: Final = 16
_FOUR_LEVELS: Final = 4


def gcr3_levels(pasid_bits: int) -> int:
    """How many levels of GCR3 tables are needed for PASIDs of so many bits (at least one).

    >>> [gcr3_levels(bits) for bits in (0, 9, 10, 16, 20)]
    [1, 1, 2, 2, 3]
    """
    return max(1, -(-pasid_bits // _BITS_OF_LEVEL))


class Capabilities(NamedTuple):
    """``second_levels`` is how many levels of host table the unit walks at most, ``guest_levels`` of guest table,
    ``gcr3_levels`` of GCR3 tables; ``guest_tables``: a GCR3 root can be guest-physical (GCR3TRPMode). Without guest
    translation there are no PASIDs.

    >>> from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
    >>> host, guest = AmdIdentity(), AmdIdentity.guest()
    >>> unit = Capabilities.read(host.efr(), host.efr2())
    >>> unit.nesting, unit.second_levels, unit.guest_levels, unit.gcr3_levels, unit.pasid_bits
    (True, 6, 5, 3, 16)
    >>> Capabilities.read(guest.efr(), guest.efr2()).second_levels
    0
    """

    guest_translation: bool
    guest_tables: bool
    second_levels: int
    guest_levels: int
    gcr3_levels: int
    pasid_bits: int
    page_requests: bool
    auto_response: bool
    messages: bool
    giov: bool
    invalidate_all: bool

    @classmethod
    def read(cls, efr: int, efr2: int) -> Capabilities:
        """Read the two registers."""
        able = EFR.decode((efr,))
        levels = 0 if able["HATS"] == NO_HOST_TABLES else able["HATS"] + _LEAST_HOST_LEVELS
        bits = min(able["PASmax"] + 1, _PASID_MASK_BITS, _BITS_OF_LEVEL * (able["GLX"] + 1)) if able["GT"] else 0
        return cls(
            guest_translation=bool(able["GT"]),
            guest_tables=bool(EFR2["GCR3TRP"].get((efr2,))),
            second_levels=levels,
            guest_levels=_FOUR_LEVELS + int(able["GATS"] > 0),
            gcr3_levels=able["GLX"] + 1,
            pasid_bits=bits,
            page_requests=bool(able["PPR"]),
            auto_response=bool(able["PPRAUTORSP"]),
            messages=bool(able["MSICAPMMIO"]),
            giov=bool(able["GIOSUP"]),
            invalidate_all=bool(able["IA"]),
        )

    @property
    def nesting(self) -> bool:
        """Whether a guest's own GCR3 table can be put over a host table: its addresses are guest-physical."""
        return self.guest_translation and self.guest_tables and self.second_levels > 0

    @property
    def reach(self) -> Reach:
        """What the unit lets devices do. Page requests need an interrupt, whose message is programmed in MMIO space."""
        return Reach(self.pasid_bits, ats=True, pri=self.page_requests and self.messages)
