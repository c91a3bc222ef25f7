"""An SMMUv3 driver on a unit of its own, and a unit that looks at tables while it carries out commands."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.config_space import ConfigSpace
from pasidlab.hardware.cpu import Cpu, LocalApic
from pasidlab.hardware.iommu.smmuv3.family import SMMUV3
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.unit import SmmuUnit
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmio import AddressMap
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.kernel.driver import Drivers
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.iommu.bindings import Bindings
from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
from pasidlab.kernel.mm import Mm
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.platform import ECAM_BASE, Platform
from pasidlab.timeline import Agenda, Part, Timeline

SIZE = 64 << 20
RID = 0x6A08


class WatchedUnit(SmmuUnit):
    """Silicon that notes each command together with what the tables hold at that moment."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks = []
        self.seen = []

    def _command(self, command):
        self.seen.append((command.name, command.words, *(look() for look in self.looks)))
        super()._command(command)


class Function:
    """A function on the bus that remembers what the IOMMU tells it."""

    def __init__(self, timeline, ats, rid=RID):
        self.path = f"function[{rid:#x}]"
        self.config = ConfigSpace(timeline, f"{self.path}.config", DSA, ats=ats)
        self.told = []

    def invalidate(self, request):
        self.told.append(request)

    def page_response(self, response):
        self.told.append(response)

    def resumed(self, tag, *, retry):
        self.told.append((tag, retry))


class Bench:
    """A host with one device that the driver knows; ``stall``: its firmware says that it can be held."""

    def __init__(self, identity=None, ats=False, stall=False, size=SIZE):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", size)
        self.bus, self.apic = PcieBus(self.time, "pcie"), LocalApic(self.time, "apic")
        self.function = self.bus.endpoints[RID] = Function(self.time, ats)
        card = identity or SmmuIdentity()
        self.unit = WatchedUnit(self.time, "unit", "hardware", self.memory, card, self.bus, self.apic)
        self.mmio = AddressMap(self.time, "mmio")
        self.mmio.add(SMMUV3.base, SMMUV3.size, self.unit, "IOMMU")
        self.mmio.add(ECAM_BASE, ECAM_SIZE, self.bus, "ECAM")
        self.agenda = Agenda(self.time)
        cpu, drivers = Cpu(self.time, "cpu0", architecture=SMMUV3.architecture), Drivers(self.time, "drivers")
        self.platform = Platform(
            self.time, self.agenda, "host", self.memory, size, self.mmio, cpu, self.apic, drivers, SMMUV3
        )
        self.pages = PageAllocator(self.time, "pages", self.memory, size)
        self.core = IoasidCore(self.time, "host.ioasid", "host", self.agenda)
        self.driver = SmmuDriver(self.platform, self.pages, self.core)
        self.svm = Bindings(self.driver)
        self.host_set = self.core.sets.alloc("host", None, 100)
        if stall:
            self.driver.stall_capable[RID] = True
        self.driver.add_device(RID)

    def plug(self, rid, ats=False):
        """Put another function on the bus and tell the driver."""
        self.bus.endpoints[rid] = Function(self.time, ats, rid)
        self.driver.add_device(rid)

    def mm(self, name="p1"):
        """An address space with one page at its start; returns both."""
        space = Mm(self.time, name, self.pages, SMMUV3.architecture.paging)
        return space, space.mmap(4096)

    def watch(self, *looks):
        """Look at these things at each command from now on, and forget what was seen."""
        self.unit.looks[:] = looks
        self.unit.seen.clear()

    def stream(self, rid=RID):
        """The words of a stream table entry in memory."""
        return self.driver.streams.read(rid)

    def entry(self, pasid, rid=RID):
        """The words of a context descriptor in memory."""
        return self.driver.tables[rid].read(pasid)

    def vm(self, name="vm1", quota=8):
        """A domain as VFIO makes it, with one page at address 0x1000; returns it and the frame."""
        self.core.sets.alloc(name, Part(self.time, f"mm-{name}"), quota)
        domain = self.driver.domain_alloc(name)
        domain.enable_nesting()
        frame = self.pages.alloc()
        domain.map(0x1000, frame)
        return domain, frame

    def read(self, address, pasid=None, rid=RID):
        """What the unit makes of a read."""
        return self.unit.translate(DmaRequest(rid, address, Access.READ, pasid))

    def refused(self, call, *args, **kwargs):
        """The error of a call that must be refused."""
        with pytest.raises(KernelError) as error:
            call(*args, **kwargs)
        return error.value


@pytest.fixture
def bench():
    """A server's unit, and a device without a TLB."""
    return Bench()


@pytest.fixture
def make_bench():
    """A unit of any identity."""
    return Bench
