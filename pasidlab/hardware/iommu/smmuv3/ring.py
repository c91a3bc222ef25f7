"""A queue in memory between software and unit: a ring with two indices, each with a wrap bit.

Models what command, event and PRI queue have in common (specification, IHI 0070, 3.5.1): the index of the next entry to
write (PROD) and of the next to read (CONS) count to the size of the ring and then flip a wrap bit, so that equal
indices mean an empty ring when the wrap bits are equal, and a full one when they differ. The base is aligned to the
ring's size; the address bits below are taken as zero.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.smmuv3.register_file import RegisterFile
from pasidlab.hardware.layouts.smmu import QUEUE_BASE_REG
from pasidlab.hardware.memory import Memory

__all__ = ["OVERFLOW", "Ring"]

OVERFLOW: Final = 1 << 31
"""Of PROD and CONS of event and PRI queue: entries were lost, and software has seen that, while the bits are equal."""


class Ring(NamedTuple):
    """One queue: where its three registers are, what its entries look like, log2 of the most entries it may have."""

    registers: RegisterFile
    memory: Memory
    base: int
    prod: int
    cons: int
    layout: Layout
    most: int

    @property
    def bits(self) -> int:
        """log2 of the number of entries."""
        return min(QUEUE_BASE_REG["LOG2SIZE"].get((self.registers.get64(self.base),)), self.most)

    @property
    def write_index(self) -> int:
        """PROD with its wrap bit."""
        return self.registers[self.prod] & (2 << self.bits) - 1

    @property
    def read_index(self) -> int:
        """CONS with its wrap bit."""
        return self.registers[self.cons] & (2 << self.bits) - 1

    @property
    def empty(self) -> bool:
        """Nothing to read."""
        return self.write_index == self.read_index

    @property
    def full(self) -> bool:
        """No room to write."""
        return self.write_index ^ self.read_index == 1 << self.bits

    @property
    def overflown(self) -> bool:
        """Whether entries were lost that software has not acknowledged."""
        return bool((self.registers[self.prod] ^ self.registers[self.cons]) & OVERFLOW)

    def address(self, index: int) -> int:
        """Where the entry of an index lies."""
        size = self.layout.size << self.bits
        base = QUEUE_BASE_REG["ADDR"].get((self.registers.get64(self.base),)) & -size
        return base + (index & (1 << self.bits) - 1) * self.layout.size

    def after(self, index: int) -> int:
        """The next index, with its wrap bit.

        >>> from pasidlab.hardware.layouts.smmu_queue import EVENT
        >>> from pasidlab.hardware.memory import PhysicalMemory
        >>> from pasidlab.timeline import Timeline
        >>> time = Timeline(); registers = RegisterFile(time, "unit", {})
        >>> registers[0xA0] = 0x1002
        >>> ring = Ring(registers, PhysicalMemory(time, "ram", 1 << 20), 0xA0, 0xA8, 0xAC, EVENT, 7)
        >>> [ring.after(index) for index in (0, 3, 7)], hex(ring.address(6))
        ([1, 4, 0], '0x1040')
        """
        return (index + 1) & (2 << self.bits) - 1

    def put(self, words: tuple[int, ...]) -> bool:
        """The unit writes an entry; ``False`` if the ring is full, ``BusError`` if no memory answers."""
        if self.full:
            return False
        index = self.write_index
        self.memory.store_words(self.address(index), words)
        self.registers[self.prod] = self.registers[self.prod] & OVERFLOW | self.after(index)
        return True

    def lose(self) -> None:
        """Tell that an entry was lost."""
        if not self.overflown:
            self.registers[self.prod] ^= OVERFLOW

    def waiting(self) -> list[tuple[int, ...]]:
        """The entries that were written and not read, oldest first; at most a whole ring."""
        index, found = self.read_index, []
        for _ in range(1 << self.bits):
            if index == self.write_index:
                break
            found.append(self.memory.load_words(self.address(index), self.layout.word_count))
            index = self.after(index)
        return found
