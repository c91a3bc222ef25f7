"""Descriptors that wait for a page: group indexes, the capacity that PRI allocates, all answers, drain and abort."""

from __future__ import annotations

import pytest

from pasidlab.hardware.accelerator import Accelerator, Command, CommandError, Completion, CompletionStatus, Flag
from pasidlab.hardware.accelerator.commands import command_word, queue_bitmap
from pasidlab.hardware.accelerator.descriptor import Descriptor, Opcode
from pasidlab.hardware.accelerator.page_waits import NOT_READY, PATIENCE, PageWaits, WaitingWork
from pasidlab.hardware.accelerator.progress import Progress
from pasidlab.hardware.accelerator.register_map import CMD, CMDSTS, portal_offset, wqcfg_offset
from pasidlab.hardware.config_space import ATS_CAPABILITY, PRI_CAPABILITY
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.hardware.layouts.pcie import PRI_CAP
from pasidlab.hardware.memory import PAGE_SIZE, PhysicalMemory
from pasidlab.hardware.pcie import (
    SERVE_PAGES,
    Access,
    DmaRequest,
    PageGroupResponse,
    ResponseCode,
    TranslationCompletion,
)
from pasidlab.timeline import Agenda, Timeline, Verb

RID, PASID, OTHER = 0x6A08, 5, 6
RECORD = 0x9000
SHARED = 0
SUCCESS, INVALID, FAILURE = ResponseCode.SUCCESS, ResponseCode.INVALID, ResponseCode.FAILURE


class Answers:
    """A remapping unit with a set of pages, one to one; page requests are only written down."""

    def __init__(self):
        self.pages = set()
        self.asked = []

    def walk(self, request, *, caches=True):
        """Nobody asks questions here."""
        return Walk(request, (), request.address, None)

    def translate(self, request):
        """Translated requests pass."""
        return request.address

    def complete(self, request):
        """A page that is there grants everything, one to one."""
        there = request.address >> 12 in self.pages
        return TranslationCompletion(request.address & -PAGE_SIZE, PAGE_SIZE, there, there)

    def page_request(self, request):
        """Keep it."""
        self.asked.append(request)


class Bench:
    """An accelerator with ATS and PRI on, a shared queue, and the completion record's page."""

    def __init__(self, capacity=4):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", 1 << 22)
        self.unit, self.agenda = Answers(), Agenda(self.time)
        self.unit.pages.add(RECORD >> 12)
        fabric = Fabric(self.time, self.memory, self.unit)
        self.device = Accelerator(self.time, "dsa0", RID, fabric, self.agenda, shared=1, dedicated=0, wq_size=16)
        self.allocate(capacity)
        self.device.config.write(ATS_CAPABILITY + 4, 1 << 31)
        assert self.command(Command.ENABLE_DEVICE) is CommandError.SUCCESS
        words = WQCFG.change(self.device.wqcfg(SHARED), pasid_en=1)
        for index, word in enumerate(words):
            self.device.mmio_write(wqcfg_offset(SHARED) + 8 * index, word)
        assert self.command(Command.ENABLE_WQ, SHARED) is CommandError.SUCCESS
        self.records = 0

    def allocate(self, capacity):
        """How many page requests may be outstanding."""
        self.device.config.write(PRI_CAPABILITY + 12, capacity)
        self.device.config.write(PRI_CAPABILITY + 4, 1)

    def command(self, command, operand=0):
        """Write the command register; the error code of the status register."""
        self.device.mmio_write(CMD, command_word(command, operand), 4)
        return CommandError(self.device.mmio_read(CMDSTS, 4) & 0xFF)

    def fill(self, page, pasid=PASID, *, block=True, size=8):
        """Submit a fill of a page's first bytes and let it run; returns where its record will be."""
        record = RECORD + 32 * self.records
        self.records += 1
        flags = Flag.CRAV | Flag.RCR | (Flag.BOF if block else 0)
        work = Descriptor(Opcode.MEMFILL, src=0x5555, dst=page << 12, size=size, completion_addr=record, flags=flags)
        data = work._replace(pasid=pasid).to_bytes()
        before = {action.number for action in self.agenda.actions()}
        assert self.device.portals.enqueue64(portal_offset(SHARED), data)
        while new := {action.number for action in self.agenda.actions()} - before:
            self.agenda.run(min(new))
        return record

    def status(self, record):
        """The record's status, ``NONE`` as long as there is none."""
        return CompletionStatus(Completion.from_bytes(self.memory.read(record, 32)).status)

    def answer(self, group=0, code=SUCCESS, pasid=PASID):
        """A response arrives."""
        self.device.page_response(PageGroupResponse(RID, pasid, group, code))

    @property
    def flags(self):
        """The error bits of the PRI capability: RF, UPRGI."""
        word = (self.device.config.read(PRI_CAPABILITY) | self.device.config.read(PRI_CAPABILITY + 4) << 32, 0)
        return PRI_CAP["RF"].get(word), PRI_CAP["UPRGI"].get(word)

    def groups(self):
        """The groups of the requests so far."""
        return [request.group for request in self.unit.asked]


@pytest.fixture
def bench():
    """Room for four."""
    return Bench()


# --- the table --------------------------------------------------------------------------------------------------------


def waiting(pasid=PASID, **changes):
    """Some work."""
    request = DmaRequest(RID, 0x1000, Access.READ, pasid)
    return WaitingWork(Progress(SHARED, b"data"), request)._replace(**changes)


def test_the_lowest_free_index_names_a_group():
    """And an index comes back only when its group is gone."""
    waits = PageWaits(Timeline(), "waits")
    assert [waits.add(waiting()) for _ in range(3)] == [0, 1, 2]
    del waits.groups[1]
    assert waits.add(waiting()) == 1


def test_an_answer_must_name_group_and_pasid_of_a_request_that_was_made():
    """Anything else is unexpected."""
    waits = PageWaits(Timeline(), "waits")
    waits.add(waiting(asked=True))
    waits.add(waiting())
    assert waits.answered(PageGroupResponse(RID, PASID, 0, 0)) is not None
    for pasid, group in ((OTHER, 0), (None, 0), (PASID, 1), (PASID, 2)):
        assert waits.answered(PageGroupResponse(RID, pasid, group, 0)) is None, (pasid, group)


def test_what_was_abandoned_keeps_its_index_while_its_request_is_out():
    """The answer to the dead must not reach the next one."""
    waits = PageWaits(Timeline(), "waits")
    waits.add(waiting(asked=True))
    waits.add(waiting())
    waits.abandon(0)
    waits.abandon(1)
    assert (waits.groups.keys(), waits.working(), waits.outstanding) == ([0], [], 1)
    assert waits.add(waiting()) == 1


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_descriptor_that_blocks_asks_for_its_page_and_leaves_the_queue(bench):
    """One request, the last of its group, for the access that is needed; nothing is written meanwhile."""
    record = bench.fill(3)
    (asked,) = bench.unit.asked
    assert (asked.rid, asked.pasid, asked.address) == (RID, PASID, 3 << 12)
    assert (asked.read, asked.write, asked.execute, asked.privileged, asked.last) == (False, True, False, False, True)
    assert bench.device.occupancy(SHARED) == 0
    assert bench.status(record) is CompletionStatus.NONE
    assert bench.agenda.actions() == []


def test_without_the_flag_nobody_is_asked(bench):
    """The descriptor ends with a page fault that tells the address."""
    record = bench.fill(3, block=False)
    assert bench.unit.asked == []
    assert bench.status(record) is CompletionStatus.PAGE_FAULT_NOBOF
    assert Completion.from_bytes(bench.memory.read(record, 32)).fault_addr == 3 << 12


def test_a_queue_that_does_not_block_ignores_the_flag(bench):
    """WQCFG.bof=0 (UNVERIFIED: ignored)."""
    assert bench.command(Command.DISABLE_WQ, queue_bitmap(SHARED)) is CommandError.SUCCESS
    bench.device.mmio_write(wqcfg_offset(SHARED) + 8, WQCFG.change(bench.device.wqcfg(SHARED), bof=0)[1])
    assert bench.command(Command.ENABLE_WQ, SHARED) is CommandError.SUCCESS
    assert bench.status(bench.fill(3)) is CompletionStatus.PAGE_FAULT_NOBOF
    assert bench.unit.asked == []


def test_a_device_whose_page_requests_are_off_does_not_block(bench):
    """PRI.EN=0."""
    bench.device.config.write(PRI_CAPABILITY + 4, 0)
    assert bench.status(bench.fill(3)) is CompletionStatus.PAGE_FAULT_NOBOF


def test_a_success_lets_the_descriptor_go_on_where_it_was(bench):
    """Pages that are there are not done twice; each missing one is asked for in turn."""
    bench.unit.pages.add(3)
    record = bench.fill(3, size=3 * PAGE_SIZE)
    assert [request.address >> 12 for request in bench.unit.asked] == [4]
    bench.memory.store(3 << 12, 0)
    for page in (4, 5):
        bench.unit.pages.add(page)
        bench.answer()
        bench.agenda.run_all()
    assert [request.address >> 12 for request in bench.unit.asked] == [4, 5]
    assert bench.status(record) is CompletionStatus.SUCCESS
    assert [bench.memory.load(page << 12) for page in (3, 4, 5)] == [0, 0x5555, 0x5555]


def test_a_success_without_a_page_is_asked_for_again(bench):
    """The page may have gone meanwhile, or the queue was full: the device tries again."""
    bench.fill(3)
    bench.answer()
    bench.agenda.run_all()
    assert bench.groups() == [0, 0]


@pytest.mark.parametrize("code", [INVALID, FAILURE])
def test_any_other_answer_ends_the_descriptor_with_a_page_fault(bench, code):
    """PAGE_FAULT_IR, with the bytes done and the address; a failure stops the interface as well."""
    bench.unit.pages.add(3)
    record = bench.fill(3, size=2 * PAGE_SIZE)
    bench.answer(code=code)
    bench.agenda.run_all()
    completion = Completion.from_bytes(bench.memory.read(record, 32))
    assert completion.status == CompletionStatus.PAGE_FAULT_IR
    assert (completion.bytes_completed, completion.fault_addr, completion.write) == (PAGE_SIZE, 4 << 12, 1)
    assert bench.flags == (int(code is FAILURE), 0)


def test_after_a_failure_nothing_is_asked_any_more(bench):
    """RF=1: descriptors end at once, until the interface is reset."""
    bench.fill(3)
    bench.answer(code=FAILURE)
    bench.agenda.run_all()
    assert bench.status(bench.fill(4)) is CompletionStatus.PAGE_FAULT_NOBOF
    bench.device.config.write(PRI_CAPABILITY + 4, PRI_CAP["RESET"].mask >> 32 | 1)
    assert bench.status(bench.fill(5)) is CompletionStatus.NONE


# --- answers that nobody waits for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "pasid"), [(1, PASID), (0, OTHER), (0, None), (511, PASID)])
def test_an_unexpected_answer_is_flagged_and_changes_nothing(bench, group, pasid):
    """UPRGI=1; the descriptor waits on."""
    record = bench.fill(3)
    bench.answer(group, pasid=pasid)
    assert bench.flags == (0, 1)
    assert bench.agenda.actions() == []
    bench.unit.pages.add(3)
    bench.answer()
    bench.agenda.run_all()
    assert bench.status(record) is CompletionStatus.SUCCESS


def test_a_second_answer_is_unexpected(bench):
    """The group is answered once; what comes again finds nobody."""
    bench.unit.pages.clear()
    bench.unit.pages.add(RECORD >> 12)
    bench.fill(3)
    bench.answer()
    assert bench.flags == (0, 0)
    bench.answer(code=FAILURE)
    assert bench.flags == (0, 1)


# --- capacity ---------------------------------------------------------------------------------------------------------


def test_no_more_groups_are_outstanding_than_allocated(bench):
    """The others wait inside the device, and are asked for as answers come, lowest index first."""
    records = [bench.fill(10 + number) for number in range(7)]
    assert bench.groups() == [0, 1, 2, 3]
    bench.unit.pages |= set(range(10, 17))
    bench.answer(2)
    assert bench.groups() == [0, 1, 2, 3, 4]
    for group in (0, 1, 3, 4):
        bench.answer(group)
    assert bench.groups() == [0, 1, 2, 3, 4, 5, 6]
    for group in (5, 6):
        bench.answer(group)
    bench.agenda.run_all()
    assert {bench.status(record) for record in records} == {CompletionStatus.SUCCESS}
    assert not len(bench.device.waits.groups)


def test_more_waiting_work_than_there_are_indexes_does_not_break_the_device():
    """9 bits name 512 groups; the next descriptor cannot wait."""
    bench = Bench(capacity=1)
    for number in range(512):
        bench.records = number % 64
        bench.fill(100)
    bench.records = 100
    record = bench.fill(100)
    assert len(bench.device.waits.groups) == 512
    assert bench.status(record) is CompletionStatus.PAGE_FAULT_NOBOF


# --- drain and abort --------------------------------------------------------------------------------------------------


class Server:
    """Whoever serves page requests: on the agenda, until it has run."""

    path = "server"

    def __init__(self, bench, code=SUCCESS):
        self.bench, self.code, self.runs = bench, code, 0
        bench.agenda.enable(self, SERVE_PAGES, "serve")

    def run_enabled(self, what):
        """Answer everything, and come back if there may be more."""
        self.runs += 1
        asked, self.bench.unit.asked = self.bench.unit.asked, []
        for request in asked:
            self.bench.unit.pages.add(request.address >> 12)
            self.bench.answer(request.group, self.code, request.pasid)
        if self.runs < 3:
            self.bench.agenda.enable(self, SERVE_PAGES, "serve")


def test_draining_waits_for_the_answers(bench):
    """The server runs as often as it takes; afterwards the work is done, not dropped."""
    records = [bench.fill(3, size=2 * PAGE_SIZE), bench.fill(7)]
    server = Server(bench)
    assert bench.command(Command.DRAIN_ALL) is CommandError.SUCCESS
    assert [bench.status(record) for record in records] == [CompletionStatus.SUCCESS] * 2
    assert server.runs == 2
    assert not len(bench.device.waits.groups)


def test_draining_one_pasid_leaves_the_others_waiting(bench):
    """DRAIN_PASID: only its descriptors are waited for."""
    mine, yours = bench.fill(3), bench.fill(4, OTHER)
    bench.unit.asked = [request for request in bench.unit.asked if request.pasid == PASID]
    Server(bench)
    bench.command(Command.DRAIN_PASID, PASID)
    assert (bench.status(mine), bench.status(yours)) == (CompletionStatus.SUCCESS, CompletionStatus.NONE)
    assert [work.request.pasid for _, work in bench.device.waits.working()] == [OTHER]


def test_draining_where_nobody_serves_drops_the_work(bench):
    """An answer will not come; the index stays taken in case it does."""
    record = bench.fill(3)
    bench.command(Command.DRAIN_ALL)
    assert bench.status(record) is CompletionStatus.NONE
    assert (bench.device.waits.working(), bench.device.waits.groups.keys()) == ([], [0])
    bench.answer()
    assert not len(bench.device.waits.groups)
    assert bench.flags == (0, 0)


@pytest.mark.parametrize("command", [Command.ABORT_ALL, Command.RESET_DEVICE])
def test_an_aborted_descriptor_is_dropped_and_its_index_waits_for_the_answer(bench, command):
    """Whatever the answer says, it lets nothing go on; then the index is free."""
    record = bench.fill(3)
    bench.command(command)
    assert bench.device.waits.working() == []
    bench.unit.pages.add(3)
    bench.answer()
    assert bench.agenda.actions() == []
    assert not len(bench.device.waits.groups)
    assert (bench.status(record), bench.memory.load(3 << 12), bench.flags) == (CompletionStatus.NONE, 0, (0, 0))


def test_an_answered_descriptor_can_be_aborted_before_it_goes_on(bench):
    """Its enabled action goes with it."""
    bench.fill(3)
    bench.unit.pages.add(3)
    bench.answer()
    assert len(bench.agenda.actions()) == 1
    bench.command(Command.ABORT_PASID, PASID)
    assert bench.agenda.actions() == []
    assert not len(bench.device.waits.groups)


def test_an_answered_descriptor_is_drained_at_once(bench):
    """Nobody need serve anything."""
    record = bench.fill(3)
    bench.unit.pages.add(3)
    bench.answer()
    bench.command(Command.DRAIN_WQ, queue_bitmap(SHARED))
    assert bench.status(record) is CompletionStatus.SUCCESS
    assert bench.agenda.actions() == []


@pytest.mark.parametrize(("how", "verb"), [("drain", "drained"), ("abort", "aborted")])
def test_those_that_wait_for_a_page_are_counted(bench, how, verb):
    """One answered, one not, one of another PASID: the first two are meant, whether they are done or dropped."""
    bench.fill(3)
    bench.unit.pages.add(3)
    bench.answer()
    bench.fill(4)
    bench.fill(5, OTHER)
    assert getattr(bench.device, how)(pasid=PASID) == 2
    told = [event for event in bench.time.events if event.verb is Verb.DRAIN][-1]
    assert (verb in told.subject, told.fact("count")) == (True, 2)
    assert [work.request.pasid for _, work in bench.device.waits.working()] == [OTHER]


def test_aborting_makes_room_for_those_that_could_not_be_asked_for():
    """The aborted one's request is still out, so it counts until it is answered."""
    bench = Bench(capacity=1)
    bench.fill(3)
    bench.fill(4, OTHER)
    assert bench.groups() == [0]
    bench.command(Command.ABORT_PASID, PASID)
    assert bench.groups() == [0]
    bench.answer()
    assert bench.groups() == [0, 1]


def test_work_that_is_ready_is_marked_by_its_action(bench):
    """NOT_READY until the answer has come."""
    bench.fill(3)
    assert bench.device.waits.groups[0].action == NOT_READY
    bench.answer()
    (action,) = bench.agenda.actions()
    assert bench.device.waits.groups[0].action == action.number


# --- batches ----------------------------------------------------------------------------------------------------------

LIST = 0x20000


def batch(bench, *pages, block=True, list_blocks=False, there=True):
    """Submit fills of these pages as a batch; returns the places of their records, and of the batch's own last."""
    flags = Flag.CRAV | Flag.RCR
    records = [RECORD + 32 * number for number in range(len(pages) + 1)]
    fill = Descriptor(Opcode.MEMFILL, src=0x5555, size=8, flags=flags | Flag.BOF if block else flags)
    children = [
        fill._replace(dst=page << 12, completion_addr=record) for page, record in zip(pages, records, strict=False)
    ]
    bench.memory.write(LIST, b"".join(child.to_bytes() for child in children))
    bench.unit.pages |= {LIST >> 12} if there else set()
    own = Descriptor(Opcode.BATCH, src=LIST, size=len(pages), completion_addr=records[-1], pasid=PASID)
    own = own._replace(flags=flags | Flag.BOF if list_blocks else flags)
    assert bench.device.portals.enqueue64(portal_offset(SHARED), own.to_bytes())
    bench.agenda.run_all()
    return records


def test_a_batch_waits_where_one_of_its_descriptors_does_and_goes_on_there(bench):
    """Those behind it wait as well; nothing is done twice."""
    bench.unit.pages |= {3, 5}
    records = batch(bench, 3, 4, 5)
    assert [request.address >> 12 for request in bench.unit.asked] == [4]
    assert [bench.status(record).name for record in records] == ["SUCCESS", "NONE", "NONE", "NONE"]
    assert [(work.opcode, done) for _, work, done in bench.device.in_flight()] == [(Opcode.BATCH, 1)]
    bench.memory.store(3 << 12, 0)
    bench.unit.pages.add(4)
    bench.answer()
    bench.agenda.run_all()
    assert [bench.status(record).name for record in records] == ["SUCCESS"] * 4
    assert [bench.memory.load(page << 12) for page in (3, 4, 5)] == [0, 0x5555, 0x5555]


@pytest.mark.parametrize("code", [INVALID, FAILURE])
def test_a_page_that_will_not_come_fails_its_descriptor_and_the_batch_goes_on(bench, code):
    """PAGE_FAULT_IR for the one, BATCH_FAIL for the batch."""
    bench.unit.pages.add(3)
    records = batch(bench, 4, 3)
    bench.answer(code=code)
    bench.agenda.run_all()
    assert [bench.status(record).name for record in records] == ["PAGE_FAULT_IR", "SUCCESS", "BATCH_FAIL"]


def test_the_flag_of_each_descriptor_decides(bench):
    """Without BOF it ends with its page fault, whatever the batch says."""
    bench.unit.pages.add(3)
    records = batch(bench, 4, 3, block=False, list_blocks=True)
    assert bench.unit.asked == []
    assert [bench.status(record).name for record in records] == ["PAGE_FAULT_NOBOF", "SUCCESS", "BATCH_FAIL"]


def test_a_list_that_is_not_there_can_be_waited_for(bench):
    """With BOF on the batch: one request, for reading."""
    bench.unit.pages |= {3, 4}
    records = batch(bench, 3, 4, list_blocks=True, there=False)
    (asked,) = bench.unit.asked
    assert (asked.address, asked.read, asked.write) == (LIST, True, False)
    bench.unit.pages.add(LIST >> 12)
    bench.answer()
    bench.agenda.run_all()
    assert [bench.status(record).name for record in records] == ["SUCCESS"] * 3


def test_a_list_that_will_not_come_ends_the_batch(bench):
    """BATCH_PAGE_FAULT, with the address and no descriptor done."""
    records = batch(bench, 3, 4, list_blocks=True, there=False)
    bench.answer(code=INVALID)
    bench.agenda.run_all()
    own = Completion.from_bytes(bench.memory.read(records[-1], 32))
    assert own == (CompletionStatus.BATCH_PAGE_FAULT, 0, 0, LIST, 0)


def test_a_batch_asks_for_one_page_no_more_often_than_a_copy(bench):
    """After PATIENCE answers without a page its descriptor fails."""
    bench.unit.pages.add(3)
    records = batch(bench, 4, 3)
    for _ in range(PATIENCE):
        bench.answer()
        bench.agenda.run_all()
    assert len(bench.unit.asked) == PATIENCE
    assert [bench.status(record).name for record in records] == ["PAGE_FAULT_IR", "SUCCESS", "BATCH_FAIL"]


@pytest.mark.parametrize(("how", "status"), [("drain", "SUCCESS"), ("abort", "NONE")])
def test_a_batch_that_waits_is_drained_or_dropped_as_a_whole(bench, how, status):
    """Draining lets the server bring the page; after an abort no record is written."""
    records = batch(bench, 4, 5)
    Server(bench)
    assert getattr(bench.device, how)(pasid=PASID) == 1
    assert {bench.status(record).name for record in records} == {status}
    assert bench.device.held() == []
