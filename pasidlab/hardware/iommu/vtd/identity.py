"""The identity card of a VT-d unit: what its capability registers say, and the few things that they do not.

Models the choices a chip (or the author of an emulated unit) makes: CAP, ECAP and VCCAP are encoded from it, the walk
obeys it. Attributes have the names of the register fields in lower case. ``mgaw`` and ``nfr`` hold the number itself
(the registers hold it minus 1); ``pss`` is the register's value, PASIDs have ``pss + 1`` bits.

Three things are not in those registers: ``haw`` (the host address width, which firmware tells in the DMAR table),
``revision`` (which fields a PASID entry has), ``vcmd`` (where the virtual command registers lie).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, unique

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_AT_E10, VirtualCommandInterface
from pasidlab.hardware.layouts.vtd import CAP_REG, ECAP_REG

__all__ = ["Revision", "VtdIdentity"]

_STORED_MINUS_1 = frozenset({"mgaw", "nfr"})


@unique
class Revision(StrEnum):
    """Which revision of the specification decides about fields that came and went.

    ``V3`` accepts every field that Linux 6.1 sets (NXE among them) and answers a RID_PASID beyond the directory with
    0x48. ``V4_1`` reserves SLEE, ERE, CD, EMTE, EMT, PWT, PCD and PAT in a PASID entry, ignores NXE and SMEP
    (deprecated), and treats a RID_PASID beyond the directory as a contradiction in the context entry, 0x43. That the
    latter then stops requests with a PASID too is our reading: UNVERIFIED.
    """

    V3 = "3.x"
    V4_1 = "4.1"


@dataclass(frozen=True, slots=True)
class VtdIdentity:
    """What one unit can do. The default is a server's unit with everything that nested translation needs, and without
    page requests, which are not modelled. (DT is set, but no device has a TLB: drivers leave DTE clear.)

    >>> host = VtdIdentity()
    >>> hex(host.cap()), hex(host.ecap())
    ('0x81d2078c406f0406', '0x3e99884f00fdf')
    >>> VtdIdentity.from_registers(host.cap(), host.ecap()) == host
    True
    >>> guest = VtdIdentity.guest()
    >>> guest.cm, guest.vcs, guest.nest
    (True, True, False)
    """

    # CAP
    nd: int = 6
    cm: bool = False
    sagaw: int = 0b00100
    mgaw: int = 48
    fro: int = 0x40
    sllps: int = 0b0011
    psi: bool = True
    nfr: int = 8
    mamv: int = 18
    dwd: bool = True
    drd: bool = True
    zlr: bool = True
    fl1gp: bool = True
    fl5lp: bool = False
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
    nest: bool = True
    prs: bool = False
    ers: bool = False
    srs: bool = True
    eafs: bool = False
    pss: int = 19
    pasid: bool = True
    pds: bool = False
    smts: bool = True
    vcs: bool = False
    ssads: bool = True
    ssts: bool = True
    fsts: bool = True
    smpwcs: bool = True
    rps: bool = True
    adms: bool = False
    rprivs: bool = False
    # elsewhere
    haw: int = 48
    revision: Revision = Revision.V3
    vcmd: VirtualCommandInterface = VCMD_AT_E10

    @classmethod
    def guest(cls) -> VtdIdentity:
        """An emulated unit as a hypervisor gives it to a guest: caching mode, virtual commands, first level only."""
        return cls(cm=True, vcs=True, nest=False, ssts=False, ssads=False, sagaw=0b00100, esrtps=False)

    @classmethod
    def from_registers(cls, cap: int, ecap: int, haw: int | None = None) -> VtdIdentity:
        """The card of a unit of which only CAP and ECAP are known; ``haw`` is its MGAW when not given."""
        card = cls()  # still being made, hence not frozen yet
        for layout, word in ((CAP_REG, cap), (ECAP_REG, ecap)):
            for field in layout:
                name = field.name.lower()
                if hasattr(card, name):
                    value = field.get((word,)) + (name in _STORED_MINUS_1)
                    object.__setattr__(card, name, bool(value) if field.width == 1 else value)
        return replace(card, haw=card.mgaw if haw is None else haw)

    def cap(self) -> int:
        """The capability register."""
        return self._encode(CAP_REG)

    def ecap(self) -> int:
        """The extended capability register."""
        return self._encode(ECAP_REG)

    def _encode(self, layout: Layout) -> int:
        whole = 0
        for field in layout:
            name = field.name.lower()
            value = int(getattr(self, name, 0))
            whole |= field.put(value - 1 if name in _STORED_MINUS_1 else value)
        return whole
