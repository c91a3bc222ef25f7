"""Page requests through the hypervisor: host queue, VFIO, the guest's own queue, and the answer all the way back.

By an interface on a shared queue, by one on a dedicated queue, and by a function that the guest has as a whole.
"""

import pytest

from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.hardware.accelerator.page_waits import PATIENCE
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import SERVE_PAGES, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.timeline import HOST, Verb
from tests.worlds import World, vtd_of

SLOTS = 4096 // PAGE_REQUEST.size
WAYS = ("shared", "dedicated", "function")
SUCCESS, INVALID = ResponseCode.SUCCESS, ResponseCode.INVALID


class Guest(World):
    """A VM with a device, a bound process, a source buffer, and memory that is not there."""

    def __init__(self, way="shared"):
        super().__init__()
        self.guest = self.m.create_vm("vm1", memory=1 << 20)
        self.device = (
            self.m.assign_pf(self.dsa, self.guest)
            if way == "function"
            else self.m.assign_adi(self.dsa, self.guest, queue=way)
        )
        self.enter()

    def enter(self):
        """Start a process and bind it."""
        self.app = self.guest.spawn(f"app{len(self.guest.apps)}")
        self.pasid = self.app.bind(self.device)
        self.host_pasid = self.guest.pasids[self.pasid]
        self.src = self.app.buffer(b"guest data")
        self.dst = self.demand(2)

    def demand(self, pages, **options):
        """Memory of the process that is not there yet."""
        with self.time.operation("mmap"):
            return self.app.process.mm.mmap(pages * PAGE_SIZE, populate=False, **options)

    @property
    def viommu(self):
        """The emulated unit."""
        return self.guest.vmm.viommu

    @property
    def rid(self):
        """The device's requester ID in the guest."""
        return self.guest.kernel.accelerators[self.device.name].rid

    @property
    def requests(self):
        """The host driver's page requests."""
        return self.m.kernel.iommu.page_requests

    def submit(self, **options):
        """Let the device copy into memory that is not there."""
        return self.app.submit(self.device, self.src, self.dst, 10, block_on_fault=True, **options)

    def until(self, done):
        """Run the oldest action until something is the case."""
        while not done():
            self.m.run(self.m.pending[0].number)

    def host_asked(self):
        """The host's queue holds a request."""
        return bool(self.m.unit.page_queue.requests())

    def guest_asked(self):
        """The guest's queue holds a request."""
        return bool(self.viommu.page_queue.requests())

    def outstanding(self):
        """A request that has gone as far as the guest."""
        ticket = self.submit()
        self.until(self.guest_asked)
        return ticket

    def at_rest(self):
        """Nothing is left to do anywhere, and nothing is wrong."""
        assert self.m.check().ok, self.m.check()
        assert self.m.pending == []
        assert self.requests.pending.keys() == []
        assert [device.waits.groups.keys() for device in self.m.accelerators.values()] == [[]] * len(
            self.m.accelerators
        )

    def guest_says(self, *responses):
        """The guest submits page group responses of its own making."""
        queue = vtd_of(self.guest.kernel).queue
        with self.time.operation("the guest answers"):
            queue.submit(*(queue.page_response(PageGroupResponse(*response)) for response in responses))

    def refusals(self, begin):
        """What the hypervisor refused since then."""
        return [event.subject for event in self.since(begin) if event.actor == "vmm" and event.verb is Verb.REFUSE]


@pytest.fixture(params=WAYS)
def world(request):
    """All three ways to have a device."""
    return Guest(request.param)


@pytest.fixture
def shared():
    """An interface on a shared queue."""
    return Guest()


# --- end to end -------------------------------------------------------------------------------------------------------


def test_a_guests_memory_is_brought_by_its_own_kernel(world):
    """The bytes arrive, and every page came from the guest's allocator."""
    used = world.guest.kernel.pages.used
    outcome = world.app.copy(world.device, world.src, world.dst + PAGE_SIZE - 4, 10, block_on_fault=True)
    assert outcome.ok
    assert world.app.read(world.dst + PAGE_SIZE - 4, 10) == b"guest data"
    assert world.guest.kernel.pages.used == used + 2
    world.at_rest()


def test_the_request_goes_down_and_the_answer_up(world):
    """Device, host queue, VFIO, guest queue, guest memory; then guest descriptor, ioctl, host descriptor, device."""
    begin = world.time.now
    world.app.copy(world.device, world.src, world.dst, 10, block_on_fault=True)
    wanted = (Verb.PAGE_REQUEST, Verb.PAGE_FAULT, Verb.PAGE_RESPONSE)
    told = [(event.altitude, event.actor, event.verb) for event in world.since(begin) if event.verb in wanted]
    assert told == [
        ("hardware", "iommu unit", Verb.PAGE_REQUEST),
        (HOST, "vfio", Verb.PAGE_FAULT),
        (HOST, "vmm", Verb.PAGE_REQUEST),
        ("vm1", "sva", Verb.PAGE_FAULT),
        (HOST, "vmm", Verb.PAGE_RESPONSE),
        ("hardware", "iommu unit", Verb.PAGE_RESPONSE),
    ]


def test_the_guest_is_asked_under_its_own_numbers(world):
    """Host requester ID and host PASID become the guest's; page and access stay."""
    world.outstanding()
    (request,) = world.viommu.page_queue.requests()
    assert (request.rid, request.pasid, request.address) == (world.rid, world.pasid, world.dst)
    assert (request.read, request.write, request.last) == (False, True, True)
    ((key, pending),) = world.requests.pending.items()
    assert key == (world.dsa.rid, world.host_pasid, request.group)
    assert (pending.waiting, pending.complete) == (1, True)


def test_source_memory_is_brought_as_well(world):
    """For reading, and it is zero."""
    src = world.demand(1)
    assert world.app.copy(world.device, src, world.src, 10, block_on_fault=True).ok
    assert world.app.read(world.src, 10) == bytes(10)
    world.at_rest()


def test_memory_that_the_guest_does_not_have_is_refused_by_the_guest(world):
    """PAGE_FAULT_IR, and the completion record says where; the VM goes on."""
    outcome = world.app.copy(world.device, world.src, 0x1000, 10, block_on_fault=True)
    assert (outcome.status, outcome.fault_address) == (CompletionStatus.PAGE_FAULT_IR, 0x1000)
    read_only = world.demand(1, writable=False)
    outcome = world.app.copy(world.device, world.src, read_only, 10, block_on_fault=True)
    assert outcome.status is CompletionStatus.PAGE_FAULT_IR
    assert world.app.copy(world.device, world.src, world.dst, 10, block_on_fault=True).ok
    world.at_rest()


def test_a_guest_without_free_memory_answers_invalid(world):
    """The guest's own allocator refuses; the host's is not asked."""
    used = world.m.kernel.pages.used
    with world.time.operation("fail"):
        world.guest.kernel.pages.slab.fail_nth = 1
    assert world.app.copy(world.device, world.src, world.dst, 10, block_on_fault=True).status is (
        CompletionStatus.PAGE_FAULT_IR
    )
    assert world.m.kernel.pages.used == used
    world.at_rest()


def test_each_step_is_an_action_of_its_own(shared):
    """Descriptor, host thread, guest thread, descriptor."""
    shared.submit()
    labels = []
    while shared.m.pending:
        (action,) = shared.m.pending
        labels.append(action.label if action.what == SERVE_PAGES else "descriptor")
        shared.m.run(action.number)
        assert shared.m.check().ok
    assert labels == [
        "descriptor",
        "IOMMU driver of host: serve page requests",
        "IOMMU driver of vm1: serve page requests",
        "descriptor",
    ]


def test_two_vms_are_served_apart():
    """Equal guest PASIDs and addresses on one shared queue; each gets its own bytes."""
    one = Guest()
    vm2 = one.m.create_vm("vm2", memory=1 << 20)
    adi = one.m.assign_adi(one.dsa, vm2, queue="shared")
    app = vm2.spawn("app")
    assert app.bind(adi) == one.pasid
    src = app.buffer(b"second one")
    with one.time.operation("mmap"):
        dst = app.process.mm.mmap(2 * PAGE_SIZE, populate=False)
    assert (src, dst) == (one.src, one.dst)
    tickets = [one.submit(), app.submit(adi, src, dst, 10, block_on_fault=True)]
    one.m.run()
    assert [ticket.poll().status for ticket in tickets] == [CompletionStatus.SUCCESS] * 2
    assert (one.app.read(dst, 10), app.read(dst, 10)) == (b"guest data", b"second one")
    one.at_rest()


# --- guests that misbehave --------------------------------------------------------------------------------------------


def test_a_guest_that_answers_twice_is_refused_the_second_time(world):
    """-EINVAL from VFIO, told as a refusal; the device saw one answer and flags nothing."""
    world.outstanding()
    (request,) = world.viommu.page_queue.requests()
    begin = world.time.now
    world.guest_says(*[(world.rid, world.pasid, request.group, 0)] * 2)
    assert len(world.refusals(begin)) == 1
    answers = [event for event in world.since(begin) if event.verb is Verb.PAGE_RESPONSE and event.altitude != HOST]
    assert len(answers) == 1
    assert world.m.check().ok


@pytest.mark.parametrize("code", [0, 1, 15])
def test_a_guest_that_answers_what_nobody_asked_changes_nothing(world, code):
    """Another group, another PASID, another device: refused, whatever the code; no message reaches any device."""
    world.outstanding()
    (request,) = world.viommu.page_queue.requests()
    begin, before = world.time.now, world.requests.pending.items()
    group = request.group
    for response in (
        (world.rid, world.pasid, group + 1, code),
        (world.rid, world.pasid + 1, group, code),
        (world.rid + 8, world.pasid, group, code),
        (world.rid, None, group, code),
        (world.dsa.rid, world.host_pasid, group, code),
    ):
        world.guest_says(response)
    assert len(world.refusals(begin)) == 5
    assert world.requests.pending.items() == before
    assert not [event for event in world.since(begin) if event.verb is Verb.PAGE_RESPONSE and event.altitude != HOST]
    world.m.run()
    world.at_rest()


def test_a_guest_cannot_answer_for_another_vm():
    """Not even with the other one's host numbers."""
    one = Guest()
    vm2 = one.m.create_vm("vm2", memory=1 << 20)
    one.m.assign_adi(one.dsa, vm2, queue="shared")
    ticket = one.outstanding()
    (request,) = one.viommu.page_queue.requests()
    queue = vtd_of(vm2.kernel).queue
    for rid, pasid in ((0x18, 1), (one.dsa.rid, one.host_pasid), (0x18, one.host_pasid)):
        with one.time.operation("vm2 answers"):
            queue.submit(queue.page_response(PageGroupResponse(rid, pasid, request.group, 0)))
    assert len(one.requests.pending) == 1
    assert ticket.poll() is None
    one.m.run()
    assert ticket.poll().status == CompletionStatus.SUCCESS
    one.at_rest()


def test_a_guests_failure_does_not_stop_a_shared_devices_interface_for_ever(shared):
    """Code 15 is passed on (the interface stops), other undefined codes count as failure; others get plain faults."""
    ticket = shared.outstanding()
    (request,) = shared.viommu.page_queue.requests()
    shared.guest_says((shared.rid, shared.pasid, request.group, 7))
    shared.m.run()
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    assert shared.m.check().ok


def test_a_guest_that_brings_nothing_and_says_success_is_believed_a_few_times(shared):
    """The device asks again, and in the end gives up; no step of it is wrong."""
    ticket, lies = shared.outstanding(), 0
    while ticket.poll() is None:
        (request,) = shared.viommu.page_queue.requests()
        with shared.time.operation("the guest reads and lies"):
            shared.guest.kernel.platform.mmio.write(reg.BASE + reg.PQH, shared.viommu.mmio_read(reg.PQT))
        shared.guest_says((shared.rid, shared.pasid, request.group, 0))
        lies += 1
        (action,) = [action for action in shared.m.pending if "goes on" in action.label]
        shared.m.run(action.number)
        shared.until(lambda: shared.guest_asked() or ticket.poll() is not None)
        assert shared.m.check().ok
    assert lies == PATIENCE
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    shared.m.run()
    shared.at_rest()


def test_page_requests_that_the_guests_own_context_entry_forbids_are_invalid(shared):
    """PRE=0 in the guest's table: the emulated unit answers, the guest hears nothing."""
    kernel = shared.guest.kernel.iommu
    slot = kernel._context_slot(shared.rid)
    with shared.time.operation("PRE=0"):
        kernel.memory.store_words(slot, CONTEXT_ENTRY.change(kernel.memory.load_words(slot, 4), PRE=0))
        kernel.queue.submit(kernel.queue.context_cache(shared.rid))
    ticket = shared.submit()
    shared.m.run()
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    assert shared.viommu.mmio_read(reg.PQT) == 0
    shared.at_rest()


def test_a_guests_full_queue_answers_success_and_the_device_tries_again(shared):
    """The emulated ring overflows like the silicon's: PRO, and the request is not lost."""
    with shared.time.operation("the guest does not read"):
        for number in range(SLOTS - 1):
            filler = PageRequest(shared.rid, shared.pasid, number << 12, True, False, group=511, last=False)
            shared.viommu.page_request(filler)
    ticket = shared.submit()
    for label in ("executes", "of host"):
        shared.m.run(next(action.number for action in shared.m.pending if label in action.label))
    assert shared.viommu.mmio_read(reg.PRS, 4) == 3
    assert shared.m.check().ok
    shared.m.run()
    assert shared.viommu.mmio_read(reg.PRS, 4) == 0
    assert ticket.poll().status == CompletionStatus.SUCCESS
    assert shared.app.read(shared.dst, 10) == b"guest data"


# --- endings with requests outstanding --------------------------------------------------------------------------------

POINTS = ("submitted", "asked", "with the guest", "answered")


def advance(world, point):
    """Let a page request go that far."""
    ticket = world.submit()
    if point == "submitted":
        return ticket
    world.until(world.host_asked)
    if point != "asked":
        world.until(world.guest_asked)
    if point == "answered":
        world.until(lambda: not len(world.requests.pending))
    return ticket


@pytest.mark.parametrize("point", POINTS)
def test_a_guest_process_may_exit_at_any_point(world, point):
    """Its requests are answered, its descriptors end, its memory comes back, its PASID is free."""
    advance(world, point)
    world.app.exit()
    world.m.run()
    assert world.host_pasid not in world.core.ids
    assert world.requests.sinks.keys() == []
    world.at_rest()
    world.enter()
    assert world.app.copy(world.device, world.src, world.dst, 10, block_on_fault=True).ok


@pytest.mark.parametrize("point", POINTS)
def test_a_guest_process_may_unbind_at_any_point(world, point):
    """The device is drained first: the copy that was asked for is done."""
    ticket = advance(world, point)
    world.app.unbind(world.device)
    world.m.run()
    assert ticket.poll().status == CompletionStatus.SUCCESS
    assert world.app.read(world.dst, 10) == b"guest data"
    world.at_rest()


@pytest.mark.parametrize("point", POINTS)
def test_a_vm_may_be_killed_at_any_point(world, point):
    """Nobody is left who could answer: the host answers, and the number can be used again."""
    advance(world, point)
    world.guest.crash()
    world.m.run()
    assert world.host_pasid not in world.core.ids
    assert world.requests.sinks.keys() == []
    world.at_rest()
    other = world.m.create_vm("vm2", memory=1 << 20)
    adi = world.m.assign_adi(world.dsa, other, queue="shared")
    app = other.spawn("app")
    app.bind(adi)
    with world.time.operation("mmap"):
        dst = app.process.mm.mmap(PAGE_SIZE, populate=False)
    assert app.copy(adi, app.buffer(b"next"), dst, 4, block_on_fault=True).ok
    world.at_rest()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", ["shared", "dedicated"])
def test_a_pasid_may_be_freed_before_it_is_unbound_at_any_point(way, point):
    """FREE with a request outstanding: the clean-up drains, the number comes back."""
    world = Guest(way)
    advance(world, point)
    world.guest.free_pasid(world.pasid)
    assert world.m.check().ok, world.m.check()
    world.m.run()
    assert world.host_pasid not in world.core.ids
    world.at_rest()
    world.app.exit()
    world.m.run()
    world.at_rest()


@pytest.mark.parametrize("point", POINTS[:-1])
def test_an_aborted_descriptor_leaves_no_request_behind(point):
    """A reset of the whole function by the guest: answers come for nobody, and are taken as such."""
    world = Guest("function")
    advance(world, point)
    driver = world.guest.kernel.accelerators[world.device.name]
    with world.time.operation("reset"):
        driver.reset()
    world.m.run()
    assert world.app.process.mm.table.find(world.dst) is not None or point == "submitted"
    assert world.requests.pending.keys() == []
    assert world.dsa.hardware.waits.groups.keys() == []
    assert world.m.check().ok


def test_memory_that_the_guest_frees_is_out_of_reach(world):
    """The guest's invalidation of some pages becomes the host's: IOTLB and device TLB forget."""
    assert world.app.copy(world.device, world.src, world.dst, 10, block_on_fault=True).ok
    world.app.free(world.dst)
    page = world.dst >> 12
    assert page not in {key[1] for key in world.dsa.hardware.tlb.lines.keys()}
    assert page not in {key[2] for key in world.m.unit.caches.iotlb.keys() if key[1] == world.host_pasid}
    outcome = world.app.copy(world.device, world.src, world.dst, 10)
    assert outcome.status is CompletionStatus.PAGE_FAULT_NOBOF
    world.at_rest()


def test_the_hypervisors_late_answer_is_einval(shared):
    """VFIO knows no such request any more."""
    shared.outstanding()
    (key,) = shared.requests.pending.keys()
    shared.app.exit()
    error = shared.refused(
        shared.guest.vmm.container.page_response, shared.device.name, shared.host_pasid, key[2], SUCCESS
    )
    assert error.name == "EINVAL"
    error = shared.refused(shared.guest.vmm.container.page_response, "nobody", shared.host_pasid, key[2], INVALID)
    assert error.name == "ENODEV"


def test_without_a_listener_vfio_answers_invalid(shared):
    """A hypervisor that has not opened the fault region."""
    with shared.time.operation("deaf"):
        shared.guest.vmm.container.listen(None)
    assert shared.app.copy(shared.device, shared.src, shared.dst, 10, block_on_fault=True).status is (
        CompletionStatus.PAGE_FAULT_IR
    )
    shared.at_rest()
