"""A whole machine with an AMD IOMMU: the same calls as on every other, natively and in guests, with bytes checked."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.layouts.amd import DTE, GCR3_ENTRY
from pasidlab.machine import Machine
from pasidlab.timeline import HOST, Verb

TEXT = b"moved by a device"


class World:
    """A machine with two accelerators."""

    def __init__(self, **options):
        self.m = Machine(iommu="amdvi", **options)
        self.dsa, self.other = self.m.plug_accelerator("dsa0"), self.m.plug_accelerator("dsa1")

    def guest(self, name, device):
        """A VM with a whole accelerator; returns it and its device."""
        vm = self.m.create_vm(name, memory=1 << 20)
        return vm, self.m.assign_pf(device, vm)


@pytest.fixture
def world():
    """Nothing runs yet."""
    return World()


def copies(app, device, text=TEXT):
    """Whether a device moves a process's bytes."""
    src, dst = app.buffer(text), app.buffer(len(text))
    app.copy(device, src, dst, len(text))
    return app.read(dst, len(text)) == text


def lines(m):
    """How many lines the unit's caches hold for a PASID."""
    caches = m.unit.caches
    return len([key for key in caches.tlb.keys() if key[1] >= 0]) + len(caches.gcr3)


# --- natively ---------------------------------------------------------------------------------------------------------


def test_a_native_process_lets_a_device_use_its_addresses(world):
    """Bind, copy, unbind: one GCR3 entry, written and cleared; nothing is left."""
    app = world.m.spawn("app")
    assert app.bind(world.dsa) == 1
    assert copies(app, world.dsa)
    entries = [entry for entry in world.m.unit.entries(world.dsa.rid) if entry.pasid]
    assert [(entry.pasid, entry.kind, entry.layout) for entry in entries] == [(1, EntryKind.FIRST, GCR3_ENTRY)]
    assert world.m.check().ok
    app.unbind(world.dsa)
    assert [entry.kind for entry in world.m.unit.entries(world.dsa.rid)] == [EntryKind.PASS_THROUGH]
    assert lines(world.m) == 0
    assert world.m.check().ok


def test_pasid_0_is_never_handed_out(world):
    """It stands for requests without PASID; the first process gets 1, natively and in a guest."""
    vm, pf = world.guest("vm1", world.other)
    assert world.m.spawn("app").bind(world.dsa) == 1
    assert vm.spawn("app").bind(pf) == 1


def test_two_processes_and_two_devices_are_four_bindings(world):
    """Each pair is an entry of its own; one going leaves the others."""
    apps = [world.m.spawn(f"app{at}") for at in range(2)]
    for app in apps:
        app.bind(world.dsa)
        app.bind(world.other)
    assert all(copies(app, device) for app in apps for device in (world.dsa, world.other))
    apps[0].unbind(world.dsa)
    assert copies(apps[0], world.other)
    assert copies(apps[1], world.dsa)
    assert world.m.check().ok


def test_the_walk_shows_every_stop(world):
    """Device table entry, GCR3 entries of two levels, four levels of the process's page table."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    at = app.buffer(TEXT)
    walk = world.m.translate(world.dsa.rid, 1, at, "read", caches=False)
    assert [stop.name for stop in walk.stops] == ["device table entry"] + ["GCR3 entry"] * 2 + ["guest entry"] * 4
    assert walk.address == app.process.mm.physical(at)


def test_memory_that_goes_is_forgotten_before_it_is_freed(world):
    """munmap while a device has the page in its TLB: the next owner's bytes are safe."""
    app, neighbour = world.m.spawn("app"), world.m.spawn("neighbour")
    neighbour.buffer(1)
    app.bind(world.dsa)
    src, dst = app.buffer(TEXT), app.buffer(len(TEXT))
    app.copy(world.dsa, src, dst, len(TEXT))
    page = app.process.mm.physical(dst)
    app.free(dst)
    mine = neighbour.buffer(b"mine")
    assert neighbour.process.mm.physical(mine) == page
    assert not app.copy(world.dsa, src, dst, len(TEXT)).ok
    assert neighbour.read(mine, 4) == b"mine"
    assert world.m.check().ok


def test_a_page_that_is_not_there_yet_is_brought(world):
    """PRI: the device asks, the kernel brings, the copy goes on."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    src, dst = app.buffer(TEXT), app.buffer(len(TEXT), populate=False)
    assert app.copy(world.dsa, src, dst, len(TEXT), block_on_fault=True).ok
    assert app.read(dst, len(TEXT)) == TEXT
    assert world.m.fault_log == []


def test_a_process_that_exits_is_reached_no_more(world):
    """Its entry is gone before its memory; the number is free again."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    at = app.buffer(TEXT)
    copies(app, world.dsa)
    app.exit()
    assert world.m.translate(world.dsa.rid, 1, at, "read").fault is not None
    assert world.m.check().ok
    assert world.m.spawn("next").bind(world.dsa) == 1


@pytest.mark.parametrize("step", ["pasid-cache", "iotlb", "device-tlb"])
def test_a_teardown_that_forgets_a_step_is_found(world, step):
    """Invariant 10 names the line that outlived its PASID."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    copies(app, world.dsa)
    world.m.kernel.iommu.teardown.left_out = frozenset({step})
    app.unbind(world.dsa)
    assert not world.m.check().ok


@pytest.mark.parametrize("step", ["pasid-cache", "iotlb", "device-tlb"])
def test_a_successor_does_not_inherit_what_a_forgotten_step_left(world, step):
    """The driver invalidates when it has written an entry, as Linux does: the next process is at home."""
    app, successor = world.m.spawn("app"), world.m.spawn("successor")
    app.bind(world.dsa)
    copies(app, world.dsa)
    world.m.kernel.iommu.teardown.left_out = frozenset({step})
    app.unbind(world.dsa)
    assert successor.bind(world.dsa) == 1
    assert copies(successor, world.dsa)
    assert world.m.check().ok


def test_a_device_reset_and_a_device_that_goes(world):
    """Nothing of it is left, and it can come back."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    copies(app, world.dsa)
    world.m.kernel.remove("dsa0")
    assert lines(world.m) == 0
    assert world.m.kernel.iommu.device_entry(world.dsa.rid) is None


# --- in guests --------------------------------------------------------------------------------------------------------


def test_a_guests_process_does_the_very_same(world):
    """The guest owns the table: one bind of the host, then only forwarded invalidations."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    assert app.bind(pf) == 1
    assert copies(app, pf)
    assert world.m.check().ok
    app.unbind(pf)
    assert lines(world.m) == 0
    assert world.m.check().ok


def test_two_guests_and_the_host_use_one_number(world):
    """PASID 1 three times, on three devices: three memories."""
    third = world.m.plug_accelerator("dsa2")
    native = world.m.spawn("native")
    users = [(native, third)]
    for name, device in (("vm1", world.dsa), ("vm2", world.other)):
        vm, pf = world.guest(name, device)
        users.append((vm.spawn("app"), pf))
    assert [app.bind(device) for app, device in users] == [1, 1, 1]
    for at, (app, device) in enumerate(users):
        assert copies(app, device, b"bytes of %d" % at)
    assert world.m.check().ok
    world.m.vm("vm1").crash()
    assert copies(*users[0])
    assert copies(*users[2])
    assert world.m.check().ok


def test_the_guest_kernels_own_requests_reach_its_memory(world):
    """Without PASID, through the host table: guest-physical addresses."""
    vm, pf = world.guest("vm1", world.dsa)
    walk = world.m.translate(world.dsa.rid, None, 0x1000, "read", caches=False)
    assert [stop.name for stop in walk.stops] == ["device table entry"] + ["host entry"] * 4
    assert walk.address == vm.vmm.container.domain.table.find(0x1000)
    assert pf.name == "dsa0"


def test_the_nested_walk_takes_every_guest_address_through_the_host_table(world):
    """GCR3TRPMode: the GCR3 levels too. 2 GCR3 levels, 4 guest levels and the page: 7 walks of 4 host levels."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    app.bind(pf)
    walk = world.m.translate(world.dsa.rid, 1, app.buffer(TEXT), "read", caches=False)
    kinds = [stop.name for stop in walk.stops if stop.stage != "mark"]
    assert kinds.count("host entry") == 28
    assert kinds.count("GCR3 entry") == 2
    assert kinds.count("guest entry") == 4


def test_what_no_amd_machine_can_do_is_refused_with_its_reason(world):
    """ADIs, shared queues, policies, one PASID of a guest by itself."""
    vm, _ = world.guest("vm1", world.dsa)
    for call, errno, word in (
        (lambda: world.m.assign_adi(world.other, vm), "EOPNOTSUPP", "device table entry"),
        (lambda: world.m.create_vm("vm2", policy="translated"), "EOPNOTSUPP", "whole table"),
        (lambda: vm.vmm.bind_raw("dsa0", 5, 0x1000), "EOPNOTSUPP", "GCR3 table"),
    ):
        with pytest.raises(KernelError) as refused:
            call()
        assert refused.value.name == errno
        assert word in refused.value.reason
    assert world.m.check().ok


def test_a_unit_without_guest_translation_serves_no_process():
    """The machine works, without PASIDs: a bind is refused with its reason."""
    m = Machine(iommu="amdvi", identity=AmdIdentity(gt=False, giosup=False, gcr3trp=False))
    dsa = m.plug_accelerator("dsa0")
    with pytest.raises(KernelError) as refused:
        m.spawn("app").bind(dsa)
    assert refused.value.name == "ENODEV"
    assert "EFR.GT" in refused.value.reason
    assert m.check().ok


def test_a_machine_says_how_it_can_be_made_again():
    """The identity is part of the recorded line."""
    m = Machine(iommu="amdvi", identity=AmdIdentity(glx=1))
    call = next(event for event in m.timeline.events if event.verb is Verb.CALL)
    assert "AmdIdentity(glx=1)" in call.subject
    assert m.kernel.altitude == HOST


def test_time_can_be_travelled_through_a_whole_life(world):
    """Undone and redone, the digests are the same, and tables are what they were at every event."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    app.bind(pf)
    copies(app, pf)
    vm.crash()
    time = world.m.timeline
    digests = {}
    for at in range(time.now, time.floor, -7):
        time.go(at)
        digests[at] = time.digest()
        world.m.unit.entries(world.dsa.rid)
        world.m.kernel.iommu.device_entry(world.dsa.rid)
    for at in sorted(digests):
        time.go(at)
        assert time.digest() == digests[at]


def test_the_hosts_entry_names_the_guests_table(world):
    """What the guest wrote stands in the host's device table: the same root, another DomainID."""
    vm, _ = world.guest("vm1", world.dsa)
    host = DTE.decode(world.m.memory.load_words(world.m.kernel.iommu.device_entry(world.dsa.rid), 4))
    guest = DTE.decode(vm.kernel.platform.memory.load_words(vm.kernel.iommu.device_entry(0x18), 4))
    for name in ("GLX", "GCR3_A", "GCR3_B", "GCR3_C", "GPTMode", "GIOV", "PPR"):
        assert host[name] == guest[name], name
    assert (guest["Mode"], host["Mode"]) == (0, 4)
