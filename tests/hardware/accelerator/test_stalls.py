"""Descriptors whose request the IOMMU holds (the stall model of SMMUv3): they wait, go on, end, are drained."""

from __future__ import annotations

import pytest

from pasidlab.hardware.accelerator import Accelerator, Command, Completion, CompletionStatus, Flag
from pasidlab.hardware.accelerator.descriptor import Descriptor, Opcode
from pasidlab.hardware.accelerator.page_waits import HOLDS
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.pcie import SERVE_PAGES, Access
from tests.hardware.accelerator.conftest import RID, SHARED, Bench, PageMap

PASID, RECORD, FROM, TO = 5, 0x9000, 0x1000, 0x2000


class HoldingMap(PageMap):
    """A unit that holds what it cannot translate."""

    def __init__(self):
        super().__init__()
        self.held = {}

    def translate(self, request):
        """An address, or a fault with the lowest free tag."""
        answer = super().translate(request)
        if isinstance(answer, Fault):
            answer = answer._replace(stall=next(tag for tag in range(99) if tag not in self.held))
            self.held[answer.stall] = request
        return answer


class HoldingBench(Bench):
    """A device in front of it; each page has its own address."""

    def __init__(self):
        super().__init__()
        self.unit = HoldingMap()
        self.fabric = Fabric(self.time, self.memory, self.unit)
        self.device = Accelerator(self.time, "dsa1", RID, self.fabric, self.agenda)
        self.held = self.unit.held
        self.start(SHARED, pasid_en=1)
        for page in (RECORD >> 12, TO >> 12):
            self.map(PASID, page, page)

    def resume(self, tag, retry=True):
        """Let a request go."""
        del self.held[tag]
        self.device.resumed(tag, retry=retry)

    def copy(self, src=FROM, size=16, record=RECORD):
        """Submit a copy."""
        flags = Flag.CRAV | Flag.RCR
        work = Descriptor(Opcode.MEMMOVE, pasid=PASID, flags=flags, src=src, dst=TO, size=size, completion_addr=record)
        assert self.enqueue(work)

    def record(self, at=RECORD):
        """The completion record."""
        return Completion.from_bytes(self.memory.read(at, 32))


@pytest.fixture
def bench():
    """The source page is missing."""
    found = HoldingBench()
    found.memory.write(FROM, b"held and resumed")
    return found


def test_a_descriptor_waits_as_long_as_its_request_is_held(bench):
    """Nothing is enabled, nothing is written; it is in flight. No flag has to ask for that."""
    bench.copy()
    bench.agenda.run_all()
    assert [request.address for request in bench.held.values()] == [FROM]
    assert bench.record().status == 0
    assert [work.src for _, work, _ in bench.device.in_flight()] == [FROM]


def test_a_request_that_is_tried_again_goes_on(bench):
    """When the page is there."""
    bench.copy()
    bench.agenda.run_all()
    bench.map(PASID, FROM >> 12, FROM >> 12)
    bench.resume(0)
    assert bench.memory.read(TO, 16) == bytes(16)
    bench.agenda.run_all()
    assert bench.memory.read(TO, 16) == b"held and resumed"
    assert bench.record().status == CompletionStatus.SUCCESS


def test_a_request_that_faults_again_is_held_again(bench):
    """The device knows nothing of that, and has much patience; at last its descriptor ends, so that every run does."""
    bench.copy()
    for _ in range(HOLDS):
        bench.agenda.run_all()
        assert len(bench.held) == 1
        assert bench.record().status == 0
        bench.resume(0)
    bench.agenda.run_all()
    bench.resume(0)
    bench.agenda.run_all()
    assert bench.held == {}
    assert bench.record()[:1] == (CompletionStatus.PAGE_FAULT_IR,)


def test_a_request_that_failed_ends_its_descriptor(bench):
    """A page fault, at its address."""
    bench.copy()
    bench.agenda.run_all()
    bench.resume(0, retry=False)
    bench.agenda.run_all()
    assert bench.record()[:1] == (CompletionStatus.PAGE_FAULT_IR,)
    assert bench.record().fault_addr == FROM


def test_a_tag_may_be_used_again_before_its_descriptor_goes_on(bench):
    """Resumed means free for the unit; two descriptors are not mixed up."""
    bench.copy()
    bench.copy(src=0x3000, record=RECORD + 32)
    bench.agenda.run_all()
    bench.map(PASID, FROM >> 12, FROM >> 12)
    first = next(tag for tag, request in bench.held.items() if request.address == FROM)
    bench.resume(first)
    bench.copy(src=0x4000, record=RECORD + 64)
    waiting = [action for action in bench.agenda.actions(bench.device) if not action.what.startswith("held")]
    bench.agenda.disable(waiting[0].number)
    bench.device.run_enabled(waiting[0].what)
    assert bench.held[first].address == 0x4000
    bench.agenda.run_all()
    assert bench.record().status == CompletionStatus.SUCCESS
    assert bench.record(RECORD + 64).status == 0
    assert sorted(request.address for request in bench.held.values()) == [0x3000, 0x4000]


def test_a_tag_that_nobody_waits_for_changes_nothing(bench):
    """That of a completion record, whose fate was told already."""
    before = bench.time.digest()
    bench.device.resumed(7, retry=True)
    assert bench.time.digest() == before


def test_a_completion_record_that_is_held_is_an_error(bench):
    """SWERR, as when it faults."""
    bench.map(PASID, FROM >> 12, FROM >> 12)
    bench.copy(record=0x8000)
    bench.agenda.run_all()
    assert [request.access for request in bench.held.values()] == [Access.WRITE]
    assert bench.device.in_flight() == []
    bench.resume(0)
    assert bench.agenda.run_all() == 0


@pytest.mark.parametrize("how", ["abort", "drain", "reset"])
def test_a_descriptor_that_is_dropped_leaves_its_request_behind(bench, how):
    """Until it is resumed, which then means nothing."""
    bench.copy()
    bench.agenda.run_all()
    if how == "reset":
        bench.device.function_level_reset()
    else:
        (bench.device.abort if how == "abort" else bench.device.drain)(SHARED)
    assert bench.device.held() == []
    assert len(bench.device.waits.held) == 1
    bench.resume(0)
    assert len(bench.device.waits.held) == 0
    assert bench.agenda.run_all() == 0
    assert bench.record().status == 0


def test_an_aborted_descriptor_that_could_go_on_is_gone(bench):
    """Between the resumption and its action."""
    bench.copy()
    bench.agenda.run_all()
    bench.resume(0)
    assert bench.device.abort(pasid=PASID) == 1
    assert len(bench.device.waits.held) == 0
    assert bench.agenda.run_all() == 0


def test_draining_lets_whoever_serves_pages_run(bench):
    """As with page requests."""

    class Server:
        """Maps what is missing."""

        path = "server"

        def run_enabled(self, what):
            """Map and resume."""
            assert what == SERVE_PAGES
            bench.map(PASID, FROM >> 12, FROM >> 12)
            bench.resume(0)

    bench.copy()
    bench.agenda.run_all()
    bench.agenda.enable(Server(), SERVE_PAGES, "serve")
    assert bench.command(Command.DRAIN_ALL) == 0
    assert bench.record().status == CompletionStatus.SUCCESS
    assert bench.memory.read(TO, 16) == b"held and resumed"


def test_time_travel_takes_back_a_resumption(bench):
    """What waits is state of the timeline."""
    bench.copy()
    bench.agenda.run_all()
    before, digest = bench.time.journal.position, bench.time.digest()
    bench.device.resumed(0, retry=True)
    bench.time.journal.seek(before)
    assert bench.time.digest() == digest
    assert bench.device.waits.resumed(0) == 0
    assert bench.device.rid == RID
