"""While KVM takes an entry away no vCPU is in the guest (facts 5.3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.cpu import IA32_PASID, VmEntryBlocked
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload
from pasidlab.timeline import Verb
from tests.virt.test_kvm import tell
from tests.worlds import TwoVms, World

VALID = 1 << 31
AROUND = (Verb.BLOCK_ENTRY, Verb.CLEAR_ENTRY, Verb.IGNORE, Verb.ALLOW_ENTRY, Verb.WRITE_ENTRY)


@pytest.fixture
def world():
    """One VM, and one of its host PASIDs."""
    world = World()
    world.vm1 = world.vm("vm1", "shared")
    world.kvm = world.vm1.vmm.kvm
    world.pasid = world.vm1.vmm.container.pasid_alloc(1, 1000)
    return world


def around(world, begin):
    """What KVM did with its table and its vCPUs."""
    return [event.verb for event in world.since(begin) if event.actor == "kvm" and event.verb in AROUND]


@pytest.mark.parametrize("event", [IoasidEvent.UNBIND, IoasidEvent.FREE])
def test_the_vcpus_are_out_while_an_entry_goes(world, event):
    """Block, write, lift."""
    tell(world, IoasidEvent.BIND, 7)
    begin = world.time.now
    tell(world, event, 7)
    assert around(world, begin) == [Verb.BLOCK_ENTRY, Verb.CLEAR_ENTRY, Verb.ALLOW_ENTRY]
    assert world.kvm.vmcs.entry_blocked is False


@pytest.mark.parametrize("event", [IoasidEvent.UNBIND, IoasidEvent.FREE])
def test_an_end_without_entry_lets_them_in_again(world, event):
    """The code left them out until the next BIND."""
    begin = world.time.now
    assert tell(world, event, 7) is False
    assert around(world, begin) == [Verb.BLOCK_ENTRY, Verb.IGNORE, Verb.ALLOW_ENTRY]
    assert world.kvm.vmcs.entry_blocked is False


def test_a_bind_keeps_nobody_out_and_lets_in_who_is(world):
    """An entry that appears cannot be used before it is there."""
    begin = world.time.now
    tell(world, IoasidEvent.BIND, 7)
    assert around(world, begin) == [Verb.WRITE_ENTRY]
    world.kvm.vmcs.entry_blocked = True
    begin = world.time.now
    tell(world, IoasidEvent.BIND, 8, world.vm1.vmm.container.pasid_alloc(1, 1000))
    assert around(world, begin) == [Verb.WRITE_ENTRY, Verb.ALLOW_ENTRY]


def test_a_bind_that_fails_lets_them_in_as_well(world):
    """Without memory for a table there is no entry, but a guest."""
    world.kvm.vmcs.entry_blocked = True
    while world.m.kernel.pages.available:
        world.m.kernel.pages.alloc()
    world.core.attach_spid(world.pasid, 7)
    assert world.kvm.entries() == []
    assert world.kvm.vmcs.entry_blocked is False


class Prober:
    """Tries an ENQCMD of the guest whenever it is called, and remembers how that ended."""

    def __init__(self, world):
        self.world = world
        self.met = []

    def __call__(self):
        platform, driver = self.world.vm1.kernel.platform, self.world.vm1.kernel.accelerators["adi0"]
        try:
            platform.cpu.enqcmd(platform.mmio, driver.portal(driver.queues[0]), bytes(64))
        except VmEntryBlocked as error:
            self.met.append(str(error))


def test_an_enqcmd_in_the_middle_of_an_unbind_is_not_executed(monkeypatch):
    """From the moment of the warning or write until the block is lifted the guest cannot be in."""
    world = TwoVms()
    world.vm1.kernel.platform.cpu.write_msr(IA32_PASID, VALID | 1)
    kvm, prober = world.vm1.vmm.kvm, Prober(world)
    usual = type(kvm)._clear_entry

    def clear(self, guest_pasid, host_pasid):
        prober()
        usual(self, guest_pasid, host_pasid)
        prober()

    monkeypatch.setattr(type(kvm), "_clear_entry", clear)
    waiting = len(world.m.pending)
    kvm.ioasid_notified(IoasidEvent.UNBIND, Payload(world.h1, 1, 1))
    assert len(prober.met) == 2
    assert "vm1.vcpu0 must be let into the guest before ENQCMD" in prober.met[0]
    assert len(world.m.pending) == waiting


def test_the_vcpus_of_other_vms_go_on(monkeypatch):
    """The block is one VM's."""
    world = TwoVms()
    seen = []
    kvm = world.vm1.vmm.kvm
    usual = type(kvm)._clear_entry

    def clear(self, guest_pasid, host_pasid):
        seen.append((self.vmcs.entry_blocked, world.vm2.vmm.kvm.vmcs.entry_blocked))
        usual(self, guest_pasid, host_pasid)

    monkeypatch.setattr(type(kvm), "_clear_entry", clear)
    world.app1.unbind(world.adi1)
    assert seen == [(True, False)]


def test_whole_lives_leave_nobody_out():
    """Unbind, free, exit, crash: each VM can run when the call is over."""
    world = TwoVms()
    world.app1.unbind(world.adi1)
    world.vm2.free_pasid(1)
    world.m.run()
    assert [vm.vmm.kvm.vmcs.entry_blocked for vm in world.m.vms] == [False, False]
    blocks = [event.verb for event in world.time.events if event.verb in (Verb.BLOCK_ENTRY, Verb.ALLOW_ENTRY)]
    assert blocks == [Verb.BLOCK_ENTRY, Verb.ALLOW_ENTRY] * (len(blocks) // 2)
    assert blocks


NUMBERS = st.sampled_from([1, 2, 0x3FF, 0x400, 0x7FFFF, 0x80000, 0xFFFFF])
STEPS = st.lists(
    st.tuples(st.sampled_from([IoasidEvent.BIND, IoasidEvent.UNBIND, IoasidEvent.FREE]), NUMBERS, st.integers(0, 2)),
    max_size=20,
)


@settings(max_examples=25)
@given(STEPS)
def test_the_table_is_what_the_notifications_say(steps):
    """Any order of BIND, UNBIND and FREE against a dictionary: the processor finds the same, and is never kept out."""
    world = World()
    world.vm1 = world.vm("vm1", "shared")
    world.kvm = world.vm1.vmm.kvm
    hosts = [world.vm1.vmm.container.pasid_alloc(1, 1000) for _ in range(3)]
    known: dict[int, int] = {}
    for event, number, which in steps:
        tell(world, event, number, hosts[which])
        if event is IoasidEvent.BIND:
            known[number] = hosts[which]
        elif known.get(number) == hosts[which]:
            del known[number]
        assert dict(world.kvm.entries()) == known
        assert world.kvm.vmcs.translate(number).host_pasid == known.get(number)
        assert not world.kvm.vmcs.entry_blocked
    for host in hosts:
        assert list(world.core.ids[host].holders).count("kvm:vm1") == list(known.values()).count(host)
