"""Where the registers of a VT-d unit lie, and which of their bits software can change.

Models the register block as a table: offset, writable bits, bits that are cleared by writing 1. Follows Linux 6.1
``drivers/iommu/intel/iommu.h``. Storage is by 8-byte word, so a row may hold two 4-byte registers. Left out: CCMD and
the IOTLB registers (scalable mode invalidates through the queue), protected memory, interrupt remapping (IRTA),
performance monitoring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = [
    "CAP",
    "ECAP",
    "FSTS",
    "GCMD",
    "GCMD_QIE",
    "GCMD_SRTP",
    "GCMD_TE",
    "GSTS",
    "ICS",
    "IQA",
    "IQERR",
    "IQH",
    "IQT",
    "PQA",
    "PQH",
    "PQT",
    "PRS",
    "RTADDR",
    "VER",
    "Register",
    "RegisterFile",
]

VER: Final = 0x00
CAP: Final = 0x08
ECAP: Final = 0x10
GCMD: Final = 0x18
GSTS: Final = 0x1C
RTADDR: Final = 0x20
FSTS: Final = 0x34
IQH: Final = 0x80
IQT: Final = 0x88
IQA: Final = 0x90
ICS: Final = 0x9C
IQERR: Final = 0xB0
PQH: Final = 0xC0
PQT: Final = 0xC8
PQA: Final = 0xD0
PRS: Final = 0xDC

GCMD_TE: Final = 1 << 31
"""Translate requests; GSTS shows the same bit."""
GCMD_SRTP: Final = 1 << 30
"""Let RTADDR take effect; GSTS shows the same bit once that has happened."""
GCMD_QIE: Final = 1 << 26
"""Run the invalidation queue; GSTS shows the same bit."""

_WORD: Final = (1 << 64) - 1
_HALF: Final = 0xFFFF_FFFF


class Register(NamedTuple):
    """One 8-byte row: which bits a store replaces, and which it clears by writing 1."""

    name: str
    writable: int = 0
    clear_by_one: int = 0


_EVENT_CONTROL: Final = _HALF << 32 | 1 << 31
"""An interrupt's mask bit, and beside it its data."""

_ROWS: Final = {
    GCMD: Register("GCMD, GSTS"),
    RTADDR: Register("RTADDR", _WORD & ~0x3FF),
    0x30: Register("FSTS", 0, 0xF1 << 32),
    0x38: Register("FECTL, FEDATA", _EVENT_CONTROL),
    0x40: Register("FEADDR, FEUADDR", _WORD),
    IQH: Register("IQH"),
    IQT: Register("IQT", 0x7_FFF0),
    IQA: Register("IQA", _WORD & ~0x7F8),
    0x98: Register("ICS", 0, 1 << 32),
    0xA0: Register("IECTL, IEDATA", _EVENT_CONTROL),
    0xA8: Register("IEADDR, IEUADDR", _WORD),
    IQERR: Register("IQERR"),
    PQH: Register("PQH", 0x7_FFE0),
    PQT: Register("PQT", 0x7_FFE0),
    PQA: Register("PQA", _WORD & ~0xFF8),
    0xD8: Register("PRS", 0, 3 << 32),
    0xE0: Register("PECTL, PEDATA", _EVENT_CONTROL),
    0xE8: Register("PEADDR, PEUADDR", _WORD),
}


class RegisterFile:
    """The journaled words of one unit's registers; a word that is zero is not stored.

    >>> from pasidlab.timeline import Timeline
    >>> registers = RegisterFile(Timeline(), "unit", {})
    >>> registers.store(IQT, 0xFFFF_FFFF, _WORD)
    0
    >>> registers.set32(GSTS, 1 << 31)
    >>> hex(registers[IQT]), hex(registers[GCMD]), hex(registers.get32(GSTS))
    ('0x7fff0', '0x8000000000000000', '0x80000000')
    """

    __slots__ = ("_rows", "_words")

    def __init__(self, timeline: Timeline, path: str, more: dict[int, Register]) -> None:
        self._rows = {**_ROWS, **more}
        self._words = Table[int, int](timeline, f"{path}.registers")

    def __getitem__(self, offset: int) -> int:
        return self._words.get(offset, 0)

    def __setitem__(self, offset: int, word: int) -> None:
        """Set an 8-byte word as hardware does, past all write protection."""
        old = self._words.get(offset, 0)
        if word == old:
            return
        if word:
            self._words[offset] = word
        else:
            del self._words[offset]

    def get32(self, offset: int) -> int:
        """The 4-byte register at ``offset``."""
        return self._words.get(offset & ~7, 0) >> 8 * (offset & 4) & _HALF

    def set32(self, offset: int, value: int) -> None:
        """Set a 4-byte register as hardware does."""
        shift = 8 * (offset & 4)
        self[offset & ~7] = self[offset & ~7] & ~(_HALF << shift) | value << shift

    def store(self, offset: int, word: int, lanes: int) -> int:
        """A store by software to the word at ``offset``, into the bytes that ``lanes`` covers.

        Returns the bits that it cleared by writing 1.
        """
        row = self._rows.get(offset)
        if row is None:
            return 0
        old = self[offset]
        writable = row.writable & lanes
        cleared = old & word & row.clear_by_one & lanes
        self[offset] = (old & ~writable | word & writable) & ~cleared
        return cleared
