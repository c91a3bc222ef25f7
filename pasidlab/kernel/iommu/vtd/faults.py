"""The driver's fault handler: what the unit recorded becomes a line in the kernel's log.

Models ``dmar_fault`` of ``drivers/iommu/intel/dmar.c``: read the fault recording registers, print each record, clear
it. The unit goes on recording only while records are free, so somebody has to do this; the machine delivers the fault
interrupt at the end of each operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.layouts.vtd import CAP_REG, FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import FRCD
from pasidlab.hardware.pcie import format_rid
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.platform import Platform

__all__ = ["VtdFaultHandler"]

_KEEP: Final = 256
_F: Final = FRCD["F"].mask >> 64


class VtdFaultHandler(Actor, state=("_count",)):
    """Reads and clears fault records. ``log`` holds the newest lines, by running number."""

    actor = "iommu"

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu.faults", platform.altitude)
        self._mmio = platform.mmio
        self.log = Table[int, str](self.timeline, f"{self.path}.log")
        self._count = 0
        words = (self._mmio.read(reg.BASE + reg.CAP),)
        self._base = reg.BASE + 16 * CAP_REG["FRO"].get(words)
        self._records = CAP_REG["NFR"].get(words) + 1

    def service(self) -> None:
        """Handle the fault interrupt: log and clear every record."""
        status = self._mmio.read(reg.BASE + reg.FSTS, 4)
        if not status & 3:
            return
        oldest = FSTS_REG["FRI"].get((status,))
        for index in range(oldest, oldest + self._records):
            at = self._base + index % self._records * FRCD.size
            words = (self._mmio.read(at), self._mmio.read(at + 8))
            if FRCD["F"].get(words):
                self._mmio.write(at + 8, _F)
                self._print(words)
        self._mmio.write(reg.BASE + reg.FSTS, 1, 4)

    def _print(self, words: tuple[int, ...]) -> None:
        record = FRCD.decode(words)
        kind = "Read" if record["T1"] else "Write"
        pasid = f"PASID {record['PV']:#x}" if record["PP"] else "NO_PASID"
        reason = FaultReason.of(record["FR"])
        line = (
            f"DMAR: [DMA {kind} {pasid}] Request device [{format_rid(record['SID'])}] fault addr {record['FI']:#x} "
            f"[fault reason {record['FR']:#04x}] SM: {reason.meaning}"
        )
        self.log[self._count] = line
        self._count += 1
        if self._count > _KEEP:
            del self.log[self._count - _KEEP - 1]
        self.emit(Verb.HANDLE, line, code=record["FR"], rid=record["SID"])
