"""Guests that turn page requests, queues and tables against the host or against other guests.

Each case was found by random hostile guests once (tests/properties/test_isolation.py goes on looking).
"""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.iommu.vtd.invalidation import QueueError
from pasidlab.hardware.layouts.vtd import FSTS_REG, IQERR_REG, PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST, QI_PAGE_GROUP_RESP, QI_PIOTLB
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.timeline import Verb
from tests.worlds import TwoVms

BROKEN = (0xF, 0, 0, 0)
"""No descriptor has this type: the queue stops."""


@pytest.fixture
def world():
    """A VM that is up to something (the first) and one that is not, on one device."""
    world = TwoVms()
    world.src, world.victim = world.app1.buffer(b"evil" * 16), world.app2.buffer(b"precious" * 8)
    return world


def run_next(world, *labels):
    """Run actions whose label has one of these words, oldest first, until there is none."""
    while found := [action for action in world.m.pending if any(label in action.label for label in labels)]:
        world.m.run(found[0].number)


def blocked(world, count=1):
    """Copies of the first VM into pages that are not there, as far as its own queue."""
    tickets = []
    for _ in range(count):
        dst = world.app1.buffer(PAGE_SIZE, populate=False)
        tickets.append(world.app1.submit(world.adi1, world.src, dst, 64, block_on_fault=True))
        run_next(world, "executes")
    run_next(world, "of host")
    return tickets


def guest_submits(world, *descriptors):
    """Straight into the first VM's own invalidation queue."""
    with world.time.operation("the guest submits"):
        world.vm1.kernel.iommu.queue.submit(*descriptors)


def guest_writes(world, offset, value):
    """Straight into the registers of the first VM's unit."""
    with world.time.operation("the guest writes"):
        world.vm1.kernel.platform.mmio.write(reg.BASE + offset, value)


def stop_queue(world):
    """The first VM stops its own invalidation queue, so that its kernel can answer nothing any more."""
    with pytest.raises(KernelError, match="EIO"):
        guest_submits(world, BROKEN)


def settle(world):
    """Everything that can happen happens, all rules hold, nobody waits, and the second VM is as it was."""
    world.m.run()
    assert world.m.check().ok, world.m.check()
    assert world.m.pending == []
    assert world.dsa.hardware.waits.groups.keys() == []
    assert world.app2.read(world.victim, 64) == b"precious" * 8


# --- a queue that stands ----------------------------------------------------------------------------------------------


def test_a_descriptor_does_not_outlive_its_pasid_when_the_guest_cannot_answer(world):
    """The number is given to another VM after a free; nothing of the old one's work reaches the new one's memory."""
    heir = world.vm("vm3", "shared")
    app = heir.spawn("app")
    blocked(world)
    stop_queue(world)
    world.vm1.free_pasid(1)
    run_next(world, "VDCM", "clean up")
    assert world.h1 not in world.core.ids
    assert world.dsa.hardware.waits.groups.keys() == []
    mine = app.buffer(b"untouched" * 7)
    app.bind(heir.devices[0])
    assert heir.pasids == {1: world.h1}
    begin = world.time.now
    settle(world)
    assert not [event for event in world.since(begin) if event.verb in (Verb.DMA, Verb.COMPLETE)]
    assert app.read(mine, 63) == b"untouched" * 7
    assert app.process.mm.read(app.process._records, 64) == bytes(64)


def test_what_goes_wrong_in_a_guests_thread_is_told_and_stays_there(world):
    """-EIO of the guest's driver comes out of neither `run` nor a copy of others; the guest's kernel tells it."""
    blocked(world)
    stop_queue(world)
    begin = world.time.now
    dst = world.app2.buffer(64, populate=False)
    assert world.app2.copy(world.adi2, world.victim, dst, 64, block_on_fault=True).ok
    world.m.run()
    told = [event for event in world.since(begin) if event.verb is Verb.REFUSE and event.altitude == "vm1"]
    assert [event.after for event in told] == ["-EIO"]
    assert world.m.check().ok


def test_a_native_unbind_is_not_stopped_by_a_guest_that_cannot_answer(world):
    """Its drain may run the guest's thread on the way; the PASID is free in the end."""
    native = world.m.spawn("native")
    pasid = native.bind(world.dsa)
    src, dst = native.buffer(b"native"), native.buffer(PAGE_SIZE, populate=False)
    blocked(world)
    stop_queue(world)
    native.submit(world.dsa, src, dst, 6, block_on_fault=True)
    run_next(world, "executes")
    native.unbind(world.dsa)
    assert pasid not in world.core.ids
    assert native.read(dst, 6) == b"native"


def test_a_copy_finds_its_own_work_although_the_list_of_actions_began_anew(world):
    """Once nothing is left to do actions are counted from 0 again; a guest that listens to nothing is no trouble."""
    native = world.m.spawn("native")
    native.bind(world.dsa)
    src, dst = native.buffer(b"native"), native.buffer(PAGE_SIZE, populate=False)
    guest_writes(world, reg.PECTL, 1 << 31)
    waiting = world.app1.buffer(PAGE_SIZE, populate=False)
    world.app1.submit(world.adi1, world.src, waiting, 64, block_on_fault=True)
    run_next(world, "executes")
    assert [action.number for action in world.m.pending] == [0]
    assert native.copy(world.dsa, src, dst, 6, block_on_fault=True).ok
    assert native.read(dst, 6) == b"native"


# --- numbers that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [19, 53, 60, 63])
def test_an_address_mask_beyond_the_units_stops_the_guests_own_queue(world, mask):
    """AM larger than CAP.MAMV (18) is a wrong descriptor: IQE in the guest's unit, nothing is forwarded."""
    begin = world.time.now
    with pytest.raises(KernelError, match="EIO"):
        guest_submits(world, QI_PIOTLB.encode(TYPE=6, G=3, DID=1, PASID=1, AM=mask, ADDR=0))
    viommu = world.vm1.vmm.viommu
    assert FSTS_REG["IQE"].get((viommu.mmio_read(reg.FSTS, 4),)) == 1
    assert IQERR_REG["IQEI"].get((viommu.mmio_read(reg.IQERR),)) == QueueError.RESERVED_BITS
    assert not [event for event in world.since(begin) if event.actor == "vfio"]
    assert world.m.check().ok


@pytest.mark.parametrize("tail", [0x10000, 0x1000, 0x7FFE0])
def test_a_tail_beyond_the_ring_does_not_hang_the_thread(world, tail, monkeypatch):
    """PQT may be written up to 0x7FFE0; the driver counts within its page (Linux: PRQ_RING_MASK)."""
    guest_writes(world, reg.PQT, tail)
    requests, read = world.vm1.kernel.iommu.page_requests, []

    def handle(request):
        read.append(request)
        assert len(read) < PAGE_SIZE // PAGE_REQUEST.size, "the thread goes round its ring"

    with monkeypatch.context() as patch, world.time.operation("serve"):
        patch.setattr(requests, "_handle", handle)
        requests.serve()
    settle(world)


def test_a_page_request_queue_outside_of_memory_slows_its_own_guest_only(world):
    """Every request is dropped and asked again a few times; 110 of them come to rest, the other VM copies."""
    guest_writes(world, reg.PQA, 1 << 45)
    tickets = blocked(world, 110)
    settle(world)
    assert {ticket.poll().status for ticket in tickets} == {CompletionStatus.PAGE_FAULT_IR}
    dst = world.app2.buffer(64, populate=False)
    assert world.app2.copy(world.adi2, world.victim, dst, 64, block_on_fault=True).ok


# --- answers that are not the guest's to give -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [15, 2, 7, 14])
def test_a_guest_cannot_stop_the_page_requests_of_a_device_that_it_shares(world, code):
    """FAILURE, or a code that means nothing, ends its own copy; the device goes on asking for everybody else."""
    (ticket,) = blocked(world)
    rid = world.vm1.kernel.accelerators[world.adi1.name].rid
    (request,) = world.vm1.vmm.viommu.page_queue.requests()
    words = QI_PAGE_GROUP_RESP.encode(TYPE=9, PP=1, RC=code, RID=rid, PASID=1, LPIG=1, PRGI=request.group)
    guest_submits(world, words)
    settle(world)
    assert ticket.poll().status == CompletionStatus.PAGE_FAULT_IR
    assert world.dsa.hardware.config.page_requests > 0
    dst = world.app2.buffer(64, populate=False)
    assert world.app2.copy(world.adi2, world.victim, dst, 64, block_on_fault=True).ok
    assert world.app2.read(dst, 64) == b"precious" * 8


# --- one entry on the host for two interfaces -------------------------------------------------------------------------


def changed_on(world, rids, root):
    """The guest gives PASID 1 another table root on some of its devices, one after the other, and invalidates."""
    kernel = world.vm1.kernel.iommu
    for rid in rids:
        table = kernel.tables[rid]
        table.write(1, PASID_ENTRY.change(table.read(1), FLPTPTR=root))
        guest_submits(world, kernel.queue.pasid_cache(1, 1), kernel.queue.pasid_iotlb(1, 1))


@pytest.mark.parametrize("order", [1, -1])
def test_a_new_root_on_both_interfaces_of_a_parent_reaches_the_host(world, order):
    """In either order: when both of the guest's entries agree the host's entry has the new root, not the old one."""
    world.vm1 = world.vm("vm3", "shared", "shared")
    app, other = world.vm1.spawn("app"), world.vm1.spawn("other")
    for device in world.vm1.devices:
        app.bind(device)
    rids = world.vm1.kernel.iommu.tables.keys()
    assert len(rids) == 2
    for root in (other.process.mm.root, app.process.mm.root):
        changed_on(world, rids[::order], root)
        assert PASID_ENTRY["FLPTPTR"].get(world.entry(world.vm1.pasids[1])) == root
    settle(world)


# --- tables that a guest has destroyed --------------------------------------------------------------------------------


def test_a_broken_page_table_under_a_page_request_does_not_reach_the_host(world):
    """The guest's own fault handler finds nothing behind an entry that leads nowhere; `run` comes to rest."""
    blocked(world)
    with world.time.operation("break"):
        world.vm1.kernel.platform.memory.store(world.app1.process.mm.root + 0xFE * 8, 1 << 40 | 7)
    world.m.run()
    assert world.m.pending == []
    assert world.dsa.hardware.waits.groups.keys() == []
    world.vm1.crash()
    settle(world)


# --- devices that go --------------------------------------------------------------------------------------------------


def test_a_function_that_a_vm_has_as_a_whole_cannot_go(world):
    """-EBUSY, before anything is taken apart; the VM may be killed afterwards and the function goes then."""
    whole = world.m.plug_accelerator("dsa1")
    vm = world.m.create_vm("vm3", memory=1 << 20)
    device = world.m.assign_pf(whole, vm)
    app = vm.spawn("app")
    app.bind(device)
    kernel = world.m.kernel
    with pytest.raises(KernelError, match="EBUSY"), world.time.operation("remove"):
        kernel.remove("dsa1")
    assert world.m.check().ok
    assert app.copy(device, app.buffer(b"still here"), app.buffer(10), 10).ok
    vm.crash()
    with world.time.operation("remove"):
        kernel.remove("dsa1")
    assert whole.rid not in kernel.iommu.devices
    settle(world)
