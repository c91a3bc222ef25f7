"""The storage of an IOMMU's register block: rows of 8 bytes, with what software can change in each.

A row may hold two 4-byte registers. What a register means is the business of the unit that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["Register", "RegisterFile"]

_HALF: Final = 0xFFFF_FFFF


class Register(NamedTuple):
    """One 8-byte row: which bits a store replaces, which it clears by writing 1, what it holds after reset."""

    name: str
    writable: int = 0
    clear_by_one: int = 0
    reset: int = 0


class RegisterFile:
    """The journaled words of one unit's registers; a word that is zero is not stored.

    >>> from pasidlab.timeline import Timeline
    >>> registers = RegisterFile(Timeline(), "unit", {0x88: Register("tail", 0x7_FFF0)})
    >>> registers.store(0x88, 0xFFFF_FFFF, (1 << 64) - 1)
    0
    >>> registers.set32(0x1C, 1 << 31)
    >>> hex(registers[0x88]), hex(registers[0x18]), hex(registers.get32(0x1C))
    ('0x7fff0', '0x8000000000000000', '0x80000000')
    """

    __slots__ = ("_rows", "_words")

    def __init__(self, timeline: Timeline, path: str, rows: dict[int, Register]) -> None:
        self._rows = rows
        self._words = Table[int, int](timeline, f"{path}.registers")
        for offset in sorted(rows):
            self[offset] = rows[offset].reset

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
