"""A kernel: memory, processes, IOASIDs, the IOMMU driver, SVA, device drivers. One package, two altitudes.

The host boots it on silicon; each VM boots the same class on what its hypervisor shows it. Nothing in this package asks
which of the two it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.kernel.driver import Driver, PciDevice
from pasidlab.kernel.idxd import Idxd
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.ioasid.quota.fixed import FixedQuota
from pasidlab.kernel.iommu.drivers import start_iommu
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.pci import PciFunction
from pasidlab.kernel.process import Process
from pasidlab.kernel.sva import Sva
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pasidlab.kernel.ioasid.ids import IoasidIds
    from pasidlab.kernel.ioasid.quota.contract import QuotaPolicy
    from pasidlab.kernel.platform import Platform

__all__ = ["HOST_QUOTA", "Kernel"]

HOST_QUOTA: Final = 32768
"""Quota of a kernel's own set (native SVA): PID_MAX_DEFAULT, as in the v3 series (UNVERIFIED: its value)."""


class Kernel(Actor):
    """One running kernel. ``host_set`` is its own ioasid_set, from which its own processes get PASIDs."""

    actor = "kernel"

    def __init__(self, platform: Platform, policy: Callable[[IoasidIds], QuotaPolicy] = FixedQuota) -> None:
        timeline, name = platform.timeline, platform.altitude
        super().__init__(timeline, f"{name}.kernel", name)
        self.platform = platform
        self.pages = PageAllocator(timeline, f"{name}.pages", platform.memory, platform.memory_size)
        self.ioasid = IoasidCore(timeline, f"{name}.ioasid", name, platform.agenda, policy=policy)
        self.iommu, self.svm, self.faults = start_iommu(platform, self.pages, self.ioasid)
        self.host_set = self.ioasid.sets.alloc(name, None, HOST_QUOTA)
        enqueues = platform.cpu.architecture.enqueues
        self.sva = Sva(timeline, name, self.ioasid, self.host_set, self.svm, enqueues=enqueues)
        self.processes = Table[int, Process](timeline, f"{name}.processes")
        self.drivers = Table[str, Driver](timeline, f"{name}.drivers")

    # --- processes ----------------------------------------------------------------------------------------------------

    def spawn(self, name: str) -> Process:
        """Start a process; ``-EEXIST`` if one of that name runs."""
        if any(process.name == name for process in self.processes.values()):
            raise KernelError("EEXIST", f"a process named {name} already runs on {self.altitude}")
        pid = next(at for at in range(1, len(self.processes) + 2) if at not in self.processes)
        path, form = f"{self.altitude}.process[{pid}]", self.platform.cpu.architecture.paging
        process = Process(self.timeline, path, self.altitude, pid, name, self.pages, form)
        self.processes[pid] = process
        self.emit(Verb.SPAWN, f"process {name}", after=f"pid {pid}", pid=pid)
        return process

    def exit(self, process: Process, order: Sequence[int] | None = None) -> None:
        """End a process, in the order of Linux's exit: devices lose access to its memory, which is freed; then its
        files are closed; then the mm itself goes, and with it the PASID.

        Files are closed in the ``order`` of these descriptors (default: ascending); all must be named.
        """
        numbers = process.files.keys()
        closing = numbers if order is None else list(order)
        if sorted(closing) != numbers:
            raise KernelError("EINVAL", f"the order must name each of the open files {numbers} once, not {closing}")
        event = self.emit(Verb.EXIT, f"process {process.name}", pid=process.pid)
        with self.timeline.because(event):
            self.sva.mm_exit(process)
            process.mm.exit()
            self.emit(Verb.UNMAP, f"memory of {process.name}: page tables and pages are freed", pid=process.pid)
            for number in closing:
                process.close_file(number)
            for driver in self.drivers.values():
                driver.process_exit(process)
            self.sva.mm_drop(process)
            self.ioasid.policy.leave(process.mm)
            del self.processes[process.pid]
            process.mm.drop()
            process.retire()

    def run(self, process: Process) -> None:
        """Let a process run on the CPU: its IA32_PASID, where there is one, is loaded with its extended state."""
        cpu = self.platform.cpu
        if cpu.architecture.enqueues and cpu.read_msr(IA32_PASID) != process.ia32_pasid:
            event = self.emit(Verb.SCHEDULE, f"process {process.name}", pid=process.pid)
            with self.timeline.because(event):
                cpu.write_msr(IA32_PASID, process.ia32_pasid)

    # --- devices ------------------------------------------------------------------------------------------------------

    @property
    def accelerators(self) -> dict[str, Idxd]:
        """The drivers of those devices that have work queues, by name."""
        return {name: driver for name, driver in self.drivers.items() if isinstance(driver, Idxd)}

    def probe(self, name: str, rid: int, bar0: int, bar2: int = 0) -> Driver:
        """A device appeared: give it PASID tables, and the driver that its vendor and device ID say.

        ``-ENODEV`` this kernel has no such driver.
        """
        found = self.platform.drivers.find(PciFunction(self.platform.mmio, rid).identity)
        driver = found(self.platform, self.sva, PciDevice(name, rid, bar0, bar2))
        self.drivers[name] = driver
        event = self.emit(Verb.PLUG, f"device {name}", after=driver.parts, rid=rid)
        with self.timeline.because(event):
            self.iommu.add_device(rid)
            driver.start()
        return driver

    def remove(self, name: str) -> None:
        """A device goes: processes that have it open lose it, its driver lets go, its PASID tables are freed.

        ``-EBUSY`` while mediated devices are cut from it, or a domain is attached to it.
        """
        driver = self.drivers[name]
        self.iommu.check_detached(driver.rid)
        driver.check_removable()
        for process in self.processes.values():
            if driver.channel_of(process) is not None:
                driver.close(process)
        del self.drivers[name]
        driver.stop()
        self.iommu.remove_device(driver.rid)
        self.emit(Verb.CLOSE, f"device {name}", rid=driver.rid)
        driver.retire()
