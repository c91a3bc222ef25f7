"""Where the registers of a VT-d unit lie, and which of their bits software can change.

Models the register block as a table: offset, writable bits, bits that are cleared by writing 1, value after reset.
Follows Linux 6.1 ``drivers/iommu/intel/iommu.h``, and for the access of each bit VBox/iommu-intel.h and the register
chapter of the specification (11.4, revision 5.10). Storage is by 8-byte word, so a row may hold two 4-byte registers.
A unit without invalidation queue or without page requests does not have their registers. Left out: the IOTLB
registers (scalable mode invalidates through the queue), the advanced fault log, protected memory, interrupt remapping
(IRTA), performance monitoring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.register_words import Register, RegisterFile

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.vtd.identity import VtdIdentity

__all__ = [
    "BASE",
    "CAP",
    "CCMD",
    "ECAP",
    "FECTL",
    "FSTS",
    "GCMD",
    "GCMD_QIE",
    "GCMD_SRTP",
    "GCMD_TE",
    "GSTS",
    "ICS",
    "IECTL",
    "IQA",
    "IQERR",
    "IQH",
    "IQT",
    "PECTL",
    "PQA",
    "PQH",
    "PQT",
    "PRS",
    "RTADDR",
    "SIZE",
    "VER",
    "Register",
    "RegisterFile",
    "register_rows",
]

BASE: Final = 0xFED9_0000
"""Where PCs put the registers of their remapping unit."""
SIZE: Final = 0x1000

VER: Final = 0x00
CAP: Final = 0x08
ECAP: Final = 0x10
GCMD: Final = 0x18
GSTS: Final = 0x1C
RTADDR: Final = 0x20
CCMD: Final = 0x28
FSTS: Final = 0x34
FECTL: Final = 0x38
IQH: Final = 0x80
IQT: Final = 0x88
IQA: Final = 0x90
ICS: Final = 0x9C
IECTL: Final = 0xA0
IQERR: Final = 0xB0
PQH: Final = 0xC0
PQT: Final = 0xC8
PQA: Final = 0xD0
PRS: Final = 0xDC
PECTL: Final = 0xE0

GCMD_TE: Final = 1 << 31
"""Translate requests; GSTS shows the same bit."""
GCMD_SRTP: Final = 1 << 30
"""Let RTADDR take effect; GSTS shows the same bit once that has happened."""
GCMD_QIE: Final = 1 << 26
"""Run the invalidation queue; GSTS shows the same bit."""

_WORD: Final = (1 << 64) - 1
_HALF: Final = 0xFFFF_FFFF


_IM: Final = 1 << 31
_EVENT_CONTROL: Final = 0xFFFF << 32 | _IM
"""An interrupt's mask bit, and beside it the 16 bits of its data."""
_EVENT_ADDRESS: Final = _WORD & ~3
_CCMD_WRITABLE: Final = 1 << 63 | 3 << 61 | 3 << 32 | _HALF

_ROWS: Final = {
    GCMD: Register("GCMD, GSTS"),
    RTADDR: Register("RTADDR", _WORD),
    CCMD: Register("CCMD", _CCMD_WRITABLE),
    0x30: Register("FSTS", 0, 0xF1 << 32),
    FECTL: Register("FECTL, FEDATA", _EVENT_CONTROL, 0, _IM),
    0x40: Register("FEADDR, FEUADDR", _EVENT_ADDRESS),
}
_QUEUE_ROWS: Final = {
    IQH: Register("IQH"),
    IQT: Register("IQT", 0x7_FFF0),
    IQA: Register("IQA", _WORD & ~0x7F8),
    0x98: Register("ICS", 0, 1 << 32),
    IECTL: Register("IECTL, IEDATA", _EVENT_CONTROL, 0, _IM),
    0xA8: Register("IEADDR, IEUADDR", _EVENT_ADDRESS),
    IQERR: Register("IQERR"),
}
_PAGE_REQUEST_ROWS: Final = {
    PQH: Register("PQH", 0x7_FFE0),
    PQT: Register("PQT", 0x7_FFE0),
    PQA: Register("PQA", _WORD & ~0xFF8),
    0xD8: Register("PRS", 0, 3 << 32),
    PECTL: Register("PECTL, PEDATA", _EVENT_CONTROL, 0, _IM),
    0xE8: Register("PEADDR, PEUADDR", _EVENT_ADDRESS),
}


def register_rows(identity: VtdIdentity) -> dict[int, Register]:
    """The registers that a unit has, without its fault records; VER, CAP, ECAP and VCCAP only read."""
    rows = dict(_ROWS)
    if identity.qi:
        rows |= _QUEUE_ROWS
    if identity.prs:
        rows |= _PAGE_REQUEST_ROWS
    if identity.vcs:
        vcmd = identity.vcmd
        rows |= {vcmd.vcmd: Register("VCMD", _WORD), vcmd.vcrsp: Register("VCRSP")}
        if vcmd.operand_b is not None:
            rows[vcmd.operand_b] = Register("VCMD operand B", _WORD)
    return rows
