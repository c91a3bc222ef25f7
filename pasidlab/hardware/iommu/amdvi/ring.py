"""The two logs of the unit have one shape: a ring in memory that the unit fills at its tail and software empties.

Models base register, head, tail, and the bits of STATUS that tell: running, overflow, interrupt. Follows Linux 6.1
``drivers/iommu/amd/init.c`` (enable_event_buffer, restart of a log) and the sentence on EventOverflow of the
specification that Linux commit "Recover from event log overflow" quotes: an entry that finds no room is discarded and
sets the overflow bit, nothing is written while that is set, and writing 1 to the enable bit resumes.

UNVERIFIED: the running bit falls with an overflow (Linux waits for that); a full ring has one free entry; writing the
base register sets head and tail to zero; a ring that no memory answers for loses entries silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.amdvi.register_file import (
    EVT_BUF,
    EVT_HEAD,
    EVT_TAIL,
    PPR_HEAD,
    PPR_LOG,
    PPR_TAIL,
    STATUS,
    RegisterFile,
)
from pasidlab.hardware.layouts.amd import BUFFER_REG, CONTROL_REG, STATUS_REG
from pasidlab.hardware.memory import Memory

__all__ = ["ENTRY", "EVENT_RING", "PPR_RING", "LogRing", "RingNames"]

ENTRY: Final = 16
"""Bytes of an entry of any ring."""


class RingNames(NamedTuple):
    """Where the registers of a log are, and its bits: of CONTROL ``enable``, of STATUS the others."""

    base: int
    head: int
    tail: int
    enable: int
    run: int
    overflow: int
    interrupt: int


def _bits(enable: str, run: str, overflow: str, interrupt: str) -> tuple[int, int, int, int]:
    status = STATUS_REG
    return CONTROL_REG[enable].mask, status[run].mask, status[overflow].mask, status[interrupt].mask


EVENT_RING: Final = RingNames(
    EVT_BUF, EVT_HEAD, EVT_TAIL, *_bits("EventLogEn", "EventLogRun", "EventOverflow", "EventLogInt")
)
PPR_RING: Final = RingNames(PPR_LOG, PPR_HEAD, PPR_TAIL, *_bits("PPRLogEn", "PPRLogRun", "PPROverflow", "PPRInt"))


class LogRing:
    """The unit's end of one log. ``told`` is called with the bits of STATUS that rose.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> registers = RegisterFile(time, "unit", {})
    >>> registers[EVT_BUF] = BUFFER_REG.encode(Base=0x4000, Length=1)[0]
    >>> log = LogRing(EVENT_RING, registers, PhysicalMemory(time, "ram", 1 << 16), lambda bits: None)
    >>> log.switch(True); log.put((1, 2)), log.put((3, 4)), hex(registers[STATUS]), log.entries()
    (True, False, '0x3', [(1, 2)])
    """

    __slots__ = ("_memory", "_names", "_registers", "_told")

    def __init__(self, names: RingNames, registers: RegisterFile, memory: Memory, told: Callable[[int], None]) -> None:
        self._names, self._registers, self._memory, self._told = names, registers, memory, told

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return ENTRY << BUFFER_REG["Length"].get((self._registers[self._names.base],))

    @property
    def running(self) -> bool:
        """Whether entries are written."""
        return bool(self._registers[STATUS] & self._names.run)

    @property
    def full(self) -> bool:
        """Whether the next entry will be lost for want of room."""
        return (self._offset(self._names.tail) + ENTRY) % self.size == self._offset(self._names.head)

    def switch(self, on: bool) -> None:
        """The enable bit was written, or IommuEn: begin or resume (not while an overflow is set), or stop."""
        status, names = self._registers[STATUS], self._names
        running = on and not status & names.overflow
        self._registers[STATUS] = status | names.run if running else status & ~names.run

    def moved(self) -> None:
        """The base register was written: the ring is empty."""
        self._registers[self._names.head] = self._registers[self._names.tail] = 0

    def put(self, words: tuple[int, ...]) -> bool:
        """Write an entry; ``False`` when it was lost."""
        names, registers = self._names, self._registers
        if not self.running:
            return False
        if self.full:
            registers[STATUS] = registers[STATUS] & ~names.run | names.overflow
            self._told(names.overflow)
            return False
        tail = self._offset(names.tail)
        try:
            self._memory.store_words(self._base + tail, words)
        except BusError:
            return False
        registers[names.tail] = (tail + ENTRY) % self.size
        if not registers[STATUS] & names.interrupt:
            registers[STATUS] |= names.interrupt
            self._told(names.interrupt)
        return True

    def entries(self) -> list[tuple[int, ...]]:
        """What waits for software, oldest first; what cannot be read is left out."""
        head, tail, size = self._offset(self._names.head), self._offset(self._names.tail), self.size
        found = []
        for offset in range(head, head + (tail - head) % size, ENTRY):
            try:
                found.append(self._memory.load_words(self._base + offset % size, 2))
            except BusError:
                continue
        return found

    @property
    def _base(self) -> int:
        return BUFFER_REG["Base"].get((self._registers[self._names.base],))

    def _offset(self, register: int) -> int:
        """Head or tail; outside the ring software means a place inside it (UNVERIFIED)."""
        return self._registers[register] % self.size
