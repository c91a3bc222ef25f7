"""Devices of a third party: the example of the page natively and in guests, hostile ones, and refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.config_space import PciIdentity
from pasidlab.hardware.dma import PageMissing
from pasidlab.hardware.function import Function
from pasidlab.hardware.iommu.contract import DmaAborted, Fault
from pasidlab.kernel.driver import Driver
from pasidlab.kernel.idxd import Idxd
from pasidlab.machine import Machine
from pasidlab.views.machine_map import machine_map
from pasidlab.views.pasid_table import pasid_table
from tests.third_party import CARD, PASID, SEND, Card, CardDriver
from tests.worlds import World, net_changes

LETTER = b"dear bob".ljust(64)


class Rogue(Card):
    """Sends whatever PASID is written to a register of its own, whoever owns that."""

    identity = PciIdentity(0x1234, 0x0666)

    def write_register(self, offset, value):
        if offset == 0x100:
            self.later(str(value), f"reads for PASID {value}")

    def run_enabled(self, what):
        self.port(int(what)).read(0x1000, 8)


class RogueDriver(CardDriver):
    """Gives a card to processes that does not keep to it."""

    identity = Rogue.identity


@pytest.fixture(params=[True, False], ids=["ats", "no ats"])
def world(request):
    """A machine with the card, beside an accelerator; with and without a TLB in the card."""
    made = World()
    made.nic = made.m.plug("nic0", Card, CardDriver, ats=request.param)
    return made


def pair(where, nic):
    """Two processes with the card open, a letter of the first and an inbox of the second."""
    alice, bob = where.spawn("alice"), where.spawn("bob")
    alice.bind(nic)
    bob.bind(nic)
    letter, inbox = alice.buffer(LETTER), bob.buffer(64)
    return alice, bob, letter, inbox, bob.ioctl(nic, "inbox", inbox)


def leftovers(world, position):
    """What is different from what it was, apart from the traces in invalidation queues."""
    queue = {"host.iommu.queue", "iommu-unit.registers", "memory"}
    return {cell: pair for cell, pair in net_changes(world.m, position).items() if cell[0] not in queue}


def faults(world):
    """The reasons of all faults that the host has logged."""
    return world.m.fault_log


def test_packets_travel_between_two_address_spaces(world):
    """Read with one PASID, written with the other; the stream names both."""
    alice, bob, letter, inbox, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, letter)
    assert bob.read(inbox, 64) == bytes(64), "nothing moves before the card works"
    world.m.run()
    assert bob.read(inbox, 64) == LETTER
    moved = [event for event in world.time.events if event.verb == "dma" and event.fact("rid") == world.nic.rid]
    assert [(event.fact("access"), event.fact("pasid")) for event in moved] == [
        ("read", alice.pasid),
        ("write", bob.pasid),
    ]
    assert world.m.check().ok, world.m.check()


@pytest.mark.parametrize("policy", ["identity", "refuse", None])
def test_the_same_driver_runs_in_a_guest_that_has_the_card(world, policy):
    """Through two levels of translation, by whatever numbers the policy gives."""
    other = world.m.spawn("native")
    other.bind(world.dsa)
    vm = world.m.create_vm("vm1", policy=policy)
    pf = world.m.assign_pf(world.nic, vm)
    alice, bob, letter, inbox, to = pair(vm, pf)
    alice.ioctl(pf, "send", to, letter)
    world.m.run()
    assert bob.read(inbox, 64) == LETTER
    assert type(vm.kernel.drivers["nic0"]) is CardDriver
    assert world.m.check().ok, world.m.check()


def test_a_vm_that_sees_its_own_numbers_gets_no_unmediated_card(world):
    """-EPERM, as for an accelerator."""
    vm = world.m.create_vm("vm1", policy="translated")
    assert world.refused(world.m.assign_pf, world.nic, vm).name == "EPERM"


def test_the_card_is_one_vms_or_the_hosts(world):
    """-EBUSY while a process has it open; -ENODEV for host processes and -EBUSY for others while a VM has it."""
    app = world.m.spawn("app")
    app.bind(world.nic)
    vm1, vm2 = world.m.create_vm("vm1"), world.m.create_vm("vm2")
    assert world.refused(world.m.assign_pf, world.nic, vm1).name == "EBUSY"
    app.unbind(world.nic)
    world.m.assign_pf(world.nic, vm1)
    assert world.refused(world.m.assign_pf, world.nic, vm2).name == "EBUSY"
    assert world.refused(app.bind, world.nic).name == "ENODEV"


def test_the_crash_of_a_vm_gives_everything_back(world):
    """With packets under way: the card is reset, nothing waits, and the host can use it again."""
    before = world.time.journal.position
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.nic, vm)
    alice, bob, letter, inbox, to = pair(vm, pf)
    alice.ioctl(pf, "send", to, letter)
    vm.crash()
    assert world.m.pending == []
    assert len(world.nic.function.bar0) == len(world.nic.function.tlb.lines) == 0
    assert world.m.check().ok, world.m.check()
    assert leftovers(world, before) == {}
    alice, bob, letter, inbox, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, letter)
    world.m.run()
    assert bob.read(inbox, 64) == LETTER
    assert faults(world) == []


@pytest.mark.parametrize("end", ["unbind", "exit"])
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_nothing_is_sent_for_a_process_that_has_gone(world, end, who):
    """What was under way when one end closed is lost; no request leaves the card, no fault is recorded."""
    alice, bob, letter, _, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, letter)
    gone = {"alice": alice, "bob": bob}[who]
    if end == "unbind":
        gone.unbind(world.nic)
    else:
        gone.exit()
    step = world.time.now
    world.m.run()
    assert [event for event in world.since(step) if event.verb == "dma"] == []
    assert faults(world) == []
    assert world.m.check().ok, world.m.check()


def test_a_page_that_is_not_there_loses_the_packet(world):
    """The card does not wait for pages: without ATS the fault is recorded, with ATS the answer tells it."""
    alice, bob, _, inbox, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, 0x7FFF_0000_0000)
    world.m.run()
    assert bob.read(inbox, 64) == bytes(64)
    assert len(faults(world)) == (0 if world.nic.function.config.ats_enabled else 1)
    assert world.m.check().ok, world.m.check()


def test_channels_run_out_and_come_back(world):
    """-EBUSY for the fifth process, -EBUSY for a second open, -EINVAL for a kind of queue, and no PASID is lost."""
    apps = [world.m.spawn(f"app{at}") for at in range(5)]
    assert [app.bind(world.nic) for app in apps[:4]] == [1, 2, 3, 4]
    assert world.refused(apps[4].bind, world.nic).name == "EBUSY"
    assert world.refused(apps[0].bind, world.nic).name == "EBUSY"
    assert world.refused(apps[4].bind, world.nic, queue="shared").name == "EINVAL"
    assert apps[4].pasid is None
    apps[1].unbind(world.nic)
    assert world.refused(apps[1].unbind, world.nic).name == "EINVAL"
    assert apps[4].bind(world.nic) == 2
    assert world.m.kernel.drivers["nic0"].channel_of(apps[4].process) == 1


def test_one_pasid_serves_two_devices(world):
    """A process that has card and accelerator open has one number, and loses it with the second."""
    app = world.m.spawn("app")
    assert app.bind(world.dsa) == app.bind(world.nic) == 1
    app.unbind(world.dsa)
    assert app.pasid == 1
    app.unbind(world.nic)
    assert app.pasid is None


def test_what_needs_work_queues_is_refused(world):
    """-EOPNOTSUPP: no ADI can be cut, nothing is copied; there is no accelerator behind the handle."""
    app, vm = world.m.spawn("app"), world.m.create_vm("vm1")
    app.bind(world.nic)
    assert world.refused(world.m.assign_adi, world.nic, vm).name == "EOPNOTSUPP"
    assert world.refused(app.copy, world.nic, 0, 0, 8).name == "EOPNOTSUPP"
    assert world.refused(app.submit, world.nic, 0, 0, 8).name == "EOPNOTSUPP"
    with pytest.raises(KernelError, match="EOPNOTSUPP"):
        assert world.nic.hardware


def test_an_ioctl_is_the_drivers_business(world):
    """-ENOTTY a request that it does not know (an accelerator's knows none), -EBADF without open, -ENODEV no device."""
    app = world.m.spawn("app")
    assert world.refused(app.ioctl, world.nic, "send", 0, 0).name == "EBADF"
    app.bind(world.nic)
    assert world.refused(app.ioctl, world.nic, "fly").name == "ENOTTY"
    assert world.refused(app.ioctl, world.dsa, "fly").name == "ENOTTY"
    assert world.refused(app.ioctl, "nic1", "fly").name == "ENODEV"
    assert world.refused(app.ioctl, world.nic, "send", "0").name == "EINVAL"


def test_the_line_of_a_plug_repeats_it(world):
    """Classes are written by their names; a second machine that runs the lines comes to the same state."""
    again = World()
    line = world.time.operations[2].line
    assert line.startswith('m.plug("nic0", Card, CardDriver')
    eval(line, {"m": again.m, "Card": Card, "CardDriver": CardDriver})
    assert again.time.digest() == world.time.digest()


@pytest.mark.parametrize(("ats", "stopped"), [(False, DmaAborted), (True, PageMissing)])
def test_a_rogue_device_gets_no_further_than_its_own_table(ats, stopped):
    """Whatever PASID it sends: the entries behind its requester ID answer, and only its own users are there."""
    world = World()
    rogue, nic = world.m.plug("rogue0", Rogue, RogueDriver, ats=ats), world.m.plug("nic0", Card, CardDriver)
    victim = world.m.spawn("victim")
    victim.bind(nic)
    assert victim.pasid is not None
    world.m.kernel.drivers["rogue0"].write(0x100, victim.pasid, 4)
    with pytest.raises(stopped):
        world.m.run()
    world.m.kernel.drivers["rogue0"].pci.reset()
    for pasid in (victim.pasid, 77, (1 << 20) - 1):
        answer = world.m.dma(rogue, pasid, 0x1000)
        assert getattr(answer, "code", None) in (0x51, 0x59), "no entry, or not even a table for it"
    assert len(faults(world)) == 3
    assert world.m.check().ok, world.m.check()


def test_a_guest_that_programs_any_pasid_into_its_card_reaches_nobody_else(world):
    """No register is mediated: the PASID of a native process has no entry on the card while it is the VM's."""
    native = world.m.spawn("native")
    secret = native.buffer(b"secret".ljust(64))
    native.bind(world.dsa)
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.nic, vm)
    spy = vm.spawn("spy")
    spy.bind(pf)
    inbox = spy.buffer(64)
    driver = vm.kernel.drivers["nic0"]
    channel = spy.ioctl(pf, "inbox", inbox)
    driver.write(0x20 * 2 + PASID, native.pasid, 4)
    driver.write(0x20 * 2 + 0x10, secret)
    driver.write(0x20 * 2 + SEND, channel, 4)
    world.m.run()
    assert spy.read(inbox, 64) == bytes(64)
    assert world.m.check().ok, world.m.check()


class Deaf(Card):
    """Keeps every translation that it was ever given."""

    def invalidate(self, request):
        """Does not listen."""


def test_a_device_that_does_not_forget_translations_is_named():
    """The IOMMU believes translated requests: such a device reaches the page of a process that is gone."""
    world = World()
    nic = world.m.plug("nic0", Deaf, CardDriver)
    alice, _, letter, _, to = pair(world.m, nic)
    alice.ioctl(nic, "send", to, letter)
    world.m.run()
    pasid = alice.pasid
    alice.exit()
    report = world.m.check()
    assert not report.ok
    assert "device TLB of nic0" in str(report)
    assert isinstance(world.m.dma(nic, pasid, letter, tlb=True), int)
    assert isinstance(world.m.dma(nic, pasid, letter), Fault)


class Broken(CardDriver):
    """Refuses the third process, after half of its registers were written."""

    def program(self, channel, pasid):
        super().program(channel, pasid)
        if channel == 2:
            raise KernelError("EIO", "the card does not answer")


class Unfinished(Driver):
    """Forgets what every driver must have."""

    identity = CARD


def test_an_open_that_fails_midway_leaks_nothing():
    """The state is that before the call, natively and in a guest, and the process can open something else."""
    world = World()
    nic = world.m.plug("nic0", Card, Broken)
    vm = world.m.create_vm("vm1")
    for where in (world.m, vm):
        device = nic if where is world.m else world.m.assign_pf(nic, vm)
        apps = [where.spawn(f"app{at}") for at in range(3)]
        for app in apps[:2]:
            app.bind(device)
        before = world.time.journal.position
        assert world.refused(apps[2].bind, device).name == "EIO"
        moved = {"vm1.iommu.queue", "host.viommu[vm1].registers"}
        assert {path for path, _ in leftovers(world, before)} <= moved
        assert (apps[2].pasid, apps[2].process.ia32_pasid) == (None, 0)
        for app in apps:
            app.exit()


@pytest.mark.parametrize(
    ("function", "driver", "words"),
    [
        (Driver, CardDriver, "derives from Function"),
        ("Card", CardDriver, "derives from Function"),
        (Card, Card, "derives from Driver"),
        (Card, None, "derives from Driver"),
        (Accelerator, Idxd, "plug_accelerator"),
        (Function, CardDriver, "must be a PciIdentity"),
        (Rogue, CardDriver, "must have the identity of Rogue"),
        (type("Odd", (Card,), {"bar0_size": 100}), CardDriver, "whole pages"),
        (type("Huge", (Card,), {"bar0_size": 1 << 24}), CardDriver, "whole pages"),
        (Card, Unfinished, "program and quiesce"),
    ],
)
def test_classes_that_are_no_device_are_refused(function, driver, words):
    """-EINVAL, with what is missing; nothing was plugged in and no driver is loaded."""
    m = Machine()
    before = m.timeline.digest()
    with pytest.raises(KernelError, match=words) as error:
        m.plug("nic0", function, driver)
    assert error.value.name == "EINVAL"
    assert m.timeline.digest() == before


def test_a_second_driver_for_the_same_device_is_refused(world):
    """-EEXIST; a second card with the same driver is fine, a name that is taken is not."""
    assert world.refused(world.m.plug, "nic1", Card, Broken).name == "EEXIST"
    assert world.refused(world.m.plug, "nic0", Card, CardDriver).name == "EEXIST"
    assert world.refused(world.m.plug, "dsa0", Card, CardDriver).name == "EEXIST"
    assert world.refused(world.m.plug, "a.b", Card, CardDriver).name == "EINVAL"
    world.m.plug("nic1", Card, CardDriver)
    assert world.m.functions.keys() == ["dsa0", "nic0", "nic1"]
    assert list(world.m.accelerators) == ["dsa0"]


def test_slots_run_out():
    """-ENOSPC for the seventeenth device, of whatever kind."""
    m = Machine()
    for at in range(16):
        m.plug(f"nic{at}", Card, CardDriver)
    for refused in (lambda: m.plug("nic16", Card, CardDriver), m.plug_accelerator):
        with pytest.raises(KernelError, match="16 devices") as error:
            refused()
        assert error.value.name == "ENOSPC"


def test_a_device_whose_construction_fails_leaves_nothing():
    """A mistake in the third party's code undoes the call."""

    class Faulty(Card):
        def __init__(self, slot):
            super().__init__(slot)
            raise RuntimeError("no firmware")

    m = Machine()
    before = m.timeline.digest()
    with pytest.raises(RuntimeError, match="no firmware"):
        m.plug("nic0", Faulty, CardDriver)
    assert m.timeline.digest() == before
    m.plug("nic0", Card, CardDriver)


def test_time_travel_takes_the_card_along(world):
    """Back to before the plug and forward again: packets, registers and the loaded driver come and go."""
    alice, _bob, letter, _, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, letter)
    end, last = world.time.digest(), world.time.now
    world.time.go(world.time.operations[1].last)
    assert world.m.functions.keys() == ["dsa0"]
    assert len(world.m.drivers.modules) == 1
    world.time.go(last)
    assert world.time.digest() == end
    world.m.run()


def test_pictures_show_the_card(world):
    """A box of its own on the map, natively and in a VM; its PASID table; the text of handles."""
    alice, _, letter, _, to = pair(world.m, world.nic)
    alice.ioctl(world.nic, "send", to, letter)
    figure = machine_map(world.m)
    assert figure.node("nic0:function").lines == ("Card", "1 waiting")
    assert {edge.label for edge in figure.edges if edge.head == "nic0:function"} == {"PASID 1", "PASID 2"}
    assert pasid_table(world.m, "nic0").node("entry:1").lines[0] == "PASID 1"
    assert "bound to" in str(alice._repr_mimebundle_())
    for app in world.m.natives:
        world.m.app(app.name).exit()
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.nic, vm)
    assert repr(pf) == "<PF nic0 in vm1, on nic0>"
    assert machine_map(world.m).node("nic0:function").lines == ("Card", "no client")
    pair(vm, pf)
    figure = machine_map(world.m)
    assert figure.node("nic0:function").lines == ("Card", "2 clients")
    assert [edge.label for edge in figure.edges if edge.head == "nic0:function"] == ["PASID 1-2"]


@given(st.lists(st.tuples(st.integers(0, 0x3F), st.integers(0, 6) | st.integers(0, (1 << 32) - 1)), max_size=40))
@settings(max_examples=40)
def test_whatever_a_guest_writes_into_its_card_stays_in_its_vm(stores):
    """Any register, any value, any PASID: others' memory is as it was, and nothing is left when the VM ends."""
    world = World()
    nic = world.m.plug("nic0", Card, CardDriver)
    native = world.m.spawn("native")
    native.bind(world.dsa)
    secrets = [(native, native.buffer(LETTER))]
    other = world.vm("vm2", "shared")
    victim = other.spawn("victim")
    victim.bind(other.devices[0])
    secrets.append((victim, victim.buffer(LETTER)))
    vm = world.vm("vm1")
    pf = world.m.assign_pf(nic, vm)
    alice, _, letter, _, to = pair(vm, pf)
    driver = vm.kernel.drivers["nic0"]
    for register, value in stores:
        driver.write(4 * register, value, 4)
    alice.ioctl(pf, "send", to, letter)
    world.m.run()
    assert [app.read(place, 64) for app, place in secrets] == [LETTER] * 2
    assert world.m.check().ok, world.m.check()
    vm.crash()
    assert world.m.pending == []
    assert world.m.check().ok, world.m.check()
