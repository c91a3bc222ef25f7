"""Teardowns that forget a step: whose bytes are read and written by it, and that the invariants name what is stale.

Alice uses a device and lets go; Bob gets her PASID and uses it at the same virtual addresses. With every step in place
nothing of hers is touched; with one left out something is, and a rule says so before it happens.
"""

import pytest

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.pcie import SERVE_PAGES
from pasidlab.kernel.iommu.vtd.teardown import STEPS
from tests.worlds import World

DIARY, LETTER = b"alice's diary", b"a letter of bob"[:13]
SIZE = len(DIARY)


class Turns(World):
    """Alice and Bob with equal addresses: a source, a destination, and a page that is not there."""

    def __init__(self, ats):
        super().__init__()
        self.device = self.m.plug_accelerator("dsa1", ats=ats)
        self.alice, self.bob = self.m.spawn("alice"), self.m.spawn("bob")
        places = [(app.buffer(text), app.buffer(SIZE)) for app, text in ((self.alice, DIARY), (self.bob, LETTER))]
        missing = [app.buffer(SIZE, populate=False) for app in (self.alice, self.bob)]
        assert (places[0], missing[0]) == (places[1], missing[1])
        (self.src, self.dst), self.missing = places[0], missing[0]

    def first_turn(self, *steps):
        """Alice copies, and unbinds by a teardown that forgets these steps."""
        self.pasid = self.alice.bind(self.device)
        assert self.alice.copy(self.device, self.src, self.dst, SIZE).ok
        self.alice.write(self.dst, bytes(SIZE))
        self.m.leave_out(*steps)
        self.alice.unbind(self.device)
        self.m.leave_out()

    def second_turn(self):
        """Bob has the number now, and copies."""
        assert self.bob.bind(self.device) == self.pasid
        return self.bob.copy(self.device, self.src, self.dst, SIZE)

    def broken(self):
        """The rules that do not hold."""
        return {one.rule.number for one in self.m.check().violations}

    def bytes(self):
        """What Alice and Bob find where the copy would arrive."""
        return self.alice.read(self.dst, SIZE), self.bob.read(self.dst, SIZE)


CASES = [("pasid-cache", False), ("pasid-cache", True), ("iotlb", False), ("iotlb", True), ("device-tlb", True)]


@pytest.mark.parametrize("ats", [False, True])
def test_with_every_step_nothing_of_the_predecessor_is_touched(ats):
    """Bob's letter arrives at Bob; every rule holds all the time."""
    turns = Turns(ats)
    turns.first_turn()
    assert turns.broken() == set()
    assert turns.second_turn().ok
    assert turns.bytes() == (bytes(SIZE), LETTER)
    assert turns.broken() == set()


@pytest.mark.parametrize(("step", "ats"), CASES)
def test_a_step_that_is_left_out_leaves_orphans_that_are_named(step, ats):
    """Rule 10, before anybody has used them; nothing else is wrong yet."""
    turns = Turns(ats)
    turns.first_turn(step)
    assert turns.broken() == {10}


@pytest.mark.parametrize(("step", "ats"), CASES)
def test_the_successor_works_in_the_memory_of_the_predecessor(step, ats):
    """The device copies Alice's diary within Alice's memory, for Bob; his letter does not arrive."""
    turns = Turns(ats)
    turns.first_turn(step)
    turns.second_turn()
    assert turns.bytes() == (DIARY, bytes(SIZE))
    assert turns.broken() & {1, 13}


def test_a_device_tlb_that_was_not_emptied_reaches_memory_although_the_entry_is_gone():
    """A translated request has no PASID and asks no PASID entry: Alice has let go, her page is still written."""
    turns = Turns(ats=True)
    turns.first_turn("device-tlb")
    assert turns.m.translate(turns.device.rid, turns.pasid, turns.src).fault is not None
    answer = turns.m.dma(turns.device, turns.pasid, turns.src, "write", tlb=True)
    assert answer == turns.alice.process.mm.physical(turns.src)
    assert turns.alice.read(turns.src, SIZE) == bytes(8) + DIARY[8:]
    assert 10 in turns.broken(), "the line that allowed it"


@pytest.mark.parametrize(("step", "ats"), [("pasid-cache", False), ("device-tlb", True)])
def test_a_page_that_was_freed_is_written_when_it_belongs_to_somebody_else(step, ats):
    """Alice exits; Carol gets her frame; the device, asked for Alice's address, writes into Carol's memory."""
    turns = Turns(ats)
    pasid = turns.alice.bind(turns.device)
    at = turns.src
    assert turns.alice.copy(turns.device, at, turns.dst, SIZE).ok
    frame = turns.alice.process.mm.physical(at)
    turns.m.leave_out(step, "iotlb")
    turns.alice.exit()
    turns.m.leave_out()
    assert 10 in turns.broken()
    carol = turns.m.spawn("carol")
    pages: dict[int, int] = {}
    while frame not in pages.values():
        page = carol.buffer(b"carol's page")
        pages[page] = carol.process.mm.physical(page)
    page = next(page for page, physical in pages.items() if physical == frame)
    assert turns.m.dma(turns.device, pasid, at, "write", tlb=ats) == frame
    assert carol.read(page, 12) == bytes(8) + b"page"
    assert turns.broken() & {1, 10}


def test_with_every_step_a_freed_page_is_out_of_reach():
    """The same with all steps: the request is blocked, or the device finds no page."""
    for ats in (False, True):
        turns = Turns(ats)
        pasid = turns.alice.bind(turns.device)
        at = turns.src
        assert turns.alice.copy(turns.device, at, turns.dst, SIZE).ok
        turns.alice.exit()
        assert turns.broken() == set()
        assert isinstance(turns.m.dma(turns.device, pasid, at, "write"), Fault)
        if ats:
            assert turns.refused(turns.m.dma, turns.device, pasid, at, "write", tlb=True).name == "EFAULT"


# --- page requests ----------------------------------------------------------------------------------------------------


def a_request_of_the_dead(*steps):
    """Alice's descriptor asks for a page and is aborted; she unbinds, Bob binds, and the queue is read."""
    turns = Turns(ats=True)
    turns.alice.bind(turns.device)
    turns.alice.submit(turns.device, turns.src, turns.missing, SIZE, block_on_fault=True)
    turns.m.run(turns.m.pending[0].number)
    driver = turns.m.kernel.accelerators["dsa1"]
    with turns.time.operation("abort"):
        (queue,) = [queue for queue in driver.queues.values() if turns.alice.process.path in queue.clients]
        driver.abort(queue.index)
    turns.m.leave_out(*steps)
    turns.alice.unbind(turns.device)
    turns.m.leave_out()
    return turns


def test_a_page_request_that_was_not_drained_is_served_for_the_successor():
    """Rule 10 while the number is free; then a page of Bob's comes that nobody of his has touched."""
    turns = a_request_of_the_dead("drain")
    assert turns.broken() == {10}
    assert any("page request" in str(one) for one in turns.m.check().violations)
    turns.bob.bind(turns.device)
    assert turns.bob.process.mm.table.find(turns.missing) is None
    turns.m.run()
    assert turns.bob.process.mm.table.find(turns.missing) is not None


def test_with_the_drain_it_is_answered_before_the_number_is_free():
    """Nothing of Alice's is left in the queue; Bob's memory is as he left it."""
    turns = a_request_of_the_dead()
    assert turns.broken() == set()
    assert turns.m.unit.page_queue.requests() == []
    turns.bob.bind(turns.device)
    turns.m.run()
    assert turns.bob.process.mm.table.find(turns.missing) is None
    assert [action for action in turns.m.pending if action.what == SERVE_PAGES] == []


# --- between VMs ------------------------------------------------------------------------------------------------------


def two_vms(step, ats):
    """A guest of VM 1 lets go; VM 2 gets the host PASID for a process of its own."""
    world = World()
    device = world.m.plug_accelerator("dsa1", ats=ats)
    vms = [world.m.create_vm(name, quota=1, memory=1 << 20) for name in ("vm1", "vm2")]
    adis = [world.m.assign_adi(device, vm) for vm in vms]
    apps = [vm.spawn("app") for vm in vms]
    places = [(app.buffer(text), app.buffer(SIZE)) for app, text in zip(apps, (DIARY, LETTER), strict=True)]
    assert places[0] == places[1]
    src, dst = places[0]
    apps[0].bind(adis[0])
    assert apps[0].copy(adis[0], src, dst, SIZE).ok
    apps[0].write(dst, bytes(SIZE))
    host_pasid = vms[0].pasids[1]
    world.m.leave_out(*step)
    apps[0].unbind(adis[0])
    world.m.leave_out()
    orphans = {one.rule.number for one in world.m.check().violations}
    apps[1].bind(adis[1])
    assert vms[1].pasids == {1: host_pasid}
    outcome = apps[1].copy(adis[1], src, dst, SIZE)
    return world, [app.read(dst, SIZE) for app in apps], outcome, orphans


def test_one_vm_works_in_the_memory_of_another():
    """Rules 10 and then 1: DMA for VM 2 has reached VM 1."""
    world, found, _, orphans = two_vms(("pasid-cache",), ats=False)
    assert orphans == {10}
    assert found == [DIARY, bytes(SIZE)]
    assert 1 in {one.rule.number for one in world.m.check().violations}


def test_a_guest_that_binds_flushes_the_device_of_its_predecessor():
    """Caching mode: the new guest's own invalidation goes on to the device TLB; what was stale goes unused."""
    _, found, outcome, orphans = two_vms(("device-tlb",), ats=True)
    assert (outcome.ok, orphans) == (True, {10})
    assert found == [bytes(SIZE), LETTER]


@pytest.mark.parametrize("ats", [False, True])
def test_with_every_step_each_vm_stays_at_home(ats):
    """The letter arrives, and VM 1 is as it was."""
    world, found, outcome, orphans = two_vms((), ats)
    assert (outcome.ok, orphans) == (True, set())
    assert found == [bytes(SIZE), LETTER]
    assert world.m.check().ok


def test_only_known_steps_can_be_left_out():
    """-EINVAL; and without any, nothing is."""
    world = World()
    assert world.refused(world.m.leave_out, "sleep").name == "EINVAL"
    world.m.leave_out(*STEPS)
    assert world.m.kernel.iommu.teardown.left_out == set(STEPS)
    world.m.leave_out()
    assert world.m.kernel.iommu.teardown.left_out == set()
