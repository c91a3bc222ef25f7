"""What the driver reads once out of IDR0, IDR1, IDR3 and IDR5, and asks for afterwards.

Models ``arm_smmu_device_hw_probe`` of Linux 6.1 ``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c``. Where the unit has no
two-level tables of context descriptors, the driver uses linear ones of at most 2^10 (``CTXDESC_LINEAR_CDMAX``): no
device gets wider PASIDs then. A device whose transactions the unit may hold must not use ATS (specification, 3.12), so
a unit that holds every one that faults (STALL_MODEL 2) lets no device do so.

Linux takes units into use that lack stage 1, SubstreamIDs or 4 KiB tables, for what can be done without. There is
nothing here that could, so such a unit is refused as a whole.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.layouts.smmu import IDR0_REG, IDR1_REG, IDR3_REG, IDR5_REG

__all__ = ["LINEAR_BITS", "Capabilities"]

LINEAR_BITS: Final = 10
"""log2 of the most context descriptors in a linear table."""
_WIDTHS: Final = (32, 36, 40, 42, 44, 48, 52)
_FORCED: Final = 2
_NO_STALLS: Final = 1
_LARGEST_QUEUE: Final = 8
"""log2 of the most entries that a queue gets here: a page of memory. Linux takes what the unit offers and fits."""
_BATCH: Final = 6
"""log2 of how many commands a batch of Linux has; a queue must have room for more."""
_FOUR_LEVELS: Final = 44
"""Output bits from which on stage 2 may begin at level 0 (Arm Architecture Reference Manual, VTCR_EL2.SL0)."""


class Capabilities(NamedTuple):
    """What one unit can do. ``address_code`` is IDR5.OAS, ``address_bits`` what it means; ``substream_bits`` how wide
    SubstreamIDs are, ``ssid_bits`` the PASIDs of a device with this driver's tables; ``stalls``: it can hold
    transactions, ``forced``: it holds every one that faults.

    >>> from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
    >>> card = SmmuIdentity(oas=40, cd2l=False, stall_model=2)
    >>> unit = Capabilities.read(card.idr0(), card.idr1(), card.idr3(), card.idr5())
    >>> unit.nesting, unit.second_levels, unit.ssid_bits, unit.ats, unit.forced
    (True, 3, 10, False, True)
    """

    stage1: bool
    stage2: bool
    pages: bool
    two_level_streams: bool
    two_level_contexts: bool
    sid_bits: int
    ssid_bits: int
    substream_bits: int
    asid_bits: int
    vmid_bits: int
    address_code: int
    ats: bool
    pri: bool
    stalls: bool
    forced: bool
    messages: bool
    ranges: bool
    commands: int
    events: int
    page_requests: int

    @classmethod
    def read(cls, idr0: int, idr1: int, idr3: int, idr5: int) -> Capabilities:
        """Read the four registers."""
        able, sizes = IDR0_REG.decode((idr0,)), IDR1_REG.decode((idr1,))
        two_level, forced = bool(able["CD2L"]), able["STALL_MODEL"] == _FORCED
        ssid_bits = sizes["SSIDSIZE"] if two_level else min(sizes["SSIDSIZE"], LINEAR_BITS)
        ats = bool(able["ATS"]) and not forced
        return cls(
            stage1=bool(able["S1P"]),
            stage2=bool(able["S2P"]),
            pages=bool(IDR5_REG["GRAN4K"].get((idr5,))),
            two_level_streams=able["ST_LEVEL"] == 1,
            two_level_contexts=two_level,
            sid_bits=sizes["SIDSIZE"],
            ssid_bits=ssid_bits,
            substream_bits=sizes["SSIDSIZE"],
            asid_bits=16 if able["ASID16"] else 8,
            vmid_bits=16 if able["VMID16"] else 8,
            address_code=IDR5_REG["OAS"].get((idr5,)),
            ats=ats,
            pri=bool(able["PRI"]) and ats,
            stalls=able["STALL_MODEL"] != _NO_STALLS,
            forced=forced,
            messages=bool(able["MSI"]),
            ranges=bool(IDR3_REG["RIL"].get((idr3,))),
            commands=min(sizes["CMDQS"], _LARGEST_QUEUE),
            events=min(sizes["EVTQS"], _LARGEST_QUEUE - 1),
            page_requests=min(sizes["PRIQS"], _LARGEST_QUEUE),
        )

    @property
    def address_bits(self) -> int:
        """How wide an address is that the unit puts out."""
        return _WIDTHS[min(self.address_code, len(_WIDTHS) - 1)]

    @property
    def output_code(self) -> int:
        """The code of that width for IPS and S2PS: at most 48 bits, as tables of 4 KiB have them."""
        return min(self.address_code, _WIDTHS.index(48))

    @property
    def nesting(self) -> bool:
        """Whether stage 1 can be nested over stage 2."""
        return self.stage1 and self.stage2

    @property
    def second_levels(self) -> int:
        """How many levels of stage-2 table this driver offers: 4 or 3, 0 without stage 2."""
        if not self.stage2:
            return 0
        return 4 if self.address_bits >= _FOUR_LEVELS else 3

    @property
    def second_bits(self) -> int:
        """How wide the input of stage 2 is, with that many levels."""
        return min(self.address_bits, 48 if self.second_levels == 4 else 39)

    def missing(self) -> list[str]:
        """What the driver needs and the unit does not have."""
        needed = {"stage 1": self.stage1, "SubstreamIDs": self.ssid_bits > 0, "tables of 4 KiB": self.pages}
        needed["interrupts by message"] = self.messages
        needed[f"a queue of more than {1 << _BATCH} commands"] = self.commands > _BATCH
        return [words for words, there in needed.items() if not there]
