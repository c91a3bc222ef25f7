"""Facts 6.4 and 6.5 once more, for one interface: the answers as a list of questions, the state as a few plain values.

Written from the fact sheet's tables, not from the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["NaiveInterface"]


@dataclass
class NaiveInterface:
    """One interface with one queue. ``numbers``: the guest's PASIDs and the host's behind them."""

    dedicated: bool
    numbers: dict[int, int]
    default: int
    bus_master: bool = True
    pasid_on: bool = True
    requests_on: bool = True
    ats_on: bool = True
    device_on: bool = False
    queue_on: bool = False
    pasid: int = 0
    pasid_en: int = 0
    priv: int = 0
    hardware: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))
    """Of a dedicated queue: enabled, PASID enable, PASID, privilege."""

    @property
    def held(self) -> int | None:
        """The host PASID for which a reference is held."""
        named = self.dedicated and self.queue_on and self.pasid_en and self.pasid
        return self.numbers[self.pasid] if named else None

    def store(self, word: int) -> None:
        """WQCFG dword 2."""
        if not self.queue_on:
            self.pasid, self.pasid_en, self.priv = word >> 8 & 0xFFFFF, word >> 28 & 1, word >> 29 & 1

    def command(self, number: int, operand: int) -> int:
        """The error code."""
        if number == 1:
            return self._enable_device()
        if number == 2:
            return self._disable_device()
        if number in (3, 4):
            return 0
        if number == 5:
            self._queue_off()
            self.device_on, self.pasid, self.pasid_en, self.priv = False, 0, 0, 0
            return 0
        if number == 6:
            return self._enable_queue(operand)
        if number in (7, 8, 9, 10):
            return self._queue_command(number, operand)
        if number in (11, 12):
            return 0 if operand in self.numbers else 0x13
        return 0x41 if number in (13, 14) else 0x01

    def _enable_device(self) -> int:
        if self.device_on:
            return 0x10
        if not self.bus_master:
            return 0x12
        if self.pasid_on is not self.requests_on:
            return 0x12
        if self.pasid_on and not self.ats_on:
            return 0x12
        self.device_on = True
        return 0

    def _disable_device(self) -> int:
        if not self.device_on:
            return 0x31
        self._queue_off()
        self.device_on = False
        return 0

    def _enable_queue(self, operand: int) -> int:
        if operand > 0:
            return 0x02
        if not self.device_on:
            return 0x20
        if self.queue_on:
            return 0x21
        if not self.dedicated and not self.pasid_en:
            return 0x26
        if self.pasid_en and not self.pasid_on:
            return 0x26
        if self.dedicated:
            if self.pasid_en and self.pasid:
                if self.pasid not in self.numbers:
                    return 0x26
                self.hardware = (1, 1, self.numbers[self.pasid], self.priv)
            else:
                self.hardware = (1, 1, self.default, 1)
        self.queue_on = True
        return 0

    def _queue_command(self, number: int, operand: int) -> int:
        if operand != 1:
            return 0x02
        if not self.device_on or not self.queue_on:
            return 0x32
        if number in (7, 10):
            self._queue_off()
        if number == 10:
            self.pasid, self.pasid_en, self.priv = 0, 0, 0
        return 0

    def _queue_off(self) -> None:
        self.queue_on = False
        self.hardware = (0, 0, 0, 0)
