"""The fault recording registers: a ring of records, its index, and what happens when it is full.

Models FRCD[n] with FSTS.FRI, PPF and PFO (primary fault logging). Follows Linux 6.1 ``drivers/iommu/intel/dmar.c``
(``dmar_fault`` reads from FRI and clears F record by record) and QEMU. When the next record is still in use the fault
is lost, PFO is set and nothing is recorded until software clears it. FRI names the oldest pending record. Left out:
merging of repeated faults of one requester, which hardware may do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.register_file import FSTS, Register, RegisterFile
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import FRCD
from pasidlab.hardware.pcie import Access
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["FaultLog"]

_F = 1 << 63
_PFO = FSTS_REG["PFO"].mask
_FOLLOWS = FSTS_REG["PPF"].mask | FSTS_REG["FRI"].mask


class FaultLog(Part, state=("_next",)):
    """The records of one unit, kept in its register file."""

    def __init__(self, timeline: Timeline, path: str, registers: RegisterFile, identity: VtdIdentity) -> None:
        super().__init__(timeline, path)
        self._registers = registers
        self._base = 16 * identity.fro
        self._count = identity.nfr
        self._next = 0

    @staticmethod
    def rows(identity: VtdIdentity) -> dict[int, Register]:
        """The registers that hold the records: software can only clear F."""
        base = 16 * identity.fro
        rows = {base + 16 * index: Register(f"FRCD[{index}]") for index in range(identity.nfr)}
        return rows | {base + 16 * n + 8: Register(f"FRCD[{n}], upper", 0, _F) for n in range(identity.nfr)}

    def record(self, fault: Fault) -> bool:
        """Write a record; ``False`` when it was lost because no record was free."""
        status = self._registers.get32(FSTS)
        if status & _PFO or self._pending(self._next):
            self._registers.set32(FSTS, status | _PFO)
            return False
        offset = self._offset(self._next)
        self._registers[offset], self._registers[offset + 8] = _encode(fault)
        self._next = (self._next + 1) % self._count
        self.settle()
        return True

    def records(self) -> list[tuple[int, int]]:
        """The words of the pending records, oldest first."""
        offsets = [self._offset(index) for index in self._oldest_first() if self._pending(index)]
        return [(self._registers[offset], self._registers[offset + 8]) for offset in offsets]

    def settle(self) -> None:
        """Bring PPF and FRI in line with the records (after one was written or cleared)."""
        status = self._registers.get32(FSTS) & ~_FOLLOWS
        oldest = next((index for index in self._oldest_first() if self._pending(index)), None)
        if oldest is not None:
            status |= FSTS_REG["PPF"].put(1) | FSTS_REG["FRI"].put(oldest)
        self._registers.set32(FSTS, status)

    def _oldest_first(self) -> list[int]:
        return [(self._next + step) % self._count for step in range(self._count)]

    def _offset(self, index: int) -> int:
        return self._base + 16 * index

    def _pending(self, index: int) -> bool:
        return bool(self._registers[self._offset(index) + 8] & _F)


def _encode(fault: Fault) -> tuple[int, ...]:
    """The record of a fault. PP and PV tell what the request carried, not what RID_PASID made of it."""
    request = fault.request
    return FRCD.encode(
        FI=request.address & ~0xFFF,
        SID=request.rid,
        PRIV=int(request.privileged),
        EXE=int(request.access is Access.EXECUTE),
        PP=int(request.pasid is not None),
        FR=fault.code,
        PV=request.pasid or 0,
        T1=int(request.access in {Access.READ, Access.EXECUTE}),
        F=1,
    )
