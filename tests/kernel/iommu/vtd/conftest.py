"""A VT-d driver on a unit of its own, and a unit that looks at the PASID entry while it carries out invalidations."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.config_space import ConfigSpace
from pasidlab.hardware.cpu import Cpu, LocalApic
from pasidlab.hardware.iommu.vtd.family import VTD
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmio import AddressMap
from pasidlab.kernel.driver import Drivers
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.iommu.vtd.driver import VtdDriver
from pasidlab.kernel.iommu.vtd.svm import Svm
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.platform import ECAM_BASE, Platform
from pasidlab.timeline import Agenda, Part, Timeline

SIZE = 64 << 20
RID = 0x6A08


class WatchedUnit(VtdUnit):
    """Silicon that notes each descriptor together with the words of a PASID entry at that moment."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks = []
        self.seen = []

    def _invalidate(self, descriptor):
        self.seen.append((descriptor.words, *(look() for look in self.looks)))
        super()._invalidate(descriptor)


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
    """A host with one device that the driver knows; ``la57``: its CPU has 5-level paging."""

    def __init__(self, identity=None, ats=False, la57=False):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", SIZE)
        self.bus, self.apic = PcieBus(self.time, "pcie"), LocalApic(self.time, "apic")
        self.function = self.bus.endpoints[RID] = Function(self.time, ats)
        card = identity or VtdIdentity()
        self.unit = WatchedUnit(self.time, "unit", "hardware", self.memory, card, self.bus, self.apic)
        self.mmio = AddressMap(self.time, "mmio")
        self.mmio.add(VTD.base, VTD.size, self.unit, "IOMMU")
        self.mmio.add(ECAM_BASE, ECAM_SIZE, self.bus, "ECAM")
        self.agenda = Agenda(self.time)
        cpu = Cpu(self.time, "cpu0", la57=la57)
        drivers = Drivers(self.time, "drivers")
        platform = Platform(self.time, self.agenda, "host", self.memory, SIZE, self.mmio, cpu, self.apic, drivers, VTD)
        self.pages = PageAllocator(self.time, "pages", self.memory, SIZE)
        self.core = IoasidCore(self.time, "host.ioasid", "host", self.agenda)
        self.driver = VtdDriver(platform, self.pages, self.core)
        self.svm = Svm(self.driver)
        self.host_set = self.core.sets.alloc("host", None, 100)
        self.driver.add_device(RID)

    def plug(self, rid, ats=False):
        """Put another function on the bus and tell the driver."""
        self.bus.endpoints[rid] = Function(self.time, ats, rid)
        self.driver.add_device(rid)

    def watch(self, pasid, rid=RID):
        """Look at one entry from now on, and forget what was seen."""
        self.unit.looks[:] = [lambda: self.driver.tables[rid].read(pasid)]
        self.unit.seen.clear()

    def entry(self, pasid, rid=RID):
        """The words of an entry in memory."""
        return self.driver.tables[rid].read(pasid)

    def vm(self, name="vm1", quota=8):
        """A set and a domain, as VFIO makes them."""
        domain = self.driver.domain_alloc(name)
        domain.enable_nesting()
        return self.core.sets.alloc(name, Part(self.time, f"mm-{name}"), quota), domain

    def refused(self, call, *args, **kwargs):
        """The error of a call that must be refused."""
        with pytest.raises(KernelError) as error:
            call(*args, **kwargs)
        return error.value


@pytest.fixture
def bench():
    """Silicon without caching mode."""
    return Bench()


@pytest.fixture
def make_bench():
    """Silicon or emulation of any identity."""
    return Bench
