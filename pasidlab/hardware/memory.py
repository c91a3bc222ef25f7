"""Memory: 64-bit little-endian words in 4 KiB frames, each store journaled.

Models DRAM behind the memory controller. Frames that were never written read as zero and cost nothing. An address
beyond the end is a :class:`~pasidlab.errors.BusError`: who asked decides what that means (a fault code, an errno).

The same interface serves physical memory and a guest's memory (which is a view of physical memory), so everything that
reads tables, silicon and emulation alike, takes a :class:`Memory`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, cast

from pasidlab.errors import BusError

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["PAGE_SHIFT", "PAGE_SIZE", "Memory", "PhysicalMemory"]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
_WORDS = PAGE_SIZE // 8


class Memory(ABC):
    """Words and bytes by address. Words are 8-byte aligned; a run of words or bytes may cross frames."""

    @abstractmethod
    def load(self, address: int) -> int:
        """The 64-bit word at ``address``."""

    @abstractmethod
    def store(self, address: int, value: int) -> None:
        """Write a 64-bit word."""

    def load_words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` consecutive words."""
        return tuple(self.load(address + 8 * index) for index in range(count))

    def store_words(self, address: int, words: Sequence[int]) -> None:
        """Write consecutive words, lowest address first."""
        for index, word in enumerate(words):
            self.store(address + 8 * index, word)

    def load32(self, address: int) -> int:
        """The 32-bit word at a 4-byte aligned address."""
        return self.load(address & ~7) >> 8 * (address & 4) & 0xFFFF_FFFF

    def store32(self, address: int, value: int) -> None:
        """Write a 32-bit word."""
        aligned, shift = address & ~7, 8 * (address & 4)
        self.store(aligned, self.load(aligned) & ~(0xFFFF_FFFF << shift) | value << shift)

    def read(self, address: int, length: int) -> bytes:
        """``length`` bytes."""
        first = address & ~7
        count = (address + length - first + 7) // 8
        data = b"".join(word.to_bytes(8, "little") for word in self.load_words(first, count))
        return data[address - first : address - first + length]

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; bytes of the outer words that are not covered keep their value."""
        if not data:
            return
        first, end = address & ~7, address + len(data)
        last = (end - 1) & ~7
        head = self.load(first).to_bytes(8, "little")[: address - first]
        tail = self.load(last).to_bytes(8, "little")[end - last :]
        whole = head + data + tail
        self.store_words(first, [int.from_bytes(whole[at : at + 8], "little") for at in range(0, len(whole), 8)])

    def clear_frame(self, address: int) -> None:
        """Write zero to every word of a 4 KiB frame."""
        self.store_words(address, [0] * _WORDS)


class PhysicalMemory(Memory):
    """``size`` bytes of memory starting at address 0.

    >>> from pasidlab.timeline import Timeline
    >>> memory = PhysicalMemory(Timeline(), "ram", 1 << 20)
    >>> memory.write(0x1003, b"hello")
    >>> memory.read(0x1003, 5), hex(memory.load(0x1000))
    (b'hello', '0x6f6c6c6568000000')
    """

    def __init__(self, timeline: Timeline, path: str, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"size must be a positive multiple of {PAGE_SIZE}, not {size}")
        self.path = path
        self.size = size
        self._frames: dict[int, list[int]] = {}
        self._log = timeline.journal.log

    def load(self, address: int) -> int:
        """The 64-bit word at ``address``."""
        frame = self._frames.get(address >> 12)
        if frame is None:
            if not 0 <= address <= self.size - 8:
                raise BusError(address)
            return 0
        return frame[address >> 3 & 511]

    def store(self, address: int, value: int) -> None:
        """Write a 64-bit word."""
        frame = self._frames.get(address >> 12)
        if frame is None:
            if not 0 <= address <= self.size - 8:
                raise BusError(address)
            if not value:
                return
            frame = self._frames[address >> 12] = [0] * _WORDS
        index = address >> 3 & 511
        old = frame[index]
        if old != value:
            frame[index] = value
            self._log.append((self, address & ~7, old, value))

    def load_words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` consecutive words; inside one frame this is one look-up."""
        index = address >> 3 & 511
        if index + count > _WORDS:
            return super().load_words(address, count)
        frame = self._frames.get(address >> 12)
        if frame is None:
            if not 0 <= address <= self.size - 8 * count:
                raise BusError(address)
            return (0,) * count
        return tuple(frame[index : index + count])

    def clear_frame(self, address: int) -> None:
        """Write zero to every word of a 4 KiB frame (a frame that was never written costs nothing)."""
        if self._frames.get(address >> 12) is not None:
            super().clear_frame(address)

    def restore(self, key: Hashable, value: object) -> None:
        """Put a word back without recording it (the journal's way in)."""
        address, word = cast("int", key), cast("int", value)
        self._frames[address >> 12][address >> 3 & 511] = word

    def __repr__(self) -> str:
        return f"<PhysicalMemory {self.path}, {self.size >> 20} MiB>"
