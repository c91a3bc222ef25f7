"""A BAR full of registers: journaled 64-bit words with 4-byte and 8-byte access.

Knows nothing about what the registers mean; the device does. Accesses that are not naturally aligned, or not 4
or 8 bytes wide, read as zero and are ignored on writes (PCIe leaves them undefined). An 8-byte store is two 4-byte
stores, low half first, which is how Linux splits it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.bits import Layout
from pasidlab.timeline import HARDWARE, Actor, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.timeline import Timeline

__all__ = ["RegisterFile"]


class RegisterFile(Actor):
    """Storage and access width of a BAR. A word that is zero takes no room, so equal contents have equal digests."""

    def __init__(self, timeline: Timeline, path: str, altitude: str = HARDWARE) -> None:
        super().__init__(timeline, path, altitude)
        self.bar0 = Table[int, int](timeline, f"{path}.bar0")

    # --- the MMIO target ----------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load 4 or 8 bytes."""
        if size not in (4, 8) or offset % size:
            return 0
        word = self._read64(offset & ~7)
        return word if size == 8 else word >> 8 * (offset & 4) & 0xFFFF_FFFF

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes."""
        if size not in (4, 8) or offset % size:
            return
        for step in range(0, size, 4):
            self._write32(offset + step, value >> 8 * step & 0xFFFF_FFFF)

    def post64(self, offset: int, data: bytes) -> None:
        """There is no portal in this BAR: a 64-byte store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no portal in this BAR: retry."""
        return False

    def _read64(self, offset: int) -> int:
        """What a load of the aligned 64-bit word at ``offset`` sees."""
        return self.get(offset)

    def _write32(self, offset: int, value: int) -> None:
        """What a store of 32 bits does; a plain register file is read-only."""

    # --- storage, for whoever implements the registers ----------------------------------------------------------

    def get(self, offset: int) -> int:
        """The stored 64-bit word."""
        return self.bar0.get(offset, 0)

    def put(self, offset: int, word: int) -> None:
        """Store a 64-bit word, whatever software may write."""
        if word:
            self.bar0[offset] = word
        elif offset in self.bar0:
            del self.bar0[offset]

    def get32(self, offset: int) -> int:
        """The stored 32-bit word."""
        return self.get(offset & ~7) >> 8 * (offset & 4) & 0xFFFF_FFFF

    def put32(self, offset: int, value: int) -> None:
        """Store a 32-bit word, whatever software may write."""
        shift = 8 * (offset & 4)
        self.put(offset & ~7, self.get(offset & ~7) & ~(0xFFFF_FFFF << shift) | value << shift)

    def get_words(self, offset: int, layout: Layout) -> tuple[int, ...]:
        """The stored words of a register that ``layout`` describes."""
        if layout.size == 4:
            return (self.get32(offset),)
        get = self.bar0.get
        return tuple([get(at, 0) for at in range(offset, offset + layout.size, 8)])

    def put_words(self, offset: int, layout: Layout, words: Sequence[int]) -> None:
        """Store the words of a register that ``layout`` describes."""
        if layout.size == 4:
            self.put32(offset, words[0])
            return
        for index, word in enumerate(words):
            self.put(offset + 8 * index, word)

    def set_fields(self, offset: int, layout: Layout, **fields: int) -> None:
        """Change fields of a register and keep its other bits."""
        self.put_words(offset, layout, layout.change(self.get_words(offset, layout), **fields))

    def field(self, offset: int, layout: Layout, name: str) -> int:
        """One field of a register."""
        return layout[name].get(self.get_words(offset, layout))

    def clear(self) -> None:
        """Every register zero."""
        for offset in self.bar0.keys():
            del self.bar0[offset]
