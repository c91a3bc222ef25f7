"""A bench: one accelerator behind a remapping unit that is a dictionary of pages."""

import pytest

from pasidlab.hardware.accelerator import (
    Accelerator,
    Command,
    CommandError,
    Completion,
    Flag,
    command_word,
    queue_bitmap,
)
from pasidlab.hardware.accelerator.register_map import CMD, CMDSTS, portal_offset, wqcfg_offset
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.iommu.contract import Fault, Walk
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import Agenda, Timeline

RID = 0x6A00
SHARED, DEDICATED = 0, 1


class PageMap:
    """A remapping unit without tables: (rid, pasid, page) -> (frame, writable)."""

    def __init__(self):
        self.pages = {}
        self.requests = []

    def walk(self, request, *, caches=True):
        answer = self._look_up(request)
        if isinstance(answer, Fault):
            return Walk(request, (), None, answer)
        return Walk(request, (), answer, None)

    def translate(self, request):
        self.requests.append(request)
        return self._look_up(request)

    def complete(self, request):
        """No device of this bench has ATS on."""
        return self._look_up(request)

    def page_request(self, request):
        """Nor page requests."""
        self.requests.append(request)

    def _look_up(self, request):
        page, offset = divmod(request.address, 4096)
        frame, writable = self.pages.get((request.rid, request.pasid, page), (None, False))
        if frame is None or (request.access == "write" and not writable):
            return Fault(0x71, "absent", "the page is not mapped for this access", request)
        return frame * 4096 + offset


class Bench:
    """The device and short ways to drive it."""

    def __init__(self, **options):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", 1 << 20)
        self.unit = PageMap()
        self.agenda = Agenda(self.time)
        self.fabric = Fabric(self.time, self.memory, self.unit)
        self.device = Accelerator(self.time, "dsa0", RID, self.fabric, self.agenda, **options)

    def map(self, pasid, page, frame, writable=True):
        self.unit.pages[RID, pasid, page] = (frame, writable)

    def command(self, command, operand=0):
        """Write the command register; returns the error code that the status register then holds."""
        self.device.mmio_write(CMD, command_word(command, operand), 4)
        return CommandError(self.device.mmio_read(CMDSTS, 4) & 0xFF)

    def configure(self, wq, **fields):
        """Change fields of a queue's configuration as a driver does: dword by dword."""
        words = WQCFG.change(self.device.wqcfg(wq), **fields)
        for index, word in enumerate(words):
            self.device.mmio_write(wqcfg_offset(wq) + 8 * index, word)

    def start(self, wq, **fields):
        """Enable the device (if need be) and a queue."""
        if not self.device.enabled:
            assert self.command(Command.ENABLE_DEVICE) == CommandError.SUCCESS
        self.configure(wq, **fields)
        assert self.command(Command.ENABLE_WQ, wq) == CommandError.SUCCESS

    def stop(self, wq):
        return self.command(Command.DISABLE_WQ, queue_bitmap(wq))

    def enqueue(self, work, wq=SHARED, limited=False):
        return self.device.portals.enqueue64(portal_offset(wq, limited), work.to_bytes())

    def post(self, work, wq=DEDICATED, limited=False):
        self.device.portals.post64(portal_offset(wq, limited), work.to_bytes())

    def run(self, work, record_at):
        """Submit to the shared queue, execute, and read the completion record at a physical address."""
        assert self.enqueue(work._replace(flags=work.flags | Flag.CRAV | Flag.RCR))
        self.agenda.run_all()
        return Completion.from_bytes(self.memory.read(record_at, 32))

    def verbs(self):
        return [event.verb for event in self.time.events]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture(scope="session")
def make_bench():
    return Bench
