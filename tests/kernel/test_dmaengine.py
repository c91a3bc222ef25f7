"""A guest's kernel copies for itself: default PASID on an interface, no PASID on a whole function."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.handles.work import Outcome
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.timeline import Verb
from tests.worlds import World


class KernelWork(World):
    """vm1 with a dedicated interface and a function, vm2 with a dedicated interface."""

    def __init__(self):
        super().__init__()
        self.pf = self.m.plug_accelerator("pf0")
        self.vm1, self.vm2 = self.vm("vm1", "dedicated", policy="identity"), self.vm("vm2", "dedicated")
        self.function = self.m.assign_pf(self.pf, self.vm1)
        self.adi = self.vm1.device("adi0")

    def wire(self, start):
        """The PASIDs that went over the wire since a step."""
        return {event.fact("pasid") for event in self.since(start) if event.verb is Verb.DMA}


@pytest.fixture
def world():
    """Two VMs."""
    return KernelWork()


@pytest.mark.parametrize("pasid", [None, 0])
def test_on_an_interface_no_pasid_and_zero_are_the_default_pasid_of_the_vm(world, pasid):
    """The parent's wire carries it; the bytes are those of the VM's guest-physical memory."""
    page, start = world.vm1.page(b"kernel"), world.time.now
    assert world.vm1.copy(world.adi, page, page + 64, 6, pasid=pasid).ok
    assert world.vm1.read(page + 64, 6) == b"kernel"
    assert world.wire(start) == {world.vm1.vmm.container.domain.default_pasid}
    assert world.m.check().ok


def test_on_a_function_requests_carry_no_pasid(world):
    """The function's own entry for requests without PASID leads to the VM's memory."""
    page, start = world.vm1.page(b"kernel"), world.time.now
    assert world.vm1.copy(world.function, page, page + 64, 6).ok
    assert world.vm1.read(page + 64, 6) == b"kernel"
    assert world.wire(start) == {None}


def test_a_pasid_that_is_not_the_vms_is_refused_on_an_interface(world):
    """ENABLE_WQ answers PASID_EN; the default PASID of the other VM is no number of this one."""
    page, theirs = world.vm1.page(b"kernel"), world.vm2.vmm.container.domain.default_pasid
    assert world.refused(world.vm1.copy, world.adi, page, page + 64, 6, pasid=theirs).name == "ENXIO"
    assert world.vm1.read(page + 64, 6) == bytes(6)
    assert world.vm1.copy(world.adi, page, page + 64, 6).ok


def test_each_vm_reaches_its_own_pages(world):
    """Guest-physical addresses are the VM's own."""
    first, second = (vm.page(vm.name.encode()) for vm in (world.vm1, world.vm2))
    assert world.vm1.copy(world.adi, first, first + 64, 3).ok
    assert world.vm2.copy(world.vm2.devices[0], second, second + 64, 3).ok
    assert world.vm1.read(first + 64, 3) == b"vm1"
    assert world.vm2.read(second + 64, 3) == b"vm2"


def test_outside_its_memory_the_record_tells_a_fault_and_the_queue_is_free_again(world):
    """There is no page beyond the guest's memory; nothing stays taken."""
    page, used = world.vm1.page(b"kernel"), world.vm1.kernel.pages.used
    assert world.vm1.copy(world.adi, page, 1 << 40, 6).status is CompletionStatus.PAGE_FAULT_NOBOF
    assert world.vm1.kernel.pages.used == used
    assert world.vm1.spawn("app").bind(world.adi, queue="dedicated") > 0


def test_a_queue_that_a_process_has_is_busy(world):
    """One dedicated queue has one client."""
    world.vm1.spawn("app").bind(world.adi)
    assert world.refused(world.vm1.copy, world.adi, 0, 64, 6).name == "EBUSY"
    assert world.refused(world.vm1.copy, "nothing", 0, 64, 6).name == "ENODEV"
    assert world.refused(world.vm1.copy, world.adi, 0, 64, 0).name == "EINVAL"


def test_reading_outside_is_refused(world):
    """-EFAULT and -EINVAL, as for a process."""
    assert world.refused(world.vm1.read, 1 << 30, 8).name == "EFAULT"
    assert world.refused(world.vm1.read, 0, -1).name == "EINVAL"
    assert world.refused(world.vm1.page, bytes(4097)).name == "EINVAL"
    with pytest.raises(KernelError):
        world.vm1.read("0", 1)


def test_a_record_that_somebody_else_has_written_is_read_as_it_is(world):
    """A status that no device writes is told by its number; the call does not break over it."""
    app = world.vm1.spawn("app")
    app.bind(world.adi)
    src, dst = app.buffer(b"abc"), app.buffer(3)
    ticket = app.submit(world.adi, src, dst, 3)
    app.write(ticket.record, b"\x27" + bytes(7))
    assert repr(Outcome(ticket.poll())) == "<status 0x27 after 0 bytes at 0x0>"
