"""An AMD driver on a unit of its own, and a unit that looks at tables while it carries out commands."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.config_space import ConfigSpace
from pasidlab.hardware.cpu import Cpu, LocalApic
from pasidlab.hardware.cpu.architecture import AMD64
from pasidlab.hardware.iommu.amdvi.family import AMDVI
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.unit import AmdUnit
from pasidlab.hardware.layouts.amd import DTE, gcr3_fields
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmio import AddressMap
from pasidlab.hardware.paging import X86
from pasidlab.kernel.driver import Drivers
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
from pasidlab.kernel.iommu.amdvi.start import start
from pasidlab.kernel.mm import Mm
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.platform import ECAM_BASE, Platform
from pasidlab.timeline import Agenda, Timeline

SIZE = 64 << 20
RID = 0x6A08


class WatchedUnit(AmdUnit):
    """Silicon that notes each command together with what ``looks`` show at that moment."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks = []
        self.seen = []

    def _command(self, command):
        self.seen.append((command, *(look() for look in self.looks)))
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


class Listener:
    """A hypervisor that is told of the faults of its guest."""

    path = "listener"

    def __init__(self):
        self.told = []

    def fault_reported(self, rid, record):
        self.told.append((rid, record))


class Bench:
    """A host with one device that the driver knows."""

    def __init__(self, identity=None, ats=True):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", SIZE)
        self.bus, self.apic = PcieBus(self.time, "pcie"), LocalApic(self.time, "apic")
        self.function = self.bus.endpoints[RID] = Function(self.time, ats)
        card = identity or AmdIdentity()
        self.unit = WatchedUnit(self.time, "unit", "hardware", self.memory, card, self.bus, self.apic)
        self.mmio = AddressMap(self.time, "mmio")
        self.mmio.add(AMDVI.base, AMDVI.size, self.unit, "IOMMU")
        self.mmio.add(ECAM_BASE, ECAM_SIZE, self.bus, "ECAM")
        self.agenda = Agenda(self.time)
        cpu, drivers = Cpu(self.time, "cpu0", architecture=AMD64), Drivers(self.time, "drivers")
        self.platform = Platform(
            self.time, self.agenda, "host", self.memory, SIZE, self.mmio, cpu, self.apic, drivers, AMDVI
        )
        self.pages = PageAllocator(self.time, "pages", self.memory, SIZE)
        self.core = IoasidCore(self.time, "host.ioasid", "host", self.agenda)
        driver, self.svm, self.faults = start(self.platform, self.pages, self.core)
        assert isinstance(driver, AmdDriver)
        self.driver = driver
        self.host_set = self.core.sets.alloc("host", None, 100)
        self.driver.add_device(RID)

    def plug(self, rid, ats=True):
        """Put another function on the bus and tell the driver."""
        self.bus.endpoints[rid] = Function(self.time, ats, rid)
        self.driver.add_device(rid)

    def watch(self, *looks):
        """Look at something at each command from now on, and forget what was seen."""
        self.unit.looks[:] = looks
        self.unit.seen.clear()

    @property
    def names(self):
        """The commands seen, oldest first."""
        return [command.name for command, *_ in self.unit.seen]

    def dte(self, rid=RID):
        """The fields of a device table entry in memory that are not zero."""
        words = self.driver.table.read(rid)
        return {name: value for name, value in DTE.decode(words).items() if value}

    def mm(self, name="app"):
        """A process's address space."""
        return Mm(self.time, f"mm-{name}", self.pages, X86)

    def bind(self, pasid=None, rid=RID):
        """Bind a fresh process; returns its PASID and address space."""
        mm = self.mm(f"of-{pasid}-{rid}")
        number = self.core.alloc(self.host_set, 1, 1000, "sva", current=mm) if pasid is None else pasid
        self.svm.bind_mm(rid, number, mm)
        return number, mm

    def vm(self, name="vm1"):
        """A domain as VFIO makes it, with one page mapped."""
        domain = self.driver.domain_alloc(name)
        domain.enable_nesting()
        domain.map(0x1000, self.pages.alloc())
        return domain

    def refused(self, call, *args, **kwargs):
        """The error of a call that must be refused."""
        with pytest.raises(KernelError) as error:
            call(*args, **kwargs)
        return error.value


def guest_entry(root=0x5000, did=9, **fields):
    """A device table entry as a guest's driver writes it."""
    return DTE.encode(**{"V": 1, "TV": 1, "GV": 1, "IR": 1, "IW": 1, "DomainID": did, **gcr3_fields(root), **fields})


@pytest.fixture
def bench():
    """Silicon that can do everything."""
    return Bench()


@pytest.fixture
def make_bench():
    """Silicon or emulation of any identity."""
    return Bench


@pytest.fixture
def entry():
    """How a guest's driver writes a device table entry."""
    return guest_entry


@pytest.fixture
def listener():
    """A hypervisor."""
    return Listener()
