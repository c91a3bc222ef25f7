"""One VT-d remapping unit of the machine's silicon: requests in, addresses or recorded faults out.

Models a unit in scalable mode behind the register block of :mod:`~pasidlab.hardware.iommu.vtd.registers`. This unit
holds no translation caches: hardware may cache, it need not, so that every request sees the tables as they are.
Invalidation descriptors are decoded, told as events and dispatched by type to the place where a cached unit drops
entries. Left out: ATS requests, page requests, interrupts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.contract import Fault, Stop, Walk
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor
from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
from pasidlab.hardware.iommu.vtd.tables import Trace, find_pasid_entry
from pasidlab.hardware.iommu.vtd.walk import VtdWalker
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import DmaRequest
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["VtdUnit"]


class VtdUnit(VtdRegisters):
    """A remapping unit in front of ``memory``; see :class:`~pasidlab.hardware.iommu.contract.IommuUnit`.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.hardware.pcie import Access
    >>> from pasidlab.timeline import HARDWARE, Timeline
    >>> time = Timeline()
    >>> unit = VtdUnit(time, "iommu", HARDWARE, PhysicalMemory(time, "ram", 1 << 20))
    >>> request = DmaRequest(0x6A00, 0x1000, Access.READ, pasid=5)
    >>> hex(unit.translate(request))
    '0x1000'
    >>> unit.mmio_write(0x20, 0x5400); unit.mmio_write(0x18, 1 << 31 | 1 << 30, 4)
    >>> print(unit.walk(request))
    6a:00.0 PASID 5 read 0x1000
      lookup         root entry at 0x56a0: all zero
      -> 6a:00.0 PASID 5 read 0x1000: fault 0x39 SRT.2 (the root entry has no context table for this half of the bus)
    """

    def __init__(
        self, timeline: Timeline, path: str, altitude: str, memory: Memory, identity: VtdIdentity | None = None
    ) -> None:
        super().__init__(timeline, path, altitude, memory, identity if identity is not None else VtdIdentity())
        self._walker = VtdWalker(memory, self.rules)

    def translate(self, request: DmaRequest) -> int | Fault:
        """The host-physical address of a real request, or its fault, recorded. Sets accessed and dirty bits."""
        outcome = self._resolve(request, commit=True)
        if isinstance(outcome, Fault):
            self._report(outcome)
        return outcome

    def walk(self, request: DmaRequest, *, caches: bool = True) -> Walk:
        """What would happen to a request, with every stop on the way. Changes nothing."""
        stops: list[Stop] = []
        outcome = self._resolve(request, commit=False, trace=stops)
        if isinstance(outcome, Fault):
            return Walk(request, tuple(stops), None, outcome)
        return Walk(request, tuple(stops), outcome, None)

    def _resolve(self, request: DmaRequest, commit: bool, trace: Trace = None) -> int | Fault:
        if not self.translation_enabled:
            return request.address
        rid, address, access, pasid, privileged, _ = request
        lookup = find_pasid_entry(self.memory, self.root_pointer, self.rules, rid, pasid, trace=trace)
        if lookup.reason is not None:
            return _fault(lookup.reason, request, lookup.fpd)
        if pasid is None:
            privileged = lookup.rid_priv
        outcome = self._walker.resolve(lookup.words, address, access, privileged, commit, trace)
        if outcome < 0:
            return _fault(FaultReason.of(-outcome), request, lookup.fpd)
        return outcome

    def _report(self, fault: Fault) -> None:
        """Record a fault unless FPD forbids it, and tell it either way."""
        request = fault.request
        if fault.suppressed:
            fate = "suppressed by FPD"
        else:
            fate = "recorded" if self.faults.record(fault) else "lost: no free record"
        self.emit(
            Verb.FAULT,
            str(request),
            after=fault.name,
            rid=request.rid,
            pasid=request.pasid,
            code=fault.code,
            address=request.address,
            access=request.access.value,
            fate=fate,
        )

    def _invalidate(self, descriptor: Descriptor) -> None:
        """Tell it; a unit with caches drops entries here, by ``descriptor.layout``."""
        names = {"PASID": "pasid", "DID": "did", "SID": "rid", "RID": "rid"}
        facts = {names[name]: value for name, value in descriptor.fields().items() if name in names}
        self.emit(Verb.INVALIDATE, str(descriptor), **facts)


def _fault(reason: FaultReason, request: DmaRequest, fpd: bool) -> Fault:
    return Fault(int(reason), reason.label, reason.meaning, request, fpd and reason.qualified)
