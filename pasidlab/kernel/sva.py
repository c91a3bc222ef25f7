"""Shared Virtual Addressing: bind a process to a device, so that the device uses the process's virtual addresses.

Models ``iommu_sva_bind_device``/``iommu_sva_unbind_device``: one PASID a process (an mm), shared by all devices that it
uses. The PASID is allocated at the first bind and freed at the last unbind; a process that exits loses its bindings
first (DMA is blocked in silence from then on), then its memory, and its PASID last.

With several threads Linux keeps the PASID until the mm dies, since each thread may still carry it in IA32_PASID.
Processes here have one thread, whose register is cleared at the last unbind, so the number can go back at once.

The guest runs this very code; there the allocation ends in a virtual command and the write of the PASID entry in a
trapped invalidation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.cpu import IA32_PASID_MSR
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.iommu.vtd.driver import PASID_MAX, PASID_MIN
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.vtd.svm import Svm
    from pasidlab.kernel.process import Process
    from pasidlab.timeline import Timeline

__all__ = ["Sva"]

_HOLDER: Final = "sva"


class Sva(Actor):
    """The SVA bindings of one kernel. ``bonds`` counts users by (pid, requester ID)."""

    actor = "sva"

    def __init__(self, timeline: Timeline, altitude: str, core: IoasidCore, the_set: IoasidSet, svm: Svm) -> None:
        super().__init__(timeline, f"{altitude}.sva", altitude)
        self._core = core
        self._set = the_set
        self._svm = svm
        self.bonds = Table[tuple[int, int], int](timeline, f"{self.path}.bonds")

    def bind(self, process: Process, rid: int) -> int:
        """Bind; returns the PASID. ``-ENOSPC`` when no PASID is to be had (in a guest: the hypervisor refused)."""
        mm = process.mm
        key = (process.pid, rid)
        event = self.emit(Verb.BIND, f"process {process.name} to {format_rid(rid)}", pid=process.pid, rid=rid)
        with self.timeline.because(event):
            if key in self.bonds:
                self.bonds[key] += 1
            else:
                pasid = mm.pasid if mm.pasid is not None else self._allocate(process)
                try:
                    self._svm.bind_mm(rid, pasid, mm)
                except KernelError:
                    self._release_unused(process)
                    raise
                self.bonds[key] = 1
            assert mm.pasid is not None
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
            self._svm.unbind_mm(rid, pasid, fault_disable=exiting)
            del self.bonds[key]
            if not exiting:
                self._last_unbind(process)

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

    def _allocate(self, process: Process) -> int:
        try:
            pasid = self._core.alloc(self._set, PASID_MIN, PASID_MAX - 1, _HOLDER, current=process.mm)
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
