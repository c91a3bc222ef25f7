"""What the driver reads once out of CAP and ECAP (and of the processor) and asks for afterwards.

Models the ``ecap_nest``, ``ecap_srs``, ``cap_5lp_support`` ... tests of ``drivers/iommu/intel``, and ``iommu->agaw``:
the widest second level that the unit walks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.layouts.vtd import CAP_REG, ECAP_REG

__all__ = ["Capabilities"]

_BUILT: Final = 0b0110
"""Second levels that this driver can offer: its tables have 4 levels, and may have 3."""
_SUPPORT: Final = {"SRE": "SRS", "EAFE": "EAFS"}
"""Fields of a PASID entry that need a capability, and the capability."""


class Capabilities(NamedTuple):
    """``second_levels`` is how many levels of second-level table the unit walks at most; ``lacks`` are fields of a
    PASID entry that it does not support.

    >>> from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
    >>> card = VtdIdentity(fl5lp=True, sagaw=0b0110, eafs=False)
    >>> unit = Capabilities.read(card.cap(), card.ecap(), la57=True)
    >>> unit.nesting, unit.five_level, unit.second_levels, sorted(unit.lacks)
    (True, True, 4, ['EAFE'])
    """

    nesting: bool
    first_level: bool
    second_level: bool
    five_level: bool
    second_levels: int
    snoop: bool
    lacks: frozenset[str]

    @classmethod
    def read(cls, cap: int, ecap: int, *, la57: bool = False) -> Capabilities:
        """Read the two registers; a first level of five levels needs ``la57`` of the processor as well."""
        widths = CAP_REG["SAGAW"].get((cap,)) & _BUILT
        return cls(
            nesting=bool(ECAP_REG["NEST"].get((ecap,))),
            first_level=bool(ECAP_REG["FSTS"].get((ecap,))),
            second_level=bool(ECAP_REG["SSTS"].get((ecap,))),
            five_level=la57 and bool(CAP_REG["FL5LP"].get((cap,))),
            second_levels=widths.bit_length() + 1 if widths else 0,
            snoop=bool(ECAP_REG["SMPWCS"].get((ecap,))),
            lacks=frozenset(name for name, support in _SUPPORT.items() if not ECAP_REG[support].get((ecap,))),
        )
