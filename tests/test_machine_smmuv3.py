"""A whole machine with an Arm SMMUv3: the same calls as on every other, natively and in guests, with bytes checked."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.smmu import CD, STE
from pasidlab.machine import Machine
from pasidlab.timeline import HOST, Verb

TEXT = b"moved by a device"


class World:
    """A machine with two accelerators."""

    def __init__(self, **options):
        self.m = Machine(iommu="smmuv3", **options)
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


# --- natively ---------------------------------------------------------------------------------------------------------


def test_a_native_process_lets_a_device_use_its_addresses(world):
    """Bind, copy, unbind: one context descriptor, written and cleared; nothing is left."""
    app = world.m.spawn("app")
    assert app.bind(world.dsa) == 1
    assert copies(app, world.dsa)
    found = [(entry.pasid, entry.kind, entry.layout) for entry in world.m.unit.entries(world.dsa.rid)]
    assert found == [(0, EntryKind.PASS_THROUGH, STE), (1, EntryKind.FIRST, CD)]
    assert world.m.check().ok
    app.unbind(world.dsa)
    assert [entry.pasid for entry in world.m.unit.entries(world.dsa.rid)] == [0]
    assert world.m.unit.caches.tlb.keys() == []
    assert world.m.check().ok


def test_two_processes_and_two_devices(world):
    """One PASID a process, on whatever device; ASIDs keep them apart."""
    first, second = world.m.spawn("first"), world.m.spawn("second")
    numbers = [app.bind(device) for app in (first, second) for device in (world.dsa, world.other)]
    assert numbers == [1, 1, 2, 2]
    assert all(copies(app, device) for app in (first, second) for device in (world.dsa, world.other))
    first.unbind(world.dsa)
    assert copies(first, world.other)
    assert world.m.check().ok


def test_a_process_dies_while_its_device_is_at_work(world):
    """Late DMA is blocked, and no line is logged of it: a quiet descriptor is left."""
    app = world.m.spawn("app")
    pasid = app.bind(world.dsa)
    at = app.buffer(TEXT)
    app.exit()
    fault = world.m.dma(world.dsa, pasid, at)
    assert fault.suppressed
    assert world.m.fault_log == []
    assert world.m.check().ok
    heir = world.m.spawn("heir")
    assert heir.bind(world.dsa) == pasid
    assert copies(heir, world.dsa)
    assert world.m.check().ok


def test_unmapped_pages_are_out_of_reach(world):
    """The device's TLB had them; the driver flushes before they are freed."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    at = app.buffer(TEXT)
    assert isinstance(world.m.dma(world.dsa, 1, at, tlb=True), int)
    app.free(at)
    with pytest.raises(KernelError):
        world.m.dma(world.dsa, 1, at, tlb=True)
    assert world.m.check().ok


def test_a_page_that_is_missing_is_asked_for(world):
    """PRI, served by the process's memory."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    src, dst = app.buffer(TEXT), app.buffer(len(TEXT), populate=False)
    lazy = app.process.mm.mmap(4096, populate=False)
    app.copy(world.dsa, src, lazy, len(TEXT), block_on_fault=True)
    assert app.read(lazy, len(TEXT)) == TEXT
    assert app.read(dst, 1) == b"\0"
    assert world.m.check().ok


def test_a_device_that_bears_it_is_held(world):
    """Without ATS and without asking: the unit holds the write until the page is there."""
    held = world.m.plug_accelerator("dsa2", ats=False, stall=True)
    app = world.m.spawn("app")
    app.bind(held)
    lazy = app.process.mm.mmap(4096, populate=False)
    app.copy(held, app.buffer(TEXT), lazy, len(TEXT))
    assert app.read(lazy, len(TEXT)) == TEXT
    assert world.m.fault_log == []
    assert world.m.pending == []
    assert world.m.check().ok


def test_a_held_access_to_nothing_ends(world):
    """The kernel finds no page: CMD_RESUME with an abort, and the descriptor ends with a page fault."""
    held = world.m.plug_accelerator("dsa2", ats=False, stall=True)
    app = world.m.spawn("app")
    app.bind(held)
    outcome = app.copy(held, app.buffer(TEXT), 0x5000, len(TEXT))
    assert "copied" not in str(outcome)
    assert world.m.unit.stalls.keys() == []
    assert world.m.check().ok


@pytest.mark.parametrize(
    ("iommu", "options", "identity", "name", "word"),
    [
        ("vtd", {"ats": False}, None, "EOPNOTSUPP", "SMMUv3"),
        ("amdvi", {"ats": False}, None, "EOPNOTSUPP", "SMMUv3"),
        ("smmuv3", {"ats": False}, SmmuIdentity(stall_model=1), "EOPNOTSUPP", "STALL_MODEL"),
        ("smmuv3", {"ats": True}, None, "EINVAL", "ats=False"),
    ],
)
def test_where_nothing_can_be_held(iommu, options, identity, name, word):
    """The reason, and the device is not plugged in."""
    m = Machine(iommu=iommu, identity=identity)
    with pytest.raises(KernelError) as error:
        m.plug_accelerator("dsa0", stall=True, **options)
    assert (error.value.name, word in error.value.reason) == (name, True)
    assert len(m.functions) == 0


def test_shared_queues_and_interfaces_are_refused_with_the_reason(world):
    """No ENQCMD on this processor, no default PASIDs on this unit, no PASID of a guest by itself."""
    app, vm = world.m.spawn("app"), world.m.create_vm("vm1", memory=1 << 20)
    for call in (
        lambda: app.bind(world.dsa, queue="shared"),
        lambda: world.m.assign_adi(world.dsa, vm),
        lambda: world.m.create_vm("vm2", policy="translated"),
    ):
        with pytest.raises(KernelError) as error:
            call()
        assert "docs/iommus.md" in error.value.reason
    assert world.m.check().ok


@pytest.mark.parametrize(
    ("step", "cache"), [("pasid-cache", "CD cache"), ("iotlb", "TLB"), ("device-tlb", "device TLB of dsa0")]
)
def test_a_forgotten_flush_is_found(world, step, cache):
    """The check names the cache that keeps what is gone."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    assert copies(app, world.dsa)
    world.m.dma(world.dsa, 1, app.buffer(TEXT))
    world.m.leave_out(step)
    app.unbind(world.dsa)
    report = world.m.check()
    assert not report.ok
    assert f"the {cache} holds" in str(report)


def test_a_forgotten_drain_is_found(world):
    """A page request waits for a PASID that nobody has."""
    app = world.m.spawn("app")
    app.bind(world.dsa)
    lazy = app.process.mm.mmap(4096, populate=False)
    app.submit(world.dsa, app.buffer(TEXT), lazy, len(TEXT), block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    world.m.leave_out("drain")
    world.m.kernel.iommu.clear_entry(world.dsa.rid, 1)
    assert len(world.m.unit.page_queue.requests()) == 1


def test_a_step_that_there_is_not_cannot_be_left_out(world):
    """-EINVAL, and the steps that there are."""
    with pytest.raises(KernelError) as error:
        world.m.leave_out("context-cache")
    assert "pasid-cache" in error.value.reason


UNITS = [
    {"oas": 52},
    {"oas": 44},
    {"oas": 40},
    {"oas": 36},
    {"asid16": False, "vmid16": False},
    {"ril": False},
    {"ats": False, "pri": False},
    {"pri": False},
    {"cd2l": False},
    {"ssidsize": 6},
    {"st_level": 0},
    {"stall_model": 1},
    {"stall_model": 2},
    {"stall_max": 1},
    {"gran16k": False, "gran64k": False},
    {"priqs": 0, "evtqs": 0, "cmdqs": 7},
    {"caches": False},
    {"sidsize": 24},
]


@pytest.mark.parametrize("fields", UNITS, ids=str)
def test_every_unit_that_can_be_driven_serves_a_process_and_a_guest(fields):
    """Whatever the unit lacks, both move their bytes, what is missing is brought, and all rules hold."""
    world = World(identity=SmmuIdentity(**fields))
    native = world.m.spawn("native")
    native.bind(world.other)
    vm, pf = world.guest("vm1", world.dsa)
    guest = vm.spawn("app")
    guest.bind(pf)
    for app, device in ((native, world.other), (guest, pf)):
        assert copies(app, device)
        at = app.buffer(TEXT)
        app.free(at)
    assert world.m.check().ok, world.m.check()
    world.m.dma(world.dsa, 1, 0x5000)
    world.m.dma(world.other, 1, 0x5000)
    guest.exit()
    vm.crash()
    native.exit()
    assert world.m.check().ok, world.m.check()


# --- guests -----------------------------------------------------------------------------------------------------------


def test_a_guests_process_lets_its_device_use_its_addresses(world):
    """The same calls; the table is the guest's, and the host has no IOASID for it."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    assert app.bind(pf) == 1
    assert copies(app, pf)
    assert len(world.m.kernel.ioasid.ids) == 0
    (entry,) = [entry for entry in world.m.unit.entries(world.dsa.rid) if entry.pasid]
    assert entry.kind is EntryKind.NESTED
    assert entry.guest_address == vm.kernel.iommu.tables[0x18].address(1)
    app.unbind(pf)
    assert [entry.pasid for entry in world.m.unit.entries(world.dsa.rid)] == [0]
    assert world.m.check().ok


def test_two_vms_have_the_same_pasid(world):
    """Two devices, two tables, two VMIDs; neither reaches the other's memory."""
    (vm1, pf1), (vm2, pf2) = world.guest("vm1", world.dsa), world.guest("vm2", world.other)
    app1, app2 = vm1.spawn("app"), vm2.spawn("app")
    assert app1.bind(pf1) == app2.bind(pf2) == 1
    assert copies(app1, pf1, b"of the first VM")
    assert copies(app2, pf2, b"of the second VM")
    tags = [entry.tag for rid in (world.dsa.rid, world.other.rid) for entry in world.m.unit.entries(rid) if entry.pasid]
    assert tags == [1, 2]
    app1.unbind(pf1)
    assert copies(app2, pf2)
    assert world.m.check().ok


def test_two_devices_of_one_vm_share_its_vmid(world):
    """One process on both, by one PASID and one ASID of the guest's own."""
    vm, pf1 = world.guest("vm1", world.dsa)
    pf2 = world.m.assign_pf(world.other, vm)
    app = vm.spawn("app")
    assert app.bind(pf1) == app.bind(pf2)
    assert copies(app, pf1)
    assert copies(app, pf2)
    app.unbind(pf1)
    assert copies(app, pf2)
    assert world.m.check().ok


def test_a_guests_exit_unmap_and_missing_pages(world):
    """What a native process may do, a guest's may."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    app.bind(pf)
    lazy = app.process.mm.mmap(4096, populate=False)
    app.copy(pf, app.buffer(TEXT), lazy, len(TEXT), block_on_fault=True)
    assert app.read(lazy, len(TEXT)) == TEXT
    at = app.buffer(TEXT)
    world.m.dma(world.dsa, 1, at, tlb=True)
    app.free(at)
    with pytest.raises(KernelError):
        world.m.dma(world.dsa, 1, at, tlb=True)
    app.exit()
    assert world.m.dma(world.dsa, 1, at).name in ("F_TRANSLATION", "C_BAD_CD")
    assert world.m.check().ok


def test_requests_without_pasid_stay_in_the_vms_memory(world):
    """Guest-physical addresses, with and without the guest's table."""
    vm, _ = world.guest("vm1", world.dsa)
    reached = world.m.dma(world.dsa, None, 0x3000)
    assert reached == vm.vmm.container.domain.table.find(0x3000)
    assert world.m.dma(world.dsa, None, 0x200_0000).name == "F_TRANSLATION"
    assert world.m.check().ok


@pytest.mark.parametrize("way", ["crash", "unbind first"])
def test_nothing_of_a_dead_vm_is_left(world, way):
    """Entries, TLB lines, lines of the device, page requests, VMID: all come back, and the next VM may have them."""
    for _ in range(2):
        vm, pf = world.guest("vm1", world.dsa)
        app = vm.spawn("app")
        app.bind(pf)
        assert copies(app, pf)
        if way == "unbind first":
            app.unbind(pf)
        vmid = vm.vmm.container.domain.did
        vm.crash()
        assert [entry.kind for entry in world.m.unit.entries(world.dsa.rid)] == [EntryKind.PASS_THROUGH]
        assert [key for key in world.m.unit.caches.tlb.keys() if key[0]] == []
        assert world.m.functions["dsa0"].tlb.lines.keys() == []
        assert world.m.kernel.iommu.page_requests.pending.keys() == []
        assert world.m.kernel.iommu.bound.keys() == []
        assert vmid not in world.m.kernel.iommu.domains
        assert world.m.check().ok
    native = world.m.spawn("native")
    native.bind(world.dsa)
    assert copies(native, world.dsa)


def test_a_vm_ends_while_its_device_waits_for_a_page(world):
    """The page request is answered, and nobody waits on."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    app.bind(pf)
    lazy = app.process.mm.mmap(4096, populate=False)
    app.submit(pf, app.buffer(TEXT), lazy, len(TEXT), block_on_fault=True)
    world.m.run(world.m.pending[0].number)
    vm.crash()
    assert world.m.kernel.iommu.page_requests.pending.keys() == []
    assert world.m.unit.page_queue.requests() == []
    assert world.m.check().ok


def test_the_host_is_asked_nothing_when_a_guest_binds(world):
    """Commands are trapped and carried out; no bind, no allocation, no notification (T11)."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    begin = world.m.timeline.now
    app.bind(pf)
    verbs = {event.verb for event in world.m.timeline.events[begin:] if event.altitude == HOST}
    assert verbs == {Verb.TRAP, Verb.IOCTL}
    assert world.m.kernel.ioasid.sets.find_mm(vm.vmm.process.mm).ids.keys() == []


def test_time_goes_back_and_forth_over_all_of_it(world):
    """Undo restores what silicon reads; the same actions give the same digest."""
    vm, pf = world.guest("vm1", world.dsa)
    app = vm.spawn("app")
    before = world.m.timeline.now
    digest = world.m.timeline.digest()
    app.bind(pf)
    copies(app, pf)
    after = world.m.timeline.now
    later = world.m.timeline.digest()
    world.m.timeline.go(before)
    assert world.m.timeline.digest() == digest
    world.m.timeline.go(after)
    assert world.m.timeline.digest() == later
