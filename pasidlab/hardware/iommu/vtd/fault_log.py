"""The fault recording registers: a ring of records, its index, and what happens when it is full.

Models FRCD[n] with FSTS.FRI, PPF and PFO (primary fault logging). Follows section 7.2.1 of the specification (revision
5.10), Linux 6.1 ``drivers/iommu/intel/dmar.c`` (``dmar_fault`` reads from FRI on until a record is free, and clears F
record by record) and QEMU.

An internal index names the record that comes next; it goes round, and is zero again when neither requests nor
interrupts are translated. When that record is still in use the fault is lost, PFO is set and nothing is recorded until
software clears it. PPF tells whether any record is pending. FRI is the record that made PPF rise: it stays although
software clears records in another order. Left out: merging of repeated faults of one requester, which hardware may do.

The type bits (T1, T2) and the fields that are valid only for some requests (EXE: reads with a PASID; PRIV: requests
with a PASID; AT: not page requests) follow section 11.4.7.6 of the specification. UNVERIFIED against hardware: the
facts know T2 from one source only, and count a page request to the class T1=1, where the specification has T1=0, T2=1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.events import Event
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.register_file import FSTS, Register, RegisterFile
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import FRCD
from pasidlab.hardware.pcie import Access, RequestKind
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["FaultLog"]

_F = 1 << 63
_PFO = FSTS_REG["PFO"].mask
_PPF = FSTS_REG["PPF"].mask
_FRI = FSTS_REG["FRI"].mask

_WRITE_TYPE, _PAGE_TYPE, _READ_TYPE, _ATOMIC_TYPE = (0, 0), (0, 1), (1, 0), (1, 1)
_TYPES = {
    Access.READ: _READ_TYPE,
    Access.WRITE: _WRITE_TYPE,
    Access.EXECUTE: _READ_TYPE,
    Access.ATOMIC: _ATOMIC_TYPE,
}
"""T1 and T2 of memory requests."""


class FaultLog(Part, state=("_next",)):
    """The records of one unit, kept in its register file; a record that makes PPF rise is an ``event``.

    >>> from pasidlab.hardware.iommu.vtd.events import Events
    >>> from pasidlab.hardware.pcie import DmaRequest
    >>> from pasidlab.timeline import Timeline
    >>> card, time = VtdIdentity(nfr=2), Timeline()
    >>> registers = RegisterFile(time, "unit", FaultLog.rows(card))
    >>> log = FaultLog(time, "unit.faults", registers, card, Events(registers, lambda address, data: None).fault)
    >>> fault = Fault(0x59, "SPT.2", "", DmaRequest(0x6A08, 0x5000, Access.WRITE, pasid=5))
    >>> [log.record(fault) for _ in range(3)], hex(registers.get32(FSTS))
    ([True, True, False], '0x3')
    >>> [hex(word) for word in log.records()[0]]
    ['0x5000', '0x8000055980006a08']
    """

    def __init__(
        self, timeline: Timeline, path: str, registers: RegisterFile, identity: VtdIdentity, event: Event
    ) -> None:
        super().__init__(timeline, path)
        self._registers, self._event = registers, event
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
        first, self._next = self._next, (self._next + 1) % self._count
        if not status & _PPF:
            self._registers.set32(FSTS, status & ~_FRI | FSTS_REG["FRI"].put(first) | _PPF)
            self._event.changed(status)
        return True

    def records(self) -> list[tuple[int, int]]:
        """The words of the pending records, oldest first."""
        offsets = [self._offset(index) for index in self._oldest_first() if self._pending(index)]
        return [(self._registers[offset], self._registers[offset + 8]) for offset in offsets]

    def settle(self) -> None:
        """Software cleared a record: PPF falls with the last one."""
        if not any(self._pending(index) for index in range(self._count)):
            self._registers.set32(FSTS, self._registers.get32(FSTS) & ~(_PPF | _FRI))

    def restart(self) -> None:
        """Nothing is translated any more: begin with the first record again."""
        self._next = 0

    def _oldest_first(self) -> list[int]:
        first = FSTS_REG["FRI"].get((self._registers.get32(FSTS),))
        return [(first + step) % self._count for step in range(self._count)]

    def _offset(self, index: int) -> int:
        return self._base + 16 * index

    def _pending(self, index: int) -> bool:
        return bool(self._registers[self._offset(index) + 8] & _F)


def _encode(fault: Fault) -> tuple[int, ...]:
    """The record of a fault. PP and PV tell what the request carried, not what RID_PASID made of it."""
    request = fault.request
    tagged, page = request.pasid is not None, request.kind is RequestKind.PAGE
    first, second = _PAGE_TYPE if page else _TYPES[request.access]
    return FRCD.encode(
        FI=request.address & ~0xFFF,
        SID=request.rid,
        T2=second,
        PRIV=int(tagged and request.privileged),
        EXE=int(tagged and request.access is Access.EXECUTE and not page),
        PP=int(tagged),
        FR=fault.code,
        PV=request.pasid or 0,
        AT=0 if page else int(request.kind),
        T1=first,
        F=1,
    )
