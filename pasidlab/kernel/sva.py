"""Shared Virtual Addressing: bind a process to a device, so that the device uses the process's virtual addresses.

Models ``iommu_sva_bind_device``/``iommu_sva_unbind_device``: one PASID a process (an mm), shared by all devices that it
uses. The PASID is allocated at the first bind and freed at the last unbind; a process that exits loses its bindings
first (DMA is blocked in silence from then on), then its memory, and its PASID last.

With several threads Linux keeps the PASID until the mm dies, since each thread may still carry it in IA32_PASID.
Processes here have one thread, whose register is cleared at the last unbind, so the number can go back at once.

A process's memory changes while devices use it. The MMU notifier (``intel_svm``'s ``invalidate_range``) flushes IOTLB
and device TLBs before pages are freed; a page that is missing is brought when a device asks for it.

The guest runs this very code; there the allocation ends in a virtual command and the write of the PASID entry in a
trapped invalidation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.cpu import IA32_PASID_MSR
from pasidlab.hardware.pcie import PageRequest, ResponseCode, format_rid
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.iommu.contract import PASID_MIN
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.bindings import Bindings
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.process import Process
    from pasidlab.timeline import Timeline

__all__ = ["Sva"]

_HOLDER: Final = "sva"


class Sva(Actor):
    """The SVA bindings of one kernel. ``enqueues``: its CPU has IA32_PASID, which is loaded for bound processes.
    ``bonds`` counts users by (pid, requester ID); ``spaces`` are the bound address spaces by PASID.
    """

    actor = "sva"

    def __init__(
        self,
        timeline: Timeline,
        altitude: str,
        core: IoasidCore,
        the_set: IoasidSet,
        svm: Bindings,
        *,
        enqueues: bool = True,
    ) -> None:
        super().__init__(timeline, f"{altitude}.sva", altitude)
        self._core = core
        self._set = the_set
        self._svm = svm
        self._enqueues = enqueues
        self.bonds = Table[tuple[int, int], int](timeline, f"{self.path}.bonds")
        self.spaces: Table[int, Mm] = Table(timeline, f"{self.path}.spaces")

    def bind(self, process: Process, rid: int) -> int:
        """Bind; returns the PASID.

        Errors: ``-ENODEV`` the IOMMU translates no PASIDs; ``-ENOSPC`` no PASID is to be had (in a guest: the
        hypervisor refused).
        """
        if self._svm.driver.why_no_pasids:
            raise KernelError("ENODEV", self._svm.driver.why_no_pasids)
        mm = process.mm
        key = (process.pid, rid)
        event = self.emit(Verb.BIND, f"process {process.name} to {format_rid(rid)}", pid=process.pid, rid=rid)
        with self.timeline.because(event):
            if key in self.bonds:
                self.bonds[key] += 1
            else:
                pasid = mm.pasid if mm.pasid is not None else self._allocate(process, rid)
                try:
                    self._svm.bind_mm(rid, pasid, mm)
                except KernelError:
                    self._release_unused(process)
                    raise
                self.bonds[key] = 1
                self._watch(mm, pasid, rid)
            assert mm.pasid is not None
            if self._enqueues:
                process.ia32_pasid = IA32_PASID_MSR.encode(PASID=mm.pasid, V=1)[0]
        return mm.pasid

    def unbind(self, process: Process, rid: int, *, exiting: bool = False) -> None:
        """Undo one :meth:`bind`; ``-EINVAL`` if the process is not bound to the device."""
        key, pasid = (process.pid, rid), process.mm.pasid
        if key not in self.bonds or pasid is None:
            raise KernelError("EINVAL", f"{process.name} is not bound to device {format_rid(rid)}")
        event = self.emit(Verb.UNBIND, f"process {process.name} from {format_rid(rid)}", pid=process.pid, rid=rid)
        with self.timeline.because(event):
            if self.bonds[key] > 1:
                self.bonds[key] -= 1
                return
            if exiting or [pid for pid, _ in self.bonds.keys()].count(process.pid) == 1:
                self._unwatch(process.mm, pasid)
            self._svm.unbind_mm(rid, pasid, fault_disable=exiting)
            del self.bonds[key]
            if not exiting:
                self._last_unbind(process)

    # --- the address space lives on while devices use it --------------------------------------------------------------

    def _watch(self, mm: Mm, pasid: int, rid: int) -> None:
        """Hear of pages that go, and bring pages that a device asks for."""
        self.spaces[pasid] = mm
        mm.notifiers[self.path] = self
        self._svm.driver.page_requests.sinks[rid, pasid] = self

    def _unwatch(self, mm: Mm, pasid: int) -> None:
        if pasid in self.spaces:
            del self.spaces[pasid]
            del mm.notifiers[self.path]

    def invalidate_range(self, mm: Mm, start: int, count: int) -> None:
        """Pages of a bound process are about to be freed: no device may translate to them any more."""
        binding = self._svm.binding_of(mm.pasid) if mm.pasid is not None else None
        if binding is None or mm.pasid is None:
            return
        event = self.emit(Verb.UNMAP, f"{count} pages at {start:#x}", pasid=mm.pasid, address=start)
        with self.timeline.because(event):
            self._svm.driver.flush_process(mm.pasid, binding.devices.keys(), (start, count))

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """A device asked for a page of a bound process: bring it. A process that is exiting has none left to give."""
        mm = self.spaces.get(request.pasid) if request.pasid is not None else None
        brought = mm is not None and mm.fault(request.address, write=request.write)
        words = "present" if brought else "no such page"
        self.emit(Verb.PAGE_FAULT, str(request), after=words, pasid=request.pasid, address=request.address)
        return ResponseCode.SUCCESS if brought else ResponseCode.INVALID

    def _last_unbind(self, process: Process) -> None:
        self._release_unused(process)

    def mm_exit(self, process: Process) -> None:
        """The process's memory is about to go: clear its PASID entries. The PASID is kept until :meth:`mm_drop`."""
        for pid, rid in self.bonds.keys():
            if pid == process.pid:
                self.bonds[pid, rid] = 1
                self.unbind(process, rid, exiting=True)

    def mm_drop(self, process: Process) -> None:
        """The mm is gone for good: its PASID goes back to the pool."""
        self._release_unused(process)

    def _allocate(self, process: Process, rid: int) -> int:
        highest = (1 << self._svm.driver.devices[rid].pasid_bits) - 1
        try:
            pasid = self._core.alloc(self._set, PASID_MIN, highest, _HOLDER, current=process.mm)
        except IoasidRefused as refusal:
            raise KernelError("ENOSPC", f"no PASID for {process.name} on {self.altitude}: {refusal}") from None
        process.mm.pasid = pasid
        return pasid

    def _release_unused(self, process: Process) -> None:
        pasid = process.mm.pasid
        if pasid is None or any(pid == process.pid for pid, _ in self.bonds.keys()):
            return
        process.ia32_pasid = 0
        process.mm.pasid = None
        self._core.free(self._set, pasid)
