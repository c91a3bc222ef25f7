"""Interrupts of interfaces: the guest's PASID in a permission, the host's in the parent's entry (facts 6.3, 6.6)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Completion, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command, CommandError, command_word
from pasidlab.hardware.accelerator.interrupts import Permission
from pasidlab.hardware.cpu import IA32_PASID, INTERRUPT_BASE
from pasidlab.hardware.layouts.dsa import CMDSTS, MSIX_PERM
from pasidlab.timeline import Verb
from pasidlab.virt.composition import VIRTUAL_MSIX_TABLE
from pasidlab.virt.ims import Message
from tests.worlds import TwoVms

GUEST_VECTOR = 0x51


class Handler:
    """A guest kernel's handler that counts."""

    def __init__(self, path):
        self.path = path
        self.came = 0

    def interrupt(self):
        self.came += 1


class Guest:
    """What a guest's driver does for completion interrupts, with registers alone."""

    def __init__(self, vm, app):
        self.vm = vm
        self.app = app
        self.name = vm.devices[0].name
        self.driver = vm.kernel.accelerators[self.name]
        self.mdev = vm.vmm.mdevs[self.name]
        self.platform = vm.kernel.platform
        self.handler = self.platform.apic.handlers[GUEST_VECTOR] = Handler(f"{vm.name}.handler")

    def permit(self, pasid, vector=1, *, enable=1, ignore=0):
        word = MSIX_PERM.encode(pasid=pasid, pasid_en=enable, ignore=ignore)[0]
        self.platform.mmio.write(self.driver.bar0 + at.MSIX_PERM + 8 * vector, word, 4)

    def set_vector(self, vector=1, *, mask=0, address=INTERRUPT_BASE):
        entry = self.driver.bar0 + VIRTUAL_MSIX_TABLE + 16 * vector
        self.platform.mmio.write(entry, address)
        self.platform.mmio.write(entry + 8, mask << 32 | GUEST_VECTOR)

    def command(self, command, operand=0):
        """Error and result of a command."""
        self.platform.mmio.write(self.driver.bar0 + at.CMD, command_word(command, operand), 4)
        status = CMDSTS.decode((self.platform.mmio.read(self.driver.bar0 + at.CMDSTS, 4),))
        return CommandError(status["err"]), status["result"]

    def finish(self, handle, run):
        """A NOOP that asks for an interrupt, carried out: its status."""
        record = self.app.buffer(32)
        record += -record % 32
        work = Descriptor(Opcode.NOOP, completion_addr=record, int_handle=handle, flags=Flag.CRAV | Flag.RCR | Flag.RCI)
        driver = self.driver
        portal = driver.portal(driver.queues[0])
        if driver.queues[0].dedicated:
            self.platform.cpu.movdir64b(self.platform.mmio, portal, work.to_bytes())
        else:
            self.platform.cpu.write_msr(IA32_PASID, 1 << 31 | 1)
            assert self.platform.cpu.enqcmd(self.platform.mmio, portal, work.to_bytes())
        run()
        return Completion.from_bytes(self.app.read(record, 32)).status


class Interrupts(TwoVms):
    """Two VMs, each with a guest that knows about interrupts."""

    def __init__(self, queue="shared"):
        super().__init__(queue)
        self.guest1, self.guest2 = Guest(self.vm1, self.app1), Guest(self.vm2, self.app2)
        self.storage = self.m.accelerators["dsa0"].interrupts

    def holders(self, ioasid):
        return [name for name in self.core.ids[ioasid].holders if name.startswith("ims:")]


@pytest.fixture(params=["shared", "dedicated"])
def world(request):
    """Of either kind of queue."""
    return Interrupts(request.param)


@pytest.fixture
def wired(world):
    """Vector 1 of both guests is wired for their PASID 1."""
    for guest in (world.guest1, world.guest2):
        guest.permit(1)
        guest.set_vector()
    return world


def test_a_stored_permission_is_the_guests_number_until_the_vector_is_unmasked(world):
    """Storing converts nothing and holds nothing."""
    world.guest1.permit(1)
    assert world.guest1.mdev.interrupts.permission(False, 1) == Permission(1)
    assert world.storage.used() == []
    assert world.holders(world.h1) == []
    assert world.m.check().ok


def test_wiring_converts_the_number_and_holds_the_pasid(wired):
    """Each guest's 1 is another PASID of the host in the parent's entries."""
    assert [wired.storage.permission(True, entry) for entry in (0, 1)] == [Permission(wired.h1), Permission(wired.h2)]
    assert (wired.holders(wired.h1), wired.holders(wired.h2)) == (["ims:adi0"], ["ims:adi1"])
    assert wired.m.check().ok


def test_a_completion_interrupts_the_guest_it_belongs_to(wired):
    """Through the host's vector into the guest's, and no other guest's."""
    _, handle = wired.guest2.command(Command.REQUEST_INT_HANDLE, 1)
    assert wired.guest2.finish(handle, wired.m.run) == 0x01
    assert (wired.guest1.handler.came, wired.guest2.handler.came) == (0, 1)
    told = [(event.altitude, event.actor) for event in wired.time.events if event.verb is Verb.INTERRUPT]
    assert told == [("hardware", "accelerator"), ("host", "vdcm")]


def test_the_handle_of_another_vm_is_invalid(wired):
    """Guessing it does not help: the entry serves its own PASID only."""
    _, foreign = wired.guest2.command(Command.REQUEST_INT_HANDLE, 1)
    assert wired.guest1.finish(foreign, wired.m.run) == 0x19
    assert wired.guest2.handler.came == 0
    assert wired.guest1.command(Command.RELEASE_INT_HANDLE, foreign)[0] is CommandError.INVAL_INT_IDX


def test_handles(world):
    """Vector 0 is emulated, an unwired one has none, an entry of its own the guest cannot have."""
    ask = world.guest2.command
    assert ask(Command.REQUEST_INT_HANDLE, 0)[0] is CommandError.INVAL_INT_IDX
    assert ask(Command.REQUEST_INT_HANDLE, 2)[0] is CommandError.INVAL_INT_IDX
    assert ask(Command.REQUEST_INT_HANDLE, 1)[0] is CommandError.NO_HANDLE
    for guest in (world.guest1, world.guest2):
        guest.permit(1)
        guest.set_vector()
    assert ask(Command.REQUEST_INT_HANDLE, 1) == (CommandError.SUCCESS, 1)
    assert ask(Command.REQUEST_INT_HANDLE, 1 << 16 | 1)[0] is CommandError.NO_HANDLE
    assert ask(Command.RELEASE_INT_HANDLE, 1)[0] is CommandError.SUCCESS
    assert ask(Command.RELEASE_INT_HANDLE, 1 << 16 | 1)[0] is CommandError.INVAL_INT_IDX


def test_a_vector_without_pasid_gets_the_vms_default_pasid(world):
    """As a queue does, and without a reference; what runs under a process's PASID may not raise it."""
    world.guest1.set_vector()
    default = world.vm1.vmm.container.domain.default_pasid
    assert world.storage.permission(True, 0) == Permission(default)
    assert world.guest1.finish(0, world.m.run) == 0x19
    assert world.m.check().ok


@pytest.mark.parametrize("pasid", [0, 2, 3, 0xFFFFF])
def test_a_pasid_that_is_not_the_vms_cannot_be_wired(world, pasid):
    """Whatever the number means to the host; the hypervisor is told -ENXIO, the guest nothing."""
    world.guest1.permit(pasid)
    world.guest1.set_vector()
    assert world.storage.used() == []
    refused = [event.after for event in world.time.events if event.verb is Verb.REFUSE and event.actor == "vdcm"]
    assert refused == ["-ENXIO"]
    assert world.m.check().ok


def test_the_guests_ignore_bit_stays_with_it(wired):
    """Handed on it would let every VM interrupt this one."""
    wired.guest1.permit(1, ignore=1)
    wired.guest1.set_vector()
    assert wired.storage.permission(True, 0) == Permission(wired.h1)


def test_a_new_permission_counts_from_the_next_unmasking_on(wired):
    """Until then the entry keeps PASID and reference."""
    wired.guest1.permit(0, enable=0)
    assert wired.holders(wired.h1) == ["ims:adi0"]
    wired.guest1.set_vector()
    assert wired.holders(wired.h1) == []
    assert wired.storage.permission(True, 0) == Permission(wired.vm1.vmm.container.domain.default_pasid)
    assert wired.m.check().ok


def unbind(world):
    world.vm1.vmm.container.unbind_pgtbl("adi0", world.h1)


def free(world):
    world.vm1.free_pasid(1)
    world.m.run()


@pytest.mark.parametrize(
    "end",
    [
        lambda world: world.guest1.set_vector(mask=1),
        lambda world: world.guest1.command(Command.RESET_DEVICE),
        unbind,
        free,
        lambda world: world.app1.unbind(world.adi1),
        lambda world: world.vm1.crash(),
        lambda world: world.guest1.mdev.vectors.unwire(1),
    ],
    ids=["mask", "reset", "UNBIND", "FREE", "process unbinds", "crash", "unwire"],
)
def test_whatever_ends_a_wiring_drops_its_reference_after_the_entry(wired, end):
    """The code dropped it in none of these ways (facts 6.6)."""
    begin = wired.time.now
    end(wired)
    assert wired.storage.used() == [1]
    assert wired.h1 not in wired.core.ids or wired.holders(wired.h1) == []
    order = [
        event.verb
        for event in wired.since(begin)
        if event.fact("vector") == 1 or (event.verb is Verb.PUT and event.fact("holder") == "ims:adi0")
    ]
    assert order[-2:] == [Verb.PROGRAM, Verb.PUT]
    assert wired.m.check().ok
    wired.guest2.finish(1, wired.m.run)
    assert wired.guest2.handler.came == 1


def test_disabling_the_device_leaves_the_vectors(wired):
    """They are no configuration of the queue."""
    wired.guest1.command(Command.DISABLE_DEVICE)
    assert wired.holders(wired.h1) == ["ims:adi0"]
    assert wired.m.check().ok


def test_work_that_waits_when_its_pasid_is_freed_still_interrupts():
    """The shared queue is drained before the vector is taken away."""
    world = Interrupts("shared")
    world.guest1.permit(1)
    world.guest1.set_vector()
    assert world.guest1.finish(0, lambda: None) == 0x00
    world.vm1.free_pasid(1)
    world.m.run()
    assert world.guest1.handler.came == 1
    assert world.holders(world.h2) == []


@pytest.mark.parametrize("stop", [Command.DISABLE_WQ, Command.RESET_WQ, Command.DISABLE_DEVICE])
def test_a_queue_that_stops_before_the_hosts_work_runs_lets_go_of_the_vector_as_well(stop):
    """FREE has queued the clean-up; the guest's own command cancels it, and does all of it."""
    world = Interrupts("dedicated")
    world.guest1.permit(1)
    world.guest1.set_vector()
    world.vm1.free_pasid(1)
    world.guest1.command(stop, 0 if stop is Command.DISABLE_DEVICE else 1)
    assert world.holders(world.h1) == []
    world.m.run()
    assert world.h1 not in world.core.ids
    assert world.m.check().ok


def test_a_message_for_another_address_reaches_nobody(world):
    """A guest writes what it likes into its own table; it can interrupt itself only."""
    world.guest1.permit(1)
    world.guest1.set_vector(address=0x1000)
    assert world.guest1.finish(0, world.m.run) == 0x01
    assert (world.guest1.handler.came, world.guest2.handler.came) == (0, 0)


@pytest.mark.parametrize("vector", [0, 2, -1])
def test_the_hypervisor_can_wire_real_vectors_only(world, vector):
    """The emulated one needs no entry."""
    error = world.refused(world.guest1.mdev.wire, vector, Message(INTERRUPT_BASE, GUEST_VECTOR))
    assert error.name == "EINVAL"


def test_message_storage_and_vectors_run_out(world):
    """Then nothing is changed, and no reference stays."""
    handlers = world.m.kernel.platform.apic.handlers
    world.guest1.permit(1)
    taken = [vector for vector in range(0x40, 0x100) if vector not in handlers]
    for vector in taken:
        handlers[vector] = Handler("taken")
    assert world.refused(world.guest1.mdev.wire, 1, Message(INTERRUPT_BASE, GUEST_VECTOR)).name == "ENOSPC"
    for vector in taken:
        del handlers[vector]
    assert world.holders(world.h1) == []


def test_the_check_names_an_entry_that_is_nobodys_or_serves_a_stranger(wired):
    """Invariants 3 and 8 read the entries themselves."""
    device = wired.m.accelerators["dsa0"]
    device.interrupts.mmio_write(at.IMS - at.MSIX_TABLE + 12, 1 << 3 | wired.h2 << 12, 4)
    device.interrupts.mmio_write(at.IMS - at.MSIX_TABLE + 16 * 9, 0xFEE0_0000)
    report = wired.m.check()
    assert {violation.rule.number for violation in report.violations} == {3, 8}
    words = str(report)
    assert "IMS entry 9 is in use, but no interface's" in words
    assert "IMS entry 0 of vm1 serves" in words


STORES = st.lists(
    st.tuples(
        st.sampled_from(["permission", "message", "command"]),
        st.integers(0, 5),
        st.integers(0, 0xFFFF_FFFF) | st.integers(0, 5).map(lambda pasid: pasid << 12 | 8) | st.sampled_from([0, 0x51]),
    ),
    max_size=30,
)


@settings(max_examples=25)
@given(STORES, st.sampled_from(["shared", "dedicated"]))
def test_a_hostile_guest_reaches_its_own_pasids_only(stores, queue):
    """Any word into permissions and messages, any command: every rule holds, and the other guest hears nothing."""
    world = Interrupts(queue)
    world.guest2.permit(1)
    world.guest2.set_vector()
    bar0, mmio = world.guest1.driver.bar0, world.guest1.platform.mmio
    for kind, place, value in stores:
        offset = {"permission": at.MSIX_PERM, "message": VIRTUAL_MSIX_TABLE + 16, "command": at.CMD}[kind]
        mmio.write(bar0 + offset + (0 if kind == "command" else 4 * place), value, 4)
        assert world.m.check().ok, world.m.check()
    for handle in range(3):
        if world.guest1.mdev.wq_enabled(0) and world.guest1.mdev.enabled:
            world.guest1.finish(handle, world.m.run)
    assert world.guest2.handler.came == 0
    assert world.holders(world.h2) == ["ims:adi1"]
    world.vm1.crash()
    assert world.m.check().ok
