"""The hypervisor process: what it opens comes back when it dies, in whatever state it is (facts 2.5)."""

from typing import Any

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World, vtd_of


def resources(world):
    """What the host has given away."""
    kernel = world.m.kernel
    return {
        "frames": kernel.pages.used,
        "sets": [known.name for known in kernel.ioasid.sets.values()],
        "available": kernel.ioasid.capacity.available,
        "ids": {number: record.holders for number, record in kernel.ioasid.ids.items()},
        "domains": kernel.iommu.domains.keys(),
        "processes": [process.name for process in kernel.processes.values()],
        "clients": [queue.clients.keys() for queue in kernel.accelerators["dsa0"].queues.values()],
        "subscribers": [one.notifier_name for one in kernel.ioasid.notifiers.global_chain.subscribers()],
        "waiting": kernel.ioasid.notifiers.registrations(),
        "queued": kernel.ioasid.work.waiting(),
        "present": {rid: table.present() for rid, table in vtd_of(kernel).tables.items()},
        "queues": [world.m.accelerators["dsa0"].wq_words(wq) for wq in range(6)],
        "work": [action.label for action in world.m.pending],
    }


def idle(world, vm):
    """A VM that did nothing."""


def bound(world, vm):
    """Processes bound on every device."""
    for adi in vm.devices:
        app = vm.spawn(f"on-{adi.name}")
        app.bind(adi)
        app.copy(adi, app.buffer(b"x"), app.buffer(1), 1)


def busy(world, vm):
    """Work waits in the device."""
    bound(world, vm)
    for app, adi in zip(vm.apps, vm.devices, strict=True):
        app.submit(adi, app.buffer(b"x" * 5000), app.buffer(5000), 5000)


def careless(world, vm):
    """PASIDs were freed while bound; the clean-up waits."""
    busy(world, vm)
    for pasid in list(vm.pasids):
        vm.free_pasid(pasid)


def half_cleaned(world, vm):
    """One part of the clean-up ran."""
    careless(world, vm)
    world.m.run(world.m.pending[-1].number)


def hostile(world, vm):
    """Bound many times over by hand, and entries for numbers that were never given."""
    bound(world, vm)
    for host_pasid in vm.pasids.values():
        for adi in vm.devices:
            vm.bind_raw(adi, host_pasid, vm.apps[0])


@pytest.mark.parametrize("life", [idle, bound, busy, careless, half_cleaned, hostile])
@pytest.mark.parametrize("queues", [("shared",), ("dedicated",), ("shared", "dedicated")], ids="+".join)
def test_a_crash_returns_everything(life, queues):
    """Set, quota, domain, default PASID, KVM's tables, queues, subscribers, queued work, and every host frame."""
    world = World()
    world.vm("first", *queues).crash()  # the leaf table of the first PASIDs stays, for whoever comes next
    before = resources(world)
    vm = world.vm("vm1", *queues, quota=5)
    life(world, vm)
    assert world.m.check().ok
    assert resources(world) != before
    vm.crash()
    assert resources(world) == before
    assert world.m.check().ok
    assert not vm.running


@pytest.mark.parametrize("life", [idle, bound, careless])
def test_a_crash_leaves_the_neighbour_alone(life):
    """Another VM's entries, memory and work go on."""
    world = TwoVms()
    vm = world.vm("vm3", "shared", "dedicated")
    life(world, vm)
    entry = world.entry(world.h2)
    vm.crash()
    assert world.entry(world.h2) == entry
    dst = world.app2.buffer(5)
    assert world.app2.copy(world.adi2, world.app2.buffer(b"alive"), dst, 5).ok
    assert world.app2.read(dst, 5) == b"alive"


def test_nothing_of_a_dead_vm_is_left_in_the_state():
    """The digest knows nothing of it but the journal of the invalidation queue and of the devices' registers."""
    world = World()
    world.vm("vm1", "shared").crash()
    position = world.time.journal.position
    world.vm("vm1", "shared").crash()
    changed: dict[Any, Any] = {}
    for cells, key, old, new in world.time.journal.changes(position):
        changed[cells.path, key] = (changed.get((cells.path, key), (old,))[0], new)
    left = {path for (path, key), (old, new) in changed.items() if old != new}
    assert left <= {"host.iommu.queue", "iommu-unit.registers", "memory", "dsa0.bar0"}
    queue = vtd_of(world.m.kernel).queue
    ring, status = queue._ring, queue._status
    words = {key & ~0xFFF for (path, key), (old, new) in changed.items() if path == "memory" and old != new}
    assert words <= {ring, status}


def test_a_function_is_reset_before_the_tables_behind_it_change():
    """Whatever the guest left running in it must not reach the host's memory without translation."""
    world = World()
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.dsa, vm)
    app = vm.spawn("app")
    app.bind(pf)
    app.submit(pf, app.buffer(b"late"), app.buffer(4), 4)
    begin = world.time.now
    vm.crash()
    events = world.since(begin)
    reset = next(
        event.number for event in events if event.verb is Verb.COMMAND and "function-level reset" in event.subject
    )
    detached = next(event.number for event in events if event.verb is Verb.CLEAR_ENTRY and event.actor == "iommu")
    assert reset < detached
    assert not any(event.verb is Verb.DMA for event in events)
    assert PASID_ENTRY["PGTT"].get(world.entry(0)) == 4
    assert world.m.pending == []


def test_kvm_is_the_first_to_let_go():
    """File descriptors close: no new work before the rest is torn down, the container last."""
    world = TwoVms("dedicated")
    begin = world.time.now
    world.vm1.crash()
    closed = [event.actor for event in world.since(begin) if event.verb is Verb.CLOSE]
    assert closed == ["kvm", "vdcm", "vfio"]


def test_a_vm_can_come_back_under_its_name():
    """Nothing of the first life is in the way of the second."""
    world = World()
    for _ in range(3):
        vm = world.vm("vm1", "shared", "dedicated")
        bound(world, vm)
        assert vm.pasids.keys() == {1, 2}
        vm.crash()
    assert world.m.check().ok


def test_a_vm_that_does_not_fit_is_enomem_and_leaves_nothing():
    """Memory ends while it is pinned, while the domain is built, while the guest boots: the host is as it was."""
    world = World(memory=4 << 20)
    before, state = resources(world), world.time.digest()
    fits = []
    for spare in range(16):
        try:
            world.m.create_vm("vm1", memory=world.m.kernel.pages.available - spare << 12).crash()
            fits.append("fits")
        except KernelError as error:
            fits.append(error.name)
            if world.time.digest() != state:
                pytest.fail(f"with {spare} pages to spare something is left")
        assert resources(world) == before
    assert fits == sorted(fits)
    assert 5 < fits.count("ENOMEM") < 16


@pytest.mark.parametrize(("policy", "allowed"), [(None, True), ("identity", True), ("translated", False)])
def test_a_function_needs_the_hosts_numbers(policy, allowed):
    """An unmediated function puts the guest's numbers on the wire: -EPERM unless they are the host's."""
    world = World()
    vm = world.m.create_vm("vm1", policy=policy)
    if allowed:
        world.m.assign_pf(world.dsa, vm)
        assert vm.vmm.policy == "identity"
    else:
        assert world.refused(world.m.assign_pf, world.dsa, vm).name == "EPERM"
        assert world.m.owner_of(world.dsa) is None


def test_the_first_device_decides_the_policy():
    """An interface makes the VM a translated one, which then gets no function."""
    world = World()
    world.m.plug_accelerator("dsa1")
    vm = world.vm("vm1", "shared")
    assert vm.vmm.policy == "translated"
    assert world.refused(world.m.assign_pf, world.m.device("dsa1"), vm).name == "EPERM"


def test_a_vm_that_stopped_its_functions_page_requests_does_not_stop_those_of_the_next_owner():
    """A response failure is the function's error until it is reset: the host's processes get their pages again."""
    world = World()
    vm = world.vm("vm1", policy="identity")
    world.m.assign_pf(world.dsa, vm)
    world.dsa.hardware.config.flag_page_request("RF")
    assert world.dsa.hardware.config.page_requests == 0
    vm.crash()
    app = world.m.spawn("app")
    app.bind(world.dsa)
    src, dst = app.buffer(b"x" * 64), app.buffer(4096, populate=False)
    assert app.copy(world.dsa, src, dst, 64, block_on_fault=True).ok


@pytest.mark.parametrize("pasid", [0, None])
def test_what_is_left_in_a_functions_tlb_reaches_nobody(pasid):
    """VFIO resets the function when it is opened and when it is closed: the host's lines go, and the VM's."""
    world = World()
    world.m.dma(world.dsa, pasid, 0x3000, tlb=True)
    lines = world.dsa.hardware.tlb.lines
    assert len(lines) == 1, "the host's own"
    vm = world.vm("vm1", policy="identity")
    world.m.assign_pf(world.dsa, vm)
    assert len(lines) == 0
    assert world.m.check().ok, world.m.check()
    world.m.dma(world.dsa, pasid, 0x3000, tlb=True)
    assert len(lines) == 1, "the VM's"
    vm.crash()
    assert len(lines) == 0
    assert world.m.check().ok, world.m.check()
