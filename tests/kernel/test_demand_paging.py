"""Memory that comes when it is touched: by the CPU, by a device that asks for pages; and what happens when it goes."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.pcie import PRI_CAP
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.memory import PAGE_SIZE, PhysicalMemory
from pasidlab.hardware.pcie import SERVE_PAGES, PageGroupResponse, PageRequest
from pasidlab.kernel.mm import Mm
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.pci import PciFunction
from pasidlab.timeline import Timeline, Verb
from tests.worlds import World

SIZE = 1 << 20
SLOTS = 4096 // PAGE_REQUEST.size


# --- an address space -------------------------------------------------------------------------------------------------


class Watcher:
    """A notifier that looks at the allocator while it is told."""

    path = "watcher"

    def __init__(self, pages):
        self.pages = pages
        self.told = []

    def invalidate_range(self, mm, start, count):
        """Note the range, what is mapped, and how many pages are out."""
        mapped = [at for at in range(start, start + count * PAGE_SIZE, PAGE_SIZE) if mm.table.find(at) is not None]
        self.told.append((start, count, mapped, self.pages.used))


class Deaf(Watcher):
    """A notifier whose queue to the IOMMU has stopped."""

    def invalidate_range(self, mm, start, count):
        """Nobody can be told."""
        raise KernelError("EIO", "the IOMMU did not complete an invalidation")


@pytest.fixture
def mm():
    """A fresh address space over 1 MiB."""
    time = Timeline()
    return Mm(time, "mm", PageAllocator(time, "pages", PhysicalMemory(time, "ram", SIZE), SIZE))


def present(mm, start, count):
    """Which pages of a range are mapped."""
    return [page for page in range(count) if mm.table.find(start + page * PAGE_SIZE) is not None]


def test_a_mapping_that_is_not_populated_has_no_page(mm):
    """It costs nothing until it is touched."""
    used = mm._pages.used
    at = mm.mmap(5 * PAGE_SIZE, populate=False)
    assert (present(mm, at, 5), mm._pages.used) == ([], used)


def test_what_was_never_touched_reads_as_zero_and_stays_unmapped(mm):
    """Linux maps one shared page of zeros; here there is none."""
    at = mm.mmap(2 * PAGE_SIZE, populate=False)
    mm.write(at + 10, b"x")
    assert mm.read(at, 2 * PAGE_SIZE) == bytes(10) + b"x" + bytes(2 * PAGE_SIZE - 11)
    assert present(mm, at, 2) == [0]


def test_a_write_brings_the_pages_that_it_touches(mm):
    """Zeroed, writable, no more than needed."""
    at = mm.mmap(5 * PAGE_SIZE, populate=False)
    mm.write(at + 2 * PAGE_SIZE - 1, b"ab")
    assert present(mm, at, 5) == [1, 2]
    assert mm.read(at + 2 * PAGE_SIZE - 2, 4) == b"\0ab\0"


@pytest.mark.parametrize(
    ("offset", "write", "brought"),
    [(0, False, True), (PAGE_SIZE - 1, True, True), (2 * PAGE_SIZE, False, False), (-1, False, False)],
)
def test_a_fault_brings_a_page_inside_a_mapping_only(mm, offset, write, brought):
    """The guard page behind it is no part of it."""
    at = mm.mmap(2 * PAGE_SIZE, populate=False)
    assert mm.fault(at + offset, write=write) is brought
    assert (present(mm, at, 2) != []) is brought


def test_a_read_only_mapping_is_brought_for_reading(mm):
    """A write is refused whether the page is there or not."""
    at = mm.mmap(PAGE_SIZE, writable=False, populate=False)
    assert not mm.fault(at, write=True)
    assert present(mm, at, 1) == []
    assert mm.fault(at, write=False)
    assert not mm.fault(at, write=True)
    with pytest.raises(KernelError, match="read-only"):
        mm.write(at, b"x")


def test_a_page_that_is_there_is_not_brought_twice(mm):
    """A spurious fault changes nothing."""
    at = mm.mmap(PAGE_SIZE, populate=False)
    mm.write(at, b"kept")
    position = mm.timeline.journal.position
    assert mm.fault(at, write=True)
    assert mm.timeline.journal.position == position


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_without_memory_a_fault_fails_and_the_next_one_works(mm, nth):
    """Whatever is refused: the page itself, or one of its three tables. What was built of these may stay."""
    at = mm.mmap(PAGE_SIZE, populate=False)
    used = mm._pages.used
    mm._pages.slab.fail_nth = nth
    assert not mm.fault(at, write=True)
    assert present(mm, at, 1) == []
    assert mm.fault(at, write=True)
    assert mm._pages.used == used + 4
    mm.exit()
    mm.drop()
    assert mm._pages.used == 0


def test_a_notifier_is_told_between_unmapping_and_freeing(mm):
    """Nobody can translate to the pages any more, and they are not free yet."""
    at = mm.mmap(3 * PAGE_SIZE)
    watcher = Watcher(mm._pages)
    mm.notifiers[watcher.path] = watcher
    used = mm._pages.used
    mm.munmap(at)
    assert watcher.told == [(at, 3, [], used)]
    assert mm._pages.used == used - 3


def test_a_mapping_of_which_no_page_ever_came_needs_no_flush(mm):
    """Not-present first-level entries are never kept."""
    at = mm.mmap(3 * PAGE_SIZE, populate=False)
    watcher = Watcher(mm._pages)
    mm.notifiers[watcher.path] = watcher
    mm.munmap(at)
    assert watcher.told == []


def test_memory_stays_when_somebody_cannot_be_told_that_it_goes(mm):
    """A device might still write there: mapping, pages and contents are as before, and a second try frees them."""
    used = mm._pages.used
    at = mm.mmap(3 * PAGE_SIZE, populate=False)
    mm.write(at + PAGE_SIZE, b"kept")
    out = mm._pages.used
    deaf = Deaf(mm._pages)
    mm.notifiers[deaf.path] = deaf
    with pytest.raises(KernelError, match="EIO"):
        mm.munmap(at)
    assert (at in mm.areas, present(mm, at, 3), mm._pages.used) == (True, [1], out)
    assert mm.read(at + PAGE_SIZE, 4) == b"kept"
    del mm.notifiers[deaf.path]
    mm.exit()
    assert mm._pages.used == used


# --- a device that asks -----------------------------------------------------------------------------------------------


def demand(world, pages=1, **options):
    """Memory of the process that is not there yet."""
    with world.time.operation("mmap"):
        return world.app.process.mm.mmap(pages * PAGE_SIZE, populate=False, **options)


@pytest.fixture
def world():
    """A native process that is bound."""
    world = World()
    world.app = world.m.spawn("app")
    world.pasid = world.app.bind(world.dsa)
    world.requests = world.m.kernel.iommu.page_requests
    return world


def verbs(world, begin, *wanted):
    """The verbs of interest, in order."""
    return [event.verb for event in world.since(begin) if event.verb in wanted]


def at_rest(world):
    """Nothing is left to do, in no queue, and nothing is wrong."""
    assert world.m.check().ok, world.m.check()
    assert world.m.pending == []
    assert world.requests.pending.keys() == []
    assert [device.waits.groups.keys() for device in world.m.accelerators.values()] == [[]] * len(world.m.accelerators)


def test_a_copy_into_memory_that_is_not_there_brings_it(world):
    """The device asks, the kernel brings the page, the device goes on; every byte arrives."""
    data = bytes(range(256)) * 40
    src, dst = world.app.buffer(data), demand(world, 3)
    begin = world.time.now
    outcome = world.app.copy(world.dsa, src, dst, len(data), block_on_fault=True)
    assert outcome.ok
    assert world.app.read(dst, len(data)) == data
    wanted = (Verb.PAGE_REQUEST, Verb.INTERRUPT, Verb.PAGE_FAULT, Verb.PAGE_RESPONSE, Verb.COMPLETE)
    steps = [Verb.PAGE_REQUEST, Verb.INTERRUPT, Verb.PAGE_FAULT, Verb.PAGE_RESPONSE] * 3 + [Verb.COMPLETE]
    assert sorted(verbs(world, begin, *wanted)) == sorted(steps)
    at_rest(world)


def test_a_copy_from_memory_that_is_not_there_brings_zeros(world):
    """The source is asked for to be read."""
    src, dst = demand(world), world.app.buffer(b"old" * 10)
    begin = world.time.now
    assert world.app.copy(world.dsa, src, dst, 30, block_on_fault=True).ok
    assert world.app.read(dst, 30) == bytes(30)
    (request,) = [event for event in world.since(begin) if event.verb is Verb.PAGE_REQUEST]
    assert "read" in request.subject
    assert "write" not in request.subject
    assert world.app.process.mm.table.find(src) is not None
    at_rest(world)


def test_source_and_destination_can_both_be_missing(world):
    """They are asked for one after the other."""
    src, dst = demand(world, 2), demand(world, 2)
    world.app.write(src + PAGE_SIZE, b"half of it")
    assert world.app.copy(world.dsa, src, dst, 2 * PAGE_SIZE, block_on_fault=True).ok
    assert world.app.read(dst, 2 * PAGE_SIZE) == bytes(PAGE_SIZE) + b"half of it" + bytes(PAGE_SIZE - 10)
    at_rest(world)


def test_without_block_on_fault_the_copy_ends_where_the_page_is_missing(world):
    """The bytes done, the address; nobody was asked, no fault was recorded."""
    src, dst = world.app.buffer(b"x" * 2 * PAGE_SIZE), demand(world, 2)
    world.app.write(dst, b"touched")
    begin = world.time.now
    outcome = world.app.copy(world.dsa, src, dst, 2 * PAGE_SIZE)
    assert (outcome.status, outcome.copied, outcome.fault_address) == (
        CompletionStatus.PAGE_FAULT_NOBOF,
        PAGE_SIZE,
        dst + PAGE_SIZE,
    )
    assert verbs(world, begin, Verb.PAGE_REQUEST) == []
    assert world.m.fault_log == []
    at_rest(world)


def test_read_only_memory_is_not_brought_for_writing(world):
    """Answered invalid: the copy ends with a page fault of its own kind, and nothing was written."""
    src, dst = world.app.buffer(b"x" * 8), demand(world, writable=False)
    outcome = world.app.copy(world.dsa, src, dst, 8, block_on_fault=True)
    assert (outcome.status, outcome.copied, outcome.fault_address) == (CompletionStatus.PAGE_FAULT_IR, 0, dst)
    assert world.app.process.mm.table.find(dst) is None
    assert world.app.copy(world.dsa, dst, src, 8, block_on_fault=True).ok, "but it can be read"
    assert world.app.copy(world.dsa, src, dst, 8, block_on_fault=True).status is CompletionStatus.PAGE_FAULT_IR
    at_rest(world)


@pytest.mark.parametrize("address", [0x1000, 0x7FFF_FFFF_F000, 1 << 47])
def test_memory_that_does_not_exist_is_not_brought(world, address):
    """Outside of every mapping, or not even canonical."""
    src = world.app.buffer(b"x" * 8)
    outcome = world.app.copy(world.dsa, src, address, 8, block_on_fault=True)
    assert outcome.status in (CompletionStatus.PAGE_FAULT_IR, CompletionStatus.PAGE_FAULT_NOBOF)
    assert outcome.copied == 0
    at_rest(world)


def test_without_free_memory_the_request_is_invalid_and_the_next_one_works(world):
    """The page allocator refuses once."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    with world.time.operation("fail"):
        world.m.kernel.pages.slab.fail_nth = 1
    assert world.app.copy(world.dsa, src, dst, 8, block_on_fault=True).status is CompletionStatus.PAGE_FAULT_IR
    assert world.app.process.mm.table.find(dst) is None
    assert world.app.copy(world.dsa, src, dst, 8, block_on_fault=True).ok
    at_rest(world)


def test_a_device_without_page_requests_cannot_wait():
    """Without ATS there is nothing to ask for: a missing page is a fault that the unit records."""
    world = World()
    plain = world.m.plug_accelerator("dsa1", ats=False)
    world.app = world.m.spawn("app")
    world.app.bind(plain)
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    assert world.app.copy(plain, src, dst, 8, block_on_fault=True).status is CompletionStatus.PAGE_FAULT_NOBOF
    assert len(world.m.fault_log) == 1


def test_each_step_of_a_page_request_can_be_chosen(world):
    """Descriptor, thread, descriptor again: three enabled actions, and nothing happens in between."""
    src, dst = world.app.buffer(b"step by step"), demand(world)
    ticket = world.app.submit(world.dsa, src, dst, 12, block_on_fault=True)
    labels = []
    while world.m.pending:
        (action,) = world.m.pending
        labels.append(action.what if action.what == SERVE_PAGES else "descriptor")
        assert ticket.poll() is None
        world.m.run(action.number)
        assert world.m.check().ok
    assert labels == ["descriptor", SERVE_PAGES, "descriptor"]
    assert ticket.poll().status == CompletionStatus.SUCCESS
    assert world.app.read(dst, 12) == b"step by step"


def test_a_copy_waits_for_its_own_pages_although_others_wait_too(world):
    """The thread was awake already: what it serves is served for all."""
    src, first, second = world.app.buffer(b"x" * 8), demand(world), demand(world)
    ticket = world.app.submit(world.dsa, src, first, 8, block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    assert world.app.copy(world.dsa, src, second, 8, block_on_fault=True).ok
    assert world.app.read(second, 8) == b"x" * 8
    world.m.run()
    assert ticket.poll().status == CompletionStatus.SUCCESS
    at_rest(world)


def test_two_descriptors_may_wait_for_the_same_page(world):
    """Both ask, both go on; the page comes once."""
    src, dst = world.app.buffer(b"firstsecond"), demand(world)
    used = world.m.kernel.pages.used
    tickets = [
        world.app.submit(world.dsa, src + at, dst + at, size, block_on_fault=True) for at, size in ((0, 5), (5, 6))
    ]
    world.m.run()
    assert [ticket.poll().status for ticket in tickets] == [CompletionStatus.SUCCESS] * 2
    assert world.app.read(dst, 11) == b"firstsecond"
    assert world.m.kernel.pages.used == used + 1
    at_rest(world)


# --- memory that goes -------------------------------------------------------------------------------------------------


def test_freed_memory_is_out_of_reach_of_the_device(world):
    """IOTLB and device TLB forget before the page is free: the next copy faults."""
    src, dst = world.app.buffer(b"secret!!"), world.app.buffer(8)
    assert world.app.copy(world.dsa, src, dst, 8).ok
    frame = world.app.process.mm.physical(src)
    world.app.free(src)
    assert not world.m.kernel.pages.is_used(frame)
    outcome = world.app.copy(world.dsa, src, dst, 8)
    assert (outcome.status, outcome.fault_address) == (CompletionStatus.PAGE_FAULT_NOBOF, src)
    assert world.app.copy(world.dsa, src, dst, 8, block_on_fault=True).status is CompletionStatus.PAGE_FAULT_IR
    at_rest(world)


def test_no_line_of_freed_pages_is_left_anywhere(world):
    """Neither in the unit nor in the device; those of other pages stay."""
    src, dst = world.app.buffer(b"x" * PAGE_SIZE), world.app.buffer(PAGE_SIZE)
    assert world.app.copy(world.dsa, src, dst, PAGE_SIZE).ok
    world.app.free(src)
    kept = {page for _, page, _ in world.dsa.hardware.tlb.lines.keys()}
    known = {page for _, _, page in world.m.unit.caches.iotlb.keys()}
    assert (src >> 12 in kept, src >> 12 in known) == (False, False)
    assert (dst >> 12 in kept, dst >> 12 in known) == (True, True)
    at_rest(world)


def test_memory_that_is_freed_while_a_descriptor_waits_for_it_is_not_brought_back(world):
    """Asked for, then gone: the answer is invalid, the bytes so far are told."""
    src, dst = world.app.buffer(b"x" * 2 * PAGE_SIZE), demand(world, 2)
    world.app.write(dst, b"first page")
    ticket = world.app.submit(world.dsa, src, dst, 2 * PAGE_SIZE, block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    world.app.free(dst)
    world.m.run()
    completion = ticket.poll()
    assert (completion.status, completion.bytes_completed) == (CompletionStatus.PAGE_FAULT_IR, PAGE_SIZE)
    at_rest(world)


def test_memory_that_is_freed_after_the_answer_is_asked_for_again(world):
    """The device translates again before it goes on."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    ticket = world.app.submit(world.dsa, src, dst, 8, block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    world.m.run(world.m.pending[0].number)
    world.app.free(dst)
    world.m.run()
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    at_rest(world)


def test_a_page_that_comes_again_is_another_page(world):
    """Freed and mapped anew at another address; the old address stays dead."""
    src, dst = world.app.buffer(b"one"), demand(world)
    assert world.app.copy(world.dsa, src, dst, 3, block_on_fault=True).ok
    world.app.free(dst)
    again = demand(world)
    assert again != dst
    assert world.app.copy(world.dsa, src, again, 3, block_on_fault=True).ok
    assert (world.app.read(again, 3), world.app.read(again + 3, 3)) == (b"one", bytes(3))
    with pytest.raises(KernelError):
        world.app.read(dst, 1)
    at_rest(world)


# --- the end of a process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("how", ["exit", "unbind"])
def test_a_process_may_end_with_page_requests_outstanding(world, how, steps):
    """Before the request, after it, after the answer: everything comes to rest, and every page comes back."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    world.app.submit(world.dsa, src, dst, 8, block_on_fault=True)
    for _ in range(steps):
        world.m.run(world.m.pending[0].number)
    pasid = world.pasid
    if how == "exit":
        world.app.exit()
    else:
        world.app.unbind(world.dsa)
    world.m.run()
    assert (world.dsa.rid, pasid) not in world.requests.sinks
    assert pasid not in world.core.ids
    at_rest(world)


def test_a_pasid_that_is_used_again_gets_no_request_of_its_predecessor(world):
    """The successor's memory is as it was; its own requests work."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    world.app.submit(world.dsa, src, dst, 8, block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    pasid = world.pasid
    world.app.exit()
    world.app = world.m.spawn("next")
    assert world.app.bind(world.dsa) == pasid
    mine, there = world.app.buffer(b"y" * 8), demand(world)
    assert (mine, there) == (src, dst)
    world.m.run()
    assert world.app.process.mm.table.find(there) is None
    assert world.app.copy(world.dsa, mine, there, 8, block_on_fault=True).ok
    at_rest(world)


# --- too much at once -------------------------------------------------------------------------------------------------


def test_more_descriptors_may_wait_than_requests_may_be_outstanding(world):
    """The device asks for the rest as answers come."""
    function = PciFunction(world.m.mmio, world.dsa.rid)
    with world.time.operation("a smaller allocation"):
        function.set(PRI_CAP, ALLOC=3)
    src, dst = world.app.buffer(b"x" * 8), demand(world, 10)
    tickets = []
    for page in range(10):
        tickets.append(world.app.submit(world.dsa, src, dst + page * PAGE_SIZE, 8, block_on_fault=True))
        world.m.run(world.m.pending[-1].number)
    assert world.dsa.hardware.waits.outstanding == 3
    assert len(world.m.unit.page_queue.requests()) == 3
    world.m.run()
    assert {ticket.poll().status for ticket in tickets} == {CompletionStatus.SUCCESS}
    at_rest(world)


@pytest.mark.parametrize("count", [40, 500])
def test_a_process_may_end_with_more_waiting_than_may_be_asked_for(world, count):
    """The unit answers the rest at once, since the entry is gone: each group gets one answer and one way to go on."""
    src = world.app.buffer(b"many")
    for _ in range(count):
        dst = demand(world)
        world.app.submit(world.dsa, src, dst, 4, block_on_fault=True)
        world.m.run(world.m.pending[-1].number)
    assert len(world.dsa.hardware.waits.groups) == count > world.dsa.hardware.waits.outstanding
    world.app.exit()
    world.m.run()
    at_rest(world)
    assert world.pasid not in world.core.ids


def test_a_full_queue_loses_nothing():
    """Five devices ask for 32 pages each, the ring holds 127: the rest is answered at once, and asked for again."""
    world = World()
    world.requests = world.m.kernel.iommu.page_requests
    devices = [world.dsa, *(world.m.plug_accelerator(f"dsa{number}") for number in range(1, 5))]
    world.app = world.m.spawn("app")
    for device in devices:
        world.app.bind(device)
    src, dst = world.app.buffer(b"x" * 8), demand(world, 160)
    begin, at = world.time.now, dst
    for device in devices:
        for _ in range(32):
            world.app.submit(device, src, at, 8, block_on_fault=True)
            (new,) = [
                action for action in world.m.pending if action.what != SERVE_PAGES and "goes on" not in action.label
            ]
            world.m.run(new.number)
            at += PAGE_SIZE
    status = world.m.unit.mmio_read(reg.PRS, 4)
    assert status == 3
    assert len(world.m.unit.page_queue.requests()) == SLOTS - 1
    assert world.m.check().ok
    world.m.run()
    assert world.m.unit.mmio_read(reg.PRS, 4) == 0
    assert [page for page in range(160) if world.app.read(dst + page * PAGE_SIZE, 8) != b"x" * 8] == []
    dropped = [
        event for event in world.since(begin) if event.verb is Verb.PAGE_REQUEST and "dropped" in str(event.after)
    ]
    assert len(dropped) >= 160 - (SLOTS - 1)
    at_rest(world)


def test_a_masked_interrupt_delays_the_answer(world):
    """Nothing runs until the driver lets it through; then everything does."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    with world.time.operation("mask"):
        world.m.mmio.write(reg.BASE + reg.PECTL, 1 << 31, 4)
    ticket = world.app.submit(world.dsa, src, dst, 8, block_on_fault=True)
    world.m.run()
    assert (ticket.poll(), world.m.pending) == (None, [])
    assert world.m.check().ok
    with world.time.operation("unmask"):
        world.m.mmio.write(reg.BASE + reg.PECTL, 0, 4)
    world.m.run()
    assert ticket.poll().status == CompletionStatus.SUCCESS
    at_rest(world)


# --- what should not be there -----------------------------------------------------------------------------------------


def test_a_stray_page_request_is_refused_and_its_answer_flagged(world):
    """Hostile firmware asks for another's PASID: invalid, and UPRGI where nobody waited."""
    rid = world.dsa.rid
    with world.time.operation("stray"):
        world.m.unit.page_request(PageRequest(rid, world.pasid + 1, 0x1000, True, False, group=9))
        world.m.unit.page_request(PageRequest(rid, None, 0x1000, True, False, group=10))
    world.m.run()
    pri = PciFunction(world.m.mmio, rid).get(PRI_CAP)
    assert (pri["UPRGI"], pri["RF"]) == (1, 0)
    at_rest(world)


def test_a_failed_response_stops_the_interface_until_it_is_reset(world):
    """Code 15: the device asks for nothing any more, and descriptors end at once."""
    src, dst = world.app.buffer(b"x" * 8), demand(world, 3)
    ticket = world.app.submit(world.dsa, src, dst, 8, block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    queue = world.m.kernel.iommu.queue
    with world.time.operation("failure"):
        queue.submit(queue.page_response(PageGroupResponse(world.dsa.rid, world.pasid, 0, 15)))
    world.m.run()
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    function = PciFunction(world.m.mmio, world.dsa.rid)
    assert function.get(PRI_CAP)["RF"] == 1
    outcome = world.app.copy(world.dsa, src, dst + PAGE_SIZE, 8, block_on_fault=True)
    assert outcome.status is CompletionStatus.PAGE_FAULT_NOBOF
    with world.time.operation("reset"):
        function.set(PRI_CAP, RESET=1)
        function.set(PRI_CAP, EN=1, RESET=0)
    assert world.app.copy(world.dsa, src, dst + PAGE_SIZE, 8, block_on_fault=True).ok
    at_rest(world)


def test_time_travel_through_a_page_request(world):
    """Every step back and forth again: the digests are those of the way there."""
    src, dst = world.app.buffer(b"x" * 8), demand(world)
    begin = world.time.now
    world.app.copy(world.dsa, src, dst, 8, block_on_fault=True)
    end, digest = world.time.now, world.time.digest()
    for step in range(end, begin, -1):
        world.time.go(step)
    world.time.go(end)
    assert world.time.digest() == digest
    assert world.app.read(dst, 8) == b"x" * 8
