"""A small data centre whose processes use memory that comes when it is touched: natively, by an ADI, by a whole PF.

Each process owns one byte value and writes nothing else. Any other value (but zero) in its memory is somebody else's.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.handles import App, AssignedDevice, PhysicalFunction
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.machine import Machine
from tests.worlds import virtual_vtd

__all__ = ["PLACES", "DataCentre", "Program"]

PLACES = ("host", "vm1", "vm2")
"""Native on dsa0; in a VM with an interface of dsa0; in a VM that has dsa1 as a whole."""
GUEST_MEMORY = 1 << 20


class Program(NamedTuple):
    """A process, the device that it uses, its value, and the buffers that it has (start and number of pages)."""

    app: App
    device: PhysicalFunction | AssignedDevice
    mark: int
    buffers: dict[int, int]
    tickets: list


class DataCentre:
    """Two accelerators, two VMs, and the programs that run now."""

    def __init__(self, queue="shared"):
        self.m = Machine()
        self.dsa0, self.dsa1 = self.m.plug_accelerator("dsa0"), self.m.plug_accelerator("dsa1")
        self.devices: dict[str, PhysicalFunction | AssignedDevice] = {"host": self.dsa0}
        self.queue = queue
        self.programs: list[Program] = []
        self.marks = 0
        self.warm_up("host")
        for name in ("vm1", "vm2"):
            self.boot(name)
        self.idle = self.held()

    def warm_up(self, place):
        """Tables that are made once and kept (PASID tables, KVM's) are there before anything is counted."""
        self.end(self.spawn(place))

    def boot(self, name):
        """Create a VM with its device."""
        vm = self.m.create_vm(name, memory=GUEST_MEMORY)
        if name == "vm1":
            self.devices[name] = self.m.assign_adi(self.dsa0, vm, queue=self.queue)
        else:
            self.devices[name] = self.m.assign_pf(self.dsa1, vm)
        self.warm_up(name)

    def spawn(self, place):
        """Start a process that is bound to the device of its place."""
        self.marks = self.marks % 250 + 1
        where = self.m if place == "host" else self.m.vm(place)
        app = where.spawn(f"app{self.marks}")
        program = Program(app, self.devices[place], self.marks, {}, [])
        self.programs.append(program)
        app.bind(program.device)
        return program

    def allocate(self, program, pages, *, populate=False, writable=True):
        """Give a program memory; what is there from the start carries its mark."""
        if writable:
            content = bytes([program.mark]) * (pages * PAGE_SIZE) if populate else pages * PAGE_SIZE
            start = program.app.buffer(content, populate=populate)
        else:
            with self.m.timeline.operation("mmap read-only"):
                start = program.app.process.mm.mmap(pages * PAGE_SIZE, writable=False, populate=populate)
        program.buffers[start] = pages
        return start

    def fill(self, program, start, offset, length):
        """The program writes its mark with the CPU."""
        program.app.write(start + offset, bytes([program.mark]) * length)

    def submit(self, program, src, dst, size, *, block):
        """Give a copy to the device."""
        program.tickets.append(program.app.submit(program.device, src, dst, size, block_on_fault=block))

    def free(self, program, start):
        """Give a buffer back."""
        del program.buffers[start]
        program.app.free(start)

    def end(self, program):
        """The process exits."""
        self.programs.remove(program)
        program.app.exit()

    def crash(self, place):
        """The VM is killed, and started again."""
        self.programs = [program for program in self.programs if program.app.altitude != place]
        self.m.vm(place).crash()
        self.boot(place)

    def foreign(self, program):
        """Bytes in a program's memory that are neither zero nor its own."""
        found = set()
        for start, pages in program.buffers.items():
            found |= set(program.app.read(start, pages * PAGE_SIZE)) - {0, program.mark}
        return found

    def check(self):
        """Every invariant, and the bytes of everyone."""
        report = self.m.check()
        assert report.ok, report
        for program in self.programs:
            assert not self.foreign(program), f"{program.app} holds bytes of {self.foreign(program)}"

    def held(self):
        """What must be as it was when all programs are gone and nothing is left to do."""
        kernels = [self.m.kernel, *(self.m.vm(name).kernel for name in ("vm1", "vm2"))]
        return {
            "pages": [kernel.pages.used for kernel in kernels],
            "sinks": [kernel.iommu.page_requests.sinks.keys() for kernel in kernels],
            "pending": [kernel.iommu.page_requests.pending.keys() for kernel in kernels],
            "groups": [device.waits.groups.keys() for device in self.m.accelerators.values()],
            "queues": [device.occupancy(wq) for device in self.m.accelerators.values() for wq in range(device.num_wqs)],
            "bound": [sorted(virtual_vtd(self.m.vm(name)).bound.keys()) for name in ("vm1", "vm2")],
            "ioasids": self.m.kernel.ioasid.ids.keys(),
        }

    def close(self):
        """Everybody leaves: whatever was outstanding comes to its end, and nothing is left over."""
        while self.programs:
            self.end(self.programs[-1])
        self.m.run()
        assert self.m.pending == []
        self.check()
        left = self.held()
        grown = {name: (left[name], value) for name, value in self.idle.items() if left[name] != value}
        assert not grown, grown
