"""The unit's own interrupts: a fault was recorded, an invalidation is complete, a page request was queued.

Models FECTL, IECTL and PECTL with their message registers. Follows the specification's sections 7.3, 6.5.2.10 and
7.5 (revision 5.10) and what Linux 6.1 ``drivers/iommu/intel/dmar.c`` expects (``dmar_msi_unmask``, ``dmar_msi_write``).

An event has causes: bits of a status register. When the first cause appears, a message is sent, or kept pending (IP)
while software masks it (IM, which is set after reset). A cause beside one that software has not served yet is no new
event. Clearing IM sends what is pending; clearing every cause takes IP back. Left out: interrupt remapping, to which
these messages are never subject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pasidlab.hardware.iommu.vtd.register_file import FECTL, FSTS, ICS, IECTL, PECTL, PRS, RegisterFile
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_control import EVENT_CONTROL_REG, ICS_REG, PRS_REG

__all__ = ["Event", "Events"]

_IM: Final = EVENT_CONTROL_REG["IM"].mask
_IP: Final = EVENT_CONTROL_REG["IP"].mask
_FAULT_CAUSES: Final = sum(FSTS_REG[name].mask for name in ("PFO", "PPF", "IQE", "ICE", "ITE"))


class Event:
    """One interrupt: its control register (data and address lie behind it) and the status bits that cause it.

    >>> from pasidlab.timeline import Timeline
    >>> registers, sent = RegisterFile(Timeline(), "unit", {}), []
    >>> event = Event(registers, FECTL, FSTS, 2, lambda address, data: sent.append((hex(address), data)))
    >>> registers[FECTL], registers[FECTL + 8] = 77 << 32, 0xFEE0_0000
    >>> registers.set32(FSTS, 2); event.changed(before=0); sent
    [('0xfee00000', 77)]
    """

    __slots__ = ("_causes", "_control", "_registers", "_send", "_status")

    def __init__(
        self, registers: RegisterFile, control: int, status: int, causes: int, send: Callable[[int, int], None]
    ) -> None:
        self._registers, self._control, self._status = registers, control, status
        self._causes, self._send = causes, send

    def changed(self, before: int) -> None:
        """A cause was added to what the status register held ``before``: send the message, or keep it pending."""
        if not before & self._causes and self._registers.get32(self._status) & self._causes:
            self._pend(True)
            self.settle()

    def served(self) -> None:
        """Software cleared causes: with the last one goes what is pending."""
        if not self._registers.get32(self._status) & self._causes:
            self._pend(False)

    def settle(self) -> None:
        """Send what is pending, if software lets it through."""
        if self._registers.get32(self._control) & (_IP | _IM) == _IP:
            self._pend(False)
            self._send(self._registers[self._control + 8], self._registers.get32(self._control + 4))

    def _pend(self, on: bool) -> None:
        control = self._registers.get32(self._control)
        self._registers.set32(self._control, control | _IP if on else control & ~_IP)


class Events:
    """The events of one unit, by the offset of their control register and of their status register."""

    __slots__ = ("by_control", "by_status", "completion", "fault", "page_request")

    def __init__(self, registers: RegisterFile, send: Callable[[int, int], None]) -> None:
        self.fault = Event(registers, FECTL, FSTS, _FAULT_CAUSES, send)
        self.completion = Event(registers, IECTL, ICS, ICS_REG["IWC"].mask, send)
        self.page_request = Event(registers, PECTL, PRS, PRS_REG["PPR"].mask | PRS_REG["PRO"].mask, send)
        self.by_control = {FECTL: self.fault, IECTL: self.completion, PECTL: self.page_request}
        self.by_status = {FSTS: self.fault, ICS: self.completion, PRS: self.page_request}
