"""The emulated unit: virtual commands as words in registers, and invalidations that make the host look (facts 7)."""

import pytest

from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import CAP_REG, ECAP_REG, PASID_ENTRY
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.timeline import HOST, Verb
from tests.worlds import TwoVms, World, tree

VCCAP, VCMD, VCRSP = (reg.BASE + offset for offset in (0xE00, 0xE10, 0xE20))
ALLOC = 0x1


@pytest.fixture
def world():
    """One VM with an interface."""
    world = World()
    world.guest = world.vm("vm1", "shared", quota=3)
    world.mmio = world.guest.kernel.platform.mmio
    return world


def command(world, word):
    """Write VCMD and read VCRSP, as a guest's driver does."""
    world.mmio.write(VCMD, word)
    return world.mmio.read(VCRSP)


def told(world, begin, verb):
    """Subjects of the hypervisor's events."""
    return [event.subject for event in world.since(begin) if event.actor == "vmm" and event.verb is verb]


def guest_flush(world, pasid):
    """The guest tells its unit that it changed a PASID entry."""
    queue = world.guest.kernel.iommu.queue
    queue.submit(queue.pasid_cache(1, pasid))


# --- registers --------------------------------------------------------------------------------------------------------


def test_the_guest_sees_caching_mode_virtual_commands_and_no_nesting(world):
    """What makes the same driver behave as a guest's."""
    cap, ecap = ((world.mmio.read(reg.BASE + offset),) for offset in (reg.CAP, reg.ECAP))
    seen = CAP_REG["CM"].get(cap), ECAP_REG["VCS"].get(ecap), ECAP_REG["NEST"].get(ecap), ECAP_REG["SMTS"].get(ecap)
    assert seen == (1, 1, 0, 1)
    assert world.mmio.read(VCCAP) & 1


# --- virtual commands -------------------------------------------------------------------------------------------------


def test_an_allocation_is_answered_with_success_and_the_number(world):
    """0x1 -> status 0 in bits 2:1, PASID in bits 27:8; the lowest of the guest's own numbers first."""
    assert command(world, ALLOC) == 1 << 8
    assert command(world, ALLOC) == 2 << 8
    assert world.guest.pasids.keys() == {1, 2}


def test_the_golden_words():
    """Facts 7.1: PASID 201 is answered by 0xC900, PASID 0x65 is freed by 0x6502, and the end of the quota is 0x4."""
    world = World()
    world.guest = world.vm("vm1", "shared", quota=201)
    world.mmio = world.guest.kernel.platform.mmio
    answers = [command(world, ALLOC) for _ in range(202)]
    assert answers[200:] == [0xC900, 0x4]
    begin = world.time.now
    assert command(world, 0x6502) == 0
    assert told(world, begin, Verb.TRAP) == ["vm1: virtual command, free PASID 101"]
    assert 101 not in world.guest.pasids
    assert command(world, ALLOC) == 0x65 << 8


def test_freeing_what_the_vm_does_not_own_is_status_2(world):
    """Never given, or given to somebody else; the host hears no request."""
    other = world.vm("vm2", "shared")
    host_pasid = other.vmm.container.pasid_alloc(1, 1000)
    for pasid in (1, host_pasid, 0xFFFFF):
        begin = world.time.now
        assert command(world, pasid << 8 | 2) == 0x4
        assert not any(event.verb is Verb.IOCTL for event in world.since(begin))
    assert host_pasid in world.core.ids


def test_an_unknown_command_is_not_a_success(world):
    """Status 1: undefined."""
    assert command(world, 0x7) == 1 << 1
    assert world.guest.pasids == {}


def test_the_command_becomes_a_vfio_request_and_the_answer_comes_back(world):
    """guest command -> trap -> ioctl -> alloc, one below the other."""
    begin = world.time.now
    assert world.guest.kernel.ioasid.allocators.active.alloc(1, 9) == 1
    alloc = next(event for event in world.since(begin) if event.verb is Verb.ALLOC)
    assert tree(world.time.events, alloc)[:4] == [
        ("ioasid", "alloc"),
        ("vfio", "ioctl"),
        ("vmm", "trap"),
        ("iommu", "command"),
    ]
    answer = next(event for event in world.since(begin) if event.verb is Verb.ANSWER)
    assert (answer.fact("status"), answer.fact("gpasid")) == (0, 1)


def test_the_policy_decides_the_numbers():
    """Translated: the guest's own, from 1. Identity: the host's."""
    world = World()
    numbers = {}
    for name, policy in (("vm1", "translated"), ("vm2", "identity")):
        vm = world.vm(name, "shared", policy=policy)
        app = vm.spawn("app")
        numbers[name] = app.bind(vm.devices[0]), vm.pasids
    assert numbers["vm1"] == (1, {1: 2})
    assert numbers["vm2"] == (4, {4: 4})


# --- invalidations ----------------------------------------------------------------------------------------------------


def write_entry(world, pasid, **fields):
    """The guest writes a first-level entry for its device into its own memory; its driver does not know."""
    words = PASID_ENTRY.change(entries.first_level(0x6000, world.m.kernel.iommu.unit), **fields)
    rid = world.guest.kernel.accelerators["adi0"].rid
    world.guest.kernel.iommu.tables[rid].write(pasid, words)


def test_an_entry_alone_does_nothing_until_the_guest_flushes(world):
    """That is what caching mode is for."""
    command(world, ALLOC)
    begin = world.time.now
    write_entry(world, 1)
    assert world.since(begin) == []
    guest_flush(world, 1)
    host_pasid = world.guest.pasids[1]
    assert PASID_ENTRY["FLPTPTR"].get(world.entry(host_pasid)) == 0x6000
    assert world.guest.vmm.kvm.entries() == [(1, host_pasid)]


def test_a_flush_without_a_change_does_not_bind_again(world):
    """The hypervisor compares the entry with what it has bound."""
    command(world, ALLOC)
    write_entry(world, 1)
    guest_flush(world, 1)
    begin = world.time.now
    guest_flush(world, 1)
    assert not any(event.verb in (Verb.IOCTL, Verb.WRITE_ENTRY) for event in world.since(begin))


def test_a_changed_entry_is_unbound_and_bound_anew(world):
    """Another root: the host's entry follows."""
    command(world, ALLOC)
    write_entry(world, 1)
    guest_flush(world, 1)
    write_entry(world, 1, FLPTPTR=0x7000)
    guest_flush(world, 1)
    assert PASID_ENTRY["FLPTPTR"].get(world.entry(world.guest.pasids[1])) == 0x7000
    assert world.m.check().ok


def test_a_cleared_entry_is_unbound(world):
    """P=0 and a flush."""
    command(world, ALLOC)
    write_entry(world, 1)
    guest_flush(world, 1)
    write_entry(world, 1, P=0)
    guest_flush(world, 1)
    assert world.entry(world.guest.pasids[1]) == (0,) * 8
    assert world.guest.vmm.kvm.entries() == []


@pytest.mark.parametrize("descriptor", ["domain", "everything"])
def test_a_flush_of_more_than_one_pasid_looks_at_all(world, descriptor):
    """Granularity does not let an entry slip by."""
    queue = world.guest.kernel.iommu.queue
    for pasid in (1, 2):
        command(world, ALLOC)
        write_entry(world, pasid)
    queue.submit((0x7 | (0 if descriptor == "domain" else 3) << 4 | 1 << 16, 0))
    assert [entry.guest_pasid for entry in world.guest.vmm.kvm.entries()] == [1, 2]


def test_a_pasid_that_was_never_given_is_not_bound(world):
    """The refusal is told; the guest cannot learn of it and its DMA faults."""
    begin = world.time.now
    write_entry(world, 5)
    guest_flush(world, 5)
    assert told(world, begin, Verb.REFUSE) == ["vm1 binds PASID 5, which it was never given"]
    assert not any(event.verb is Verb.IOCTL for event in world.since(begin))
    assert world.guest.vmm.kvm.entries() == []


@pytest.mark.parametrize(
    ("fields", "word"), [({"FLPM": 1}, "4-level"), ({"PCD": 1}, "PCD"), ({"FLPTPTR": 1 << 48}, "page below")], ids=str
)
def test_a_bind_that_the_host_refuses_leaves_nothing_on_the_host(world, fields, word):
    """Width, memory types, a root beyond the guest's space: -EINVAL from VFIO, told as an event."""
    command(world, ALLOC)
    before = world.m.kernel.ioasid.ids[world.guest.pasids[1]].holders
    write_entry(world, 1, **fields)
    begin = world.time.now
    guest_flush(world, 1)
    refusals = told(world, begin, Verb.REFUSE)
    assert refusals == [] or word in refusals[0]
    host_pasid = world.guest.pasids[1]
    assert world.core.ids[host_pasid].holders == before
    assert world.entry(host_pasid) == (0,) * 8
    assert world.m.check().ok


def test_a_first_level_flush_is_forwarded_with_host_numbers():
    """PASID IOTLB of a bound PASID goes on to the silicon and, with ATS, to the device; of others it does not."""
    world = TwoVms()
    queue, begin = world.vm1.kernel.iommu.queue, world.time.now
    queue.submit(queue.pasid_iotlb(1, 1))
    flushed = [event for event in world.since(begin) if event.verb is Verb.INVALIDATE]
    assert [(event.subject.split(":")[0], event.fact("pasid")) for event in flushed] == [
        ("PASID IOTLB", world.h1),
        ("PASID device TLB", world.h1),
    ]
    begin = world.time.now
    queue.submit(queue.pasid_iotlb(1, 77))
    assert not any(event.verb is Verb.INVALIDATE for event in world.since(begin))


def test_the_guests_tables_lie_in_guest_memory_and_are_never_shown_to_silicon(world):
    """No entry of the host's table points to the guest's PASID table; the host reads it and writes its own."""
    command(world, ALLOC)
    write_entry(world, 1)
    guest_flush(world, 1)
    walk = world.m.translate(world.dsa.rid, pasid=world.guest.pasids[1], address=0)
    frames = {mapping.physical >> 12 for mapping in world.guest.vmm.process.mm.table.mappings()}
    assert not any(stop.address >> 12 in frames for stop in walk.stops if stop.stage == "lookup")
    assert any(stop.address >> 12 in frames for stop in walk.stops if stop.stage == "first")


def test_traps_are_the_hypervisors(world):
    """They are told at the host's altitude, in the name of the hypervisor."""
    begin = world.time.now
    command(world, ALLOC)
    trap = next(event for event in world.since(begin) if event.verb is Verb.TRAP)
    assert (trap.actor, trap.altitude, trap.fact("command")) == ("vmm", HOST, 1)


def test_nothing_is_bound_while_the_guest_has_translation_off():
    """GCMD.TE falls: what was bound is unbound on the host; it rises: what the tables still say is bound again."""
    world = TwoVms()
    viommu = world.vm1.vmm.viommu
    assert viommu.bound.keys() == [(0x18, 1)]
    with world.time.operation("TE=0"):
        viommu.mmio_write(reg.GCMD, reg.GCMD_QIE, 4)
    assert viommu.bound.keys() == []
    assert world.entry(world.h1) == (0,) * 8
    assert world.m.check().ok
    with world.time.operation("TE=1"):
        viommu.mmio_write(reg.GCMD, reg.GCMD_QIE | reg.GCMD_TE, 4)
    assert viommu.bound.keys() == [(0x18, 1)]
    assert world.app1.copy(world.adi1, world.app1.buffer(b"again"), world.app1.buffer(5), 5).ok
    assert world.m.check().ok
