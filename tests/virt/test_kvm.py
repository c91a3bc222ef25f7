"""KVM's PASID translation: the bits at the documented places, entries that follow notifications, exits 72 (facts 5)."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.cpu import IA32_PASID, VmcsField
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World

VALID = 1 << 31
PLACES = {
    101: ("low", 0, 101),
    0x400: ("low", 1, 0),
    0x7FFFF: ("low", 511, 1023),
    0x80000: ("high", 0, 0),
    0xFFFFF: ("high", 511, 1023),
}
"""Test vectors of facts 5.1: directory, directory entry, table entry."""


@pytest.fixture
def world():
    """One VM, and one of its host PASIDs."""
    world = World()
    world.vm1 = world.vm("vm1", "shared")
    world.kvm = world.vm1.vmm.kvm
    world.pasid = world.vm1.vmm.container.pasid_alloc(1, 1000)
    return world


def tell(world, event, guest_pasid, host_pasid=None):
    """A notification, straight to KVM."""
    return world.kvm.ioasid_notified(event, Payload(host_pasid or world.pasid, guest_pasid, 1))


def table_bits(world, guest_pasid):
    """The directory entry and the 32-bit table entry, read from physical memory by arithmetic alone."""
    memory, vmcs = world.m.memory, world.kvm.vmcs
    directory = vmcs.vmread(VmcsField.HIGH_PASID_DIRECTORY if guest_pasid >> 19 else VmcsField.LOW_PASID_DIRECTORY)
    entry = memory.load(directory + 8 * (guest_pasid >> 10 & 511))
    word = memory.load((entry & ~0xFFF) + (guest_pasid & 1022) * 4) >> 32 * (guest_pasid & 1)
    return entry, word & 0xFFFF_FFFF if entry & 1 else None


@pytest.mark.parametrize("guest_pasid", PLACES)
def test_an_entry_lies_where_the_processor_looks(world, guest_pasid):
    """Bit 19 picks the directory, 18:10 its entry, 9:0 the table entry: host PASID and the valid bit."""
    assert tell(world, IoasidEvent.BIND, guest_pasid)
    which, at, index = PLACES[guest_pasid]
    base = world.kvm.low if which == "low" else world.kvm.high
    entry = world.m.memory.load(base + 8 * at)
    assert entry & 0xFFF == 1
    assert world.m.memory.load32((entry & ~0xFFF) + 4 * index) == VALID | world.pasid
    assert table_bits(world, guest_pasid) == (entry, VALID | world.pasid)
    assert world.kvm.vmcs.translate(guest_pasid).host_pasid == world.pasid
    assert world.kvm.entries() == [(guest_pasid, world.pasid)]


def test_entries_do_not_disturb_their_neighbours(world):
    """Two 32-bit entries share a 64-bit word."""
    other = world.vm1.vmm.container.pasid_alloc(1, 1000)
    tell(world, IoasidEvent.BIND, 10)
    tell(world, IoasidEvent.BIND, 11, other)
    tell(world, IoasidEvent.UNBIND, 10)
    assert [table_bits(world, number)[1] for number in (10, 11)] == [0, VALID | other]


@pytest.mark.parametrize("event", [IoasidEvent.UNBIND, IoasidEvent.FREE])
def test_an_entry_vanishes_with_its_reference_on_unbind_and_on_free(world, event):
    """The documents let KVM drop its entry on FREE too; the code ignored that event."""
    tell(world, IoasidEvent.BIND, 7)
    assert world.core.ids[world.pasid].holders == ("vfio", "kvm:vm1")
    assert tell(world, event, 7)
    assert table_bits(world, 7)[1] == 0
    assert world.core.ids[world.pasid].holders == ("vfio",)


def warned(world, begin):
    """What KVM found that should not be."""
    return [event.after for event in world.since(begin) if event.verb is Verb.IGNORE and event.actor == "kvm"]


@pytest.mark.parametrize("event", [IoasidEvent.UNBIND, IoasidEvent.FREE])
def test_an_entry_that_names_another_host_pasid_is_left_alone(world, event):
    """The end of somebody else's mapping must not clear this one: a warning, and NOTIFY_DONE."""
    tell(world, IoasidEvent.BIND, 7)
    other = world.vm1.vmm.container.pasid_alloc(1, 1000)
    begin = world.time.now
    assert tell(world, event, 7, other) is False
    assert warned(world, begin) == [f"host PASID {world.pasid}"]
    assert table_bits(world, 7)[1] == VALID | world.pasid
    assert world.core.ids[other].holders == ("vfio",)


@pytest.mark.parametrize("table", [False, True], ids=["no table", "not valid"])
def test_an_unbind_without_entry_is_a_warning(world, table):
    """Nothing is written, no reference is put, no table is made."""
    if table:
        tell(world, IoasidEvent.BIND, 8)
    before, begin = world.time.digest(), world.time.now
    assert tell(world, IoasidEvent.UNBIND, 7) is False
    assert warned(world, begin) == ["not valid"]
    assert world.time.digest() == before


def test_a_bind_over_a_valid_entry_is_a_warning_and_replaces_it_with_its_reference(world):
    """The code overwrites it; the reference that the old entry held must not stay behind."""
    tell(world, IoasidEvent.BIND, 7)
    other = world.vm1.vmm.container.pasid_alloc(1, 1000)
    begin = world.time.now
    assert tell(world, IoasidEvent.BIND, 7, other)
    assert warned(world, begin) == [f"host PASID {world.pasid}"]
    assert world.kvm.entries() == [(7, other)]
    assert [world.core.ids[pasid].holders for pasid in (world.pasid, other)] == [("vfio",), ("vfio", "kvm:vm1")]


@pytest.mark.parametrize("guest_pasid", [None, PASID_LIMIT, 0xFFFF_FFFF])
@pytest.mark.parametrize("event", [IoasidEvent.BIND, IoasidEvent.UNBIND, IoasidEvent.FREE])
def test_an_event_without_a_guest_number_is_not_kvms(world, event, guest_pasid):
    """NOTIFY_DONE, and nothing changes; covers "no SPID", which is all ones."""
    before = world.time.digest()
    assert tell(world, event, guest_pasid) is False
    assert world.time.digest() == before


def test_alloc_is_not_kvms(world):
    """Nothing is bound yet."""
    assert tell(world, IoasidEvent.ALLOC, 7) is False


def test_a_bind_of_a_dying_pasid_writes_no_entry(world):
    """The reference comes first: bug 14 of the fact sheet wrote the entry although the get had failed."""
    world.core.get(world.pasid, "somebody")
    world.vm1.vmm.container.pasid_free(world.pasid, world.pasid)
    with pytest.raises(KernelError, match="ENOENT"):
        tell(world, IoasidEvent.BIND, 7)
    assert table_bits(world, 7)[1] in (0, None)
    assert world.core.ids[world.pasid].holders == ("somebody",)


def test_without_memory_for_a_table_there_is_no_entry_and_no_reference(world):
    """-ENOMEM ends in the chain, which tells it: it never reaches the publisher."""
    while world.m.kernel.pages.available:
        world.m.kernel.pages.alloc()
    begin = world.time.now
    world.core.attach_spid(world.pasid, 7)
    assert [event.after for event in world.since(begin) if event.verb is Verb.REFUSE] == ["-ENOMEM"]
    assert world.kvm.entries() == []
    assert world.core.ids[world.pasid].holders == ("vfio",)


# --- exits --------------------------------------------------------------------------------------------------------


def enqcmd(world, vm, pasid):
    """A hostile guest kernel: any number into IA32_PASID, then ENQCMD to its device's portal."""
    cpu, driver = vm.kernel.platform.cpu, vm.kernel.accelerators[vm.devices[0].name]
    cpu.write_msr(IA32_PASID, VALID | pasid)
    return cpu.enqcmd(vm.kernel.platform.mmio, driver.portal(driver.queues[0]), bytes(64))


def test_enqcmd_carries_the_host_pasid_into_the_device():
    """The guest's 1 becomes the host's number on the way out; nothing traps."""
    world = TwoVms()
    begin = world.time.now
    assert enqcmd(world, world.vm1, 1)
    accepted = next(event for event in world.since(begin) if event.verb is Verb.ACCEPT)
    assert accepted.fact("pasid") == world.h1
    assert not any(event.verb in (Verb.EXIT_VMX, Verb.TRAP) for event in world.since(begin))


@pytest.mark.parametrize("pasid", [0, 2, 0x400, 0xFFFFF])
def test_an_unbound_pasid_is_exit_72_and_the_guest_sees_retry(pasid):
    """No exception, nobody is told: ZF=1, exactly how a full queue answers."""
    world = TwoVms()
    begin = world.time.now
    assert enqcmd(world, world.vm1, pasid) is False
    assert world.vm1.kernel.platform.cpu.zf
    exits = [event for event in world.since(begin) if event.verb is Verb.EXIT_VMX]
    assert [(event.fact("reason"), event.fact("guest_pasid")) for event in exits] == [(72, pasid)]
    assert world.m.pending == []


def test_the_exit_handler_sets_zf_and_touches_nothing_else():
    """The instruction is skipped where silicon would have cleared the other flags."""
    world = TwoVms()
    cpu = world.vm1.kernel.platform.cpu
    cpu.cf, cpu.zf = True, False
    assert enqcmd(world, world.vm1, 2) is False
    assert (cpu.zf, cpu.cf) == (True, True)


def test_enqcmds_of_a_guests_kernel_is_exit_73_and_is_translated_once_bound():
    """PASID and privilege come from the source: the PASID is replaced, the privilege bit goes out as it is."""
    world = TwoVms()
    platform, driver = world.vm1.kernel.platform, world.vm1.kernel.accelerators[world.adi1.name]
    portal, begin = driver.portal(driver.queues[0]), world.time.now
    assert platform.cpu.enqcmds(platform.mmio, portal, (VALID | 9).to_bytes(64, "little")) is False
    assert platform.cpu.enqcmds(platform.mmio, portal, (VALID | 1).to_bytes(64, "little")) is True
    exits = [event.fact("reason") for event in world.since(begin) if event.verb is Verb.EXIT_VMX]
    sent = [event.fact("host_pasid") for event in world.since(begin) if event.verb is Verb.TRANSLATE]
    assert (exits, sent) == ([73], [world.h1])


def test_a_guest_that_retries_an_unbound_pasid_gets_eagain():
    """The program gives up after its tries; on the real machine it would go on for ever."""
    world = TwoVms()
    src, dst = world.app1.buffer(b"x"), world.app1.buffer(1)
    world.vm1.free_pasid(1)
    assert world.refused(world.app1.copy, world.adi1, src, dst, 1).name == "EAGAIN"


def test_each_vm_has_tables_of_its_own():
    """The same guest PASID, two host PASIDs."""
    world = TwoVms()
    assert world.vm1.vmm.kvm.entries() == [(1, world.h1)]
    assert world.vm2.vmm.kvm.entries() == [(1, world.h2)]
    assert world.h1 != world.h2


# --- the end ------------------------------------------------------------------------------------------------------


def test_the_end_of_a_vm_drops_every_reference_and_frees_every_table(world):
    """Entries in both directories and in several tables."""
    frames = world.m.kernel.pages.used
    for guest_pasid in PLACES:
        tell(world, IoasidEvent.BIND, guest_pasid, world.vm1.vmm.container.pasid_alloc(1, 1000))
    assert world.m.kernel.pages.used > frames
    low, high = world.kvm.low, world.kvm.high
    world.kvm.close()
    assert world.m.kernel.pages.used == frames - 2
    assert not any(world.m.kernel.pages.is_used(page) for page in (low, high))
    assert {record.holders for record in world.vm1.vmm.container.set.ids.values()} == {("vfio",)}
