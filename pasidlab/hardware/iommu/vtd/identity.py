"""The identity card of a VT-d unit: what its capability registers say, and the few things that they do not.

Models the choices a chip (or the author of an emulated unit) makes: VER, CAP, ECAP and VCCAP are encoded from it, the
walk obeys it. Every field of ``vtd_cap_reg`` and ``vtd_ecap_reg`` is an attribute with the name of the field in lower
case. ``mgaw`` and ``nfr`` hold the number itself (the registers hold it minus 1); ``pss`` is the register's value,
PASIDs have ``pss + 1`` bits; ``ver`` has the major version in bits 7:4.

Four things are not in those registers: ``haw`` (the host address width, which firmware tells in the DMAR table),
``revision`` (which fields a PASID entry has), ``vcmd`` (where the virtual command registers lie), ``caches`` (whether
the unit keeps what it has read, until it is told to forget; hardware may, and software must assume it does).

A card that no unit can have is refused: numbers that do not fit their fields, a second level without a depth, fault
records on top of other registers. Combinations that the specification merely advises against (NEST without FSTS, say)
are accepted, because real units report such things; the rules then do not offer what one half of them needs.

Nothing happens by these attributes alone, they are only shown: AFL, RWBF beyond GCMD.WBF, PLMR, PHMR, ZLR, PI,
ESIRTPS, IR, EIM, MHMV, IRO, MTS, DIS, OLD_PASID, NWFS, PMS.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum, unique

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.vtd.identity_rows import CardRow, card_row
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_AT_E10, VirtualCommandInterface
from pasidlab.hardware.layouts.vtd import CAP_REG, ECAP_REG
from pasidlab.hardware.layouts.vtd_control import VER_REG

__all__ = ["Revision", "VtdIdentity"]

_STORED_MINUS_1 = frozenset({"mgaw", "nfr"})
_FIRST_FREE_REGISTER = 0xF0
_MOST_ADDRESS_BITS = 52
"""Bits 51:12 of a paging entry are its address."""


@unique
class Revision(StrEnum):
    """Which revision of the specification decides about fields that came and went.

    ``V3`` accepts every field that Linux 6.1 sets (NXE among them) and answers a RID_PASID beyond the directory with
    0x48. ``V4_1`` reserves SLEE, ERE, CD, EMTE, EMT, PWT, PCD and PAT in a PASID entry, ignores NXE and SMEP
    (deprecated), and treats a RID_PASID beyond the directory as a contradiction in the context entry, 0x43, which
    stops requests with a PASID too.
    """

    V3 = "3.x"
    V4_1 = "4.1"


@dataclass(frozen=True, slots=True)
class VtdIdentity:
    """What one unit can do. The default is a server's unit with everything that nested translation and shared virtual
    addressing need: device TLBs, page requests and their drain among it.

    >>> host = VtdIdentity()
    >>> hex(host.cap()), hex(host.ecap())
    ('0x81d2078c406f0406', '0x3ef9ca4f00fdf')
    >>> VtdIdentity.from_registers(host.cap(), host.ecap()) == host
    True
    >>> guest = VtdIdentity.guest()
    >>> guest.cm, guest.vcs, guest.prs, guest.nest
    (True, True, True, False)
    >>> VtdIdentity(nfr=300)
    Traceback (most recent call last):
    ...
    ValueError: nfr must be between 1 and 256, not 300 (width of CAP.NFR, facts/hardware.md 1.1)
    >>> print(*VtdIdentity().describe()[:3], sep="\\n")
       VER VER        version 4.0              architecture version: major in bits 7:4, minor in bits 3:0
       CAP ND         65536 domains            domain ids: 2^(4+2*ND)
       CAP AFL        no                       advanced fault log
    """

    # VER
    ver: int = 0x40
    # CAP
    nd: int = 6
    afl: bool = False
    rwbf: bool = False
    plmr: bool = False
    phmr: bool = False
    cm: bool = False
    sagaw: int = 0b00100
    mgaw: int = 48
    zlr: bool = True
    fro: int = 0x40
    sllps: int = 0b0011
    psi: bool = True
    nfr: int = 8
    mamv: int = 18
    dwd: bool = True
    drd: bool = True
    fl1gp: bool = True
    pi: bool = False
    fl5lp: bool = False
    esirtps: bool = False
    esrtps: bool = True
    # ECAP
    c: bool = True
    qi: bool = True
    dt: bool = True
    ir: bool = True
    eim: bool = True
    pt: bool = True
    sc: bool = True
    iro: int = 0xF
    mhmv: int = 0xF
    mts: bool = False
    nest: bool = True
    dis: bool = False
    old_pasid: bool = False
    prs: bool = True
    ers: bool = False
    srs: bool = True
    nwfs: bool = False
    eafs: bool = True
    pss: int = 19
    pasid: bool = True
    dit: bool = True
    pds: bool = True
    smts: bool = True
    vcs: bool = False
    ssads: bool = True
    ssts: bool = True
    fsts: bool = True
    smpwcs: bool = True
    rps: bool = True
    pms: bool = False
    adms: bool = False
    rprivs: bool = False
    sms: bool = False
    # elsewhere
    haw: int = 48
    revision: Revision = Revision.V3
    vcmd: VirtualCommandInterface = VCMD_AT_E10
    caches: bool = True

    def __post_init__(self) -> None:
        """Refuse a card that no unit can have; ``TypeError`` for what is no number, no flag, no revision."""
        usual = {field.name: field.default for field in fields(self)}
        for name, default in usual.items():
            wanted = type(default)
            if type(getattr(self, name)) is not wanted:
                raise TypeError(f"{name} must be {wanted.__name__}, not {getattr(self, name)!r}")
        for register, layout in (("VER", VER_REG), ("CAP", CAP_REG), ("ECAP", ECAP_REG)):
            for field in layout:
                self._check(field.name, (1 << field.width) - 1, f"width of {register}.{field.name}")
        self._check("HAW", _MOST_ADDRESS_BITS, "address bits of a paging entry", least=13)
        if self.ssts and not self.sagaw & 0b01110:
            raise ValueError(
                f"sagaw must have a bit of 0b01110 when ssts is set, not {self.sagaw:#07b} "
                "(AW must be in CAP.SAGAW, facts/hardware.md 1.2)"
            )
        self._check_offsets()

    def _check(self, name: str, most: int, rule: str, least: int = 0) -> None:
        """One number between its bounds; ``most`` is what the register can hold."""
        name = name.lower()
        shift = int(name in _STORED_MINUS_1)
        value = int(getattr(self, name))
        if not least + shift <= value <= most + shift:
            raise ValueError(
                f"{name} must be between {least + shift} and {most + shift}, not {value} "
                f"({rule}, facts/hardware.md 1.1)"
            )

    def _check_offsets(self) -> None:
        """No fault record where another register is."""
        first, behind = 16 * self.fro, 16 * (self.fro + self.nfr)
        taken = [(0, _FIRST_FREE_REGISTER, "the fixed registers")]
        if self.vcs:
            taken.append((*self.vcmd.range, "the virtual command registers"))
        for start, end, whose in taken:
            if first < end and start < behind:
                raise ValueError(
                    f"the fault records must lie outside {whose} ({start:#x} to {end - 1:#x}), "
                    f"not from {first:#x} to {behind - 1:#x} (CAP.FRO and NFR, facts/hardware.md 1.1)"
                )

    @classmethod
    def guest(cls) -> VtdIdentity:
        """An emulated unit as a hypervisor gives it to a guest.

        Caching mode and virtual commands; first level only; device TLBs and page requests are the assigned device's.
        """
        return cls(cm=True, vcs=True, nest=False, ssts=False, ssads=False, esrtps=False)

    @classmethod
    def from_registers(cls, cap: int, ecap: int, haw: int | None = None, ver: int | None = None) -> VtdIdentity:
        """The card of a unit of which only registers are known.

        ``haw`` is its MGAW when not given, as far as a paging entry can hold it (52 bits). Bits that CAP_REG and
        ECAP_REG do not name are dropped. A ``ValueError`` says which field is impossible.
        """
        card = cls()  # still being made, hence not frozen yet
        for layout, word in ((CAP_REG, cap), (ECAP_REG, ecap)):
            for field in layout:
                name = field.name.lower()
                value = field.get((word,)) + (name in _STORED_MINUS_1)
                object.__setattr__(card, name, bool(value) if field.width == 1 else value)
        width = min(card.mgaw, _MOST_ADDRESS_BITS) if haw is None else haw
        return replace(card, haw=width, ver=card.ver if ver is None else ver)

    @property
    def address_bits(self) -> int:
        """The host address width."""
        return self.haw

    def check_silicon(self) -> None:
        """``ValueError`` for virtual commands and caching mode, which only the unit of a guest has."""
        if self.vcs or self.cm:
            raise ValueError("identity must not have vcs or cm: virtual commands and caching mode are a guest's")

    @property
    def expression(self) -> str:
        """Python that makes this card: what differs from the default one.

        >>> VtdIdentity(nest=False, nfr=1).expression
        'VtdIdentity(nfr=1, nest=False)'
        """
        usual = VtdIdentity()
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        words = [f"{name}={value!r}" for name, value in named if value != getattr(usual, name)]
        return f"{type(self).__name__}({', '.join(words)})"

    def cap(self) -> int:
        """The capability register."""
        return self._encode(CAP_REG)

    def ecap(self) -> int:
        """The extended capability register."""
        return self._encode(ECAP_REG)

    def describe(self) -> list[CardRow]:
        """Every field of VER, CAP and ECAP, lowest bit first, and what is said elsewhere: rows for people."""
        rows = [
            card_row(register, field, value)
            for register, layout, word in (
                ("VER", VER_REG, self.ver),
                ("CAP", CAP_REG, self.cap()),
                ("ECAP", ECAP_REG, self.ecap()),
            )
            for field, value in layout.explain((word,))
        ]
        return [
            *rows,
            CardRow("", "HAW", self.haw, f"{self.haw} bits", "host address width (firmware, DMAR table)"),
            CardRow("", "revision", self.revision, self.revision, "which fields a PASID entry has"),
            CardRow("", "VCMD", self.vcmd.name, self.vcmd.name, "layout of the virtual command registers"),
            CardRow("", "caches", self.caches, "yes" if self.caches else "no", "whether it keeps what it has read"),
        ]

    def _encode(self, layout: Layout) -> int:
        whole = 0
        for field in layout:
            name = field.name.lower()
            whole |= field.put(int(getattr(self, name)) - (name in _STORED_MINUS_1))
        return whole
