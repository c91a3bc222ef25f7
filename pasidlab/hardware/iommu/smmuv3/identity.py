"""The identity card of an SMMU: what IDR0, IDR1, IDR3 and IDR5 say, and whether it keeps what it has read.

Models the choices a chip (or the author of an emulated unit) makes; look-ups and walks obey it. Every field of
``smmu_idr0``, ``smmu_idr1`` and ``smmu_idr3`` is an attribute with the name of the field in lower case; ``oas`` is the
width of addresses in bits (IDR5 holds a code for it), ``stall_max`` how many transactions can be held at a time.

A card that no unit can have is refused, and so is what this model does not walk: AArch32 tables, big-endian tables,
52-bit virtual addresses, preset queues and tables, EL2 streams (HYP).

Only shown, without effect: COHACC, SEV, FWB. The guest's card (:meth:`SmmuIdentity.guest`) is what QEMU's ``smmuv3``
shows with ``accel=on`` (stage 1 alone, no stalls, 8-bit VMIDs); UNVERIFIED: that ATS, PRI and the width of SubstreamIDs
are simply the host's, as its ``ats`` and ``ssidsize`` properties let an administrator say, and that PRI is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.layouts.smmu import IDR0_REG, IDR1_REG, IDR3_REG, IDR5_REG

__all__ = ["ADDRESS_WIDTHS", "SmmuIdentity"]

ADDRESS_WIDTHS: Final = (32, 36, 40, 42, 44, 48, 52)
"""The widths of addresses by their code in IDR5.OAS, CD.IPS and STE.S2PS."""
_PASID_BITS: Final = 20
_RID_BITS: Final = 16
_MOST_STREAM_BITS: Final = 32
_MOST_QUEUE_BITS: Final = 19
_ONLY: Final = {
    "ttf": (2, "AArch64 tables only"),
    "ttendian": (2, "little-endian tables only"),
    "hyp": (False, "streams of EL2 are left out"),
    "rel": (False, "tables and queues are not part of the unit"),
    "queues_preset": (False, "queues are not part of the unit"),
    "tables_preset": (False, "tables are not part of the unit"),
}
"""Fields of which this model has one value only, and why."""


@dataclass(frozen=True, slots=True)
class SmmuIdentity:
    """What one unit can do. The default is a server's unit with both stages, ATS, page requests and stalls.

    >>> host = SmmuIdentity()
    >>> hex(host.idr0()), hex(host.idr1()), hex(host.idr5())
    ('0x84d741b', '0x1074510', '0x1000075')
    >>> SmmuIdentity.from_registers(host.idr0(), host.idr1(), host.idr3(), host.idr5()) == host
    True
    >>> guest = SmmuIdentity.guest()
    >>> guest.s2p, guest.ats, guest.stall_model
    (False, True, 1)
    >>> SmmuIdentity(ssidsize=21)
    Traceback (most recent call last):
    ...
    ValueError: ssidsize must be between 0 and 20, not 21 (a PASID has 20 bits; IDR1.SSIDSIZE, facts/hardware.md 3)
    """

    # IDR0
    s2p: bool = True
    s1p: bool = True
    ttf: int = 2
    cohacc: bool = True
    hyp: bool = False
    ats: bool = True
    asid16: bool = True
    msi: bool = True
    sev: bool = True
    pri: bool = True
    vmid16: bool = True
    cd2l: bool = True
    ttendian: int = 2
    stall_model: int = 0
    st_level: int = 1
    # IDR1
    sidsize: int = 16
    ssidsize: int = 20
    priqs: int = 8
    evtqs: int = 7
    cmdqs: int = 8
    rel: bool = False
    queues_preset: bool = False
    tables_preset: bool = False
    # IDR3
    fwb: bool = False
    ril: bool = True
    # IDR5
    oas: int = 48
    gran4k: bool = True
    gran16k: bool = True
    gran64k: bool = True
    stall_max: int = 256
    # elsewhere
    caches: bool = True

    def __post_init__(self) -> None:
        """Refuse a card that no unit can have, or that this model does not walk; ``TypeError`` for a wrong type."""
        for field in fields(self):
            wanted = type(field.default)
            if type(getattr(self, field.name)) is not wanted:
                raise TypeError(f"{field.name} must be {wanted.__name__}, not {getattr(self, field.name)!r}")
        for name, (value, why) in _ONLY.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} must be {value!r}, not {getattr(self, name)!r} ({why})")
        self._between("stall_model", 0, 2, "0 both, 1 no stalls, 2 stalls only; IDR0.STALL_MODEL")
        self._between("st_level", 0, 1, "0 linear, 1 two-level; IDR0.ST_LEVEL")
        self._between("sidsize", _RID_BITS, _MOST_STREAM_BITS, "a requester ID has 16 bits; IDR1.SIDSIZE")
        self._between("ssidsize", 0, _PASID_BITS, "a PASID has 20 bits; IDR1.SSIDSIZE")
        for name in ("priqs", "evtqs", "cmdqs"):
            self._between(name, 0, _MOST_QUEUE_BITS, f"log2 of the queue's entries; IDR1.{name.upper()}")
        self._between("stall_max", 0, 0xFFFF, "IDR5.STALL_MAX has 16 bits")
        if self.oas not in ADDRESS_WIDTHS:
            raise ValueError(f"oas must be one of {ADDRESS_WIDTHS}, not {self.oas} (IDR5.OAS)")
        self._need("s1p or s2p", self.s1p or self.s2p, "a unit translates by at least one stage")
        self._need("gran4k, gran16k or gran64k", self.gran4k or self.gran16k or self.gran64k, "IDR5 names a granule")
        holds = self.stall_max > 0 or not self.stalls
        self._need("stall_max", holds, "a unit that holds transactions holds at least one; IDR5.STALL_MAX")
        self._need("ats for pri", self.ats or not self.pri, "page requests need ATS")
        self._need("s1p for ssidsize", self.s1p or not self.ssidsize, "substreams choose a context of stage 1")

    def _between(self, name: str, least: int, most: int, rule: str) -> None:
        value = int(getattr(self, name))
        if not least <= value <= most:
            raise ValueError(f"{name} must be between {least} and {most}, not {value} ({rule}, facts/hardware.md 3)")

    def _need(self, what: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{what} must be set, not cleared ({rule}, facts/hardware.md 3)")

    @classmethod
    def guest(cls, host: SmmuIdentity | None = None) -> SmmuIdentity:
        """An emulated unit as a hypervisor gives it to a guest on a ``host`` unit: stage 1 only, no stalls."""
        card = host if host is not None else cls()
        return replace(card, s1p=True, s2p=False, vmid16=False, stall_model=1, stall_max=0)

    @classmethod
    def from_registers(cls, idr0: int, idr1: int, idr3: int, idr5: int) -> SmmuIdentity:
        """The card of a unit of which the registers are known; ``ValueError`` says what this model does not have."""
        found: dict[str, int | bool] = {}
        for layout, word in ((IDR0_REG, idr0), (IDR1_REG, idr1), (IDR3_REG, idr3), (IDR5_REG, idr5)):
            for field in layout:
                value = field.get((word,))
                found[field.name.lower()] = bool(value) if field.width == 1 else value
        code = found["oas"]
        if code >= len(ADDRESS_WIDTHS) or found.pop("vax"):
            raise ValueError("IDR5 must name a known OAS and 48-bit virtual addresses (VAX=0), facts/hardware.md 3")
        card = cls()  # still being made, hence not frozen yet
        for name, value in found.items():
            object.__setattr__(card, name, value)
        return replace(card, oas=ADDRESS_WIDTHS[code])

    @property
    def expression(self) -> str:
        """Python that makes this card: what differs from the default one.

        >>> SmmuIdentity(s2p=False, evtqs=4).expression
        'SmmuIdentity(s2p=False, evtqs=4)'
        """
        usual = SmmuIdentity()
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        words = [f"{name}={value!r}" for name, value in named if value != getattr(usual, name)]
        return f"{type(self).__name__}({', '.join(words)})"

    @property
    def address_bits(self) -> int:
        """How wide a physical address may be."""
        return self.oas

    def check_silicon(self) -> None:
        """``ValueError`` for what only the emulated unit of a guest may have: nothing, on this unit."""

    @property
    def stalls(self) -> bool:
        """Whether a faulting transaction can be held."""
        return self.stall_model != 1

    def idr0(self) -> int:
        """IDR0."""
        return self._encode(IDR0_REG)

    def idr1(self) -> int:
        """IDR1."""
        return self._encode(IDR1_REG)

    def idr3(self) -> int:
        """IDR3."""
        return self._encode(IDR3_REG)

    def idr5(self) -> int:
        """IDR5."""
        return IDR5_REG.encode(
            OAS=ADDRESS_WIDTHS.index(self.oas),
            GRAN4K=self.gran4k,
            GRAN16K=self.gran16k,
            GRAN64K=self.gran64k,
            STALL_MAX=self.stall_max,
        )[0]

    def _encode(self, layout: Layout) -> int:
        return sum(field.put(int(getattr(self, field.name.lower()))) for field in layout)
