"""What careless, unlucky or hostile users can do, and what must come of it: each case once broke the model."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import pytest

from pasidlab import KernelError, Machine
from pasidlab.handles import App, AssignedDevice, PhysicalFunction, VirtualMachine
from pasidlab.hardware.iommu.vtd.register_file import BASE as IOMMU_BASE
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import QI_CONTEXT_CACHE
from pasidlab.kernel.iommu.vtd import entries
from tests.worlds import vtd_of


class Bench(NamedTuple):
    """One machine, one VM, one interface, one process."""

    m: Machine
    dsa: PhysicalFunction
    vm: VirtualMachine
    adi: AssignedDevice
    app: App


def bench(queue: str = "shared") -> Bench:
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1")
    adi = m.assign_adi(dsa, vm, queue=queue)
    return Bench(m, dsa, vm, adi, vm.spawn("app"))


def rules(m: Machine) -> set[int]:
    """The numbers of the violated invariants."""
    return {violation.rule.number for violation in m.check().violations}


def test_a_dedicated_queue_takes_work_only_of_the_process_that_opened_it() -> None:
    """MOVDIR64B carries no PASID of its sender, so another process's portal must not be reachable."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0", shared=0, dedicated=1)
    vm = m.create_vm("vm1")
    adi = m.assign_adi(dsa, vm, queue="dedicated")
    victim = vm.spawn("victim")
    victim.bind(adi)
    src, dst = victim.buffer(b"SECRET"), victim.buffer(6)
    for thief in (m.spawn("native"), vm.spawn("neighbour")):
        with pytest.raises(KernelError, match="EFAULT"):
            thief.copy(dsa if thief.altitude == "host" else adi, src, dst, 6)
    assert victim.read(dst, 6) == bytes(6)


def test_the_hypervisor_process_cannot_be_ended_by_name() -> None:
    """Killing a hypervisor is `vm.crash()`; its process is not among the host's own."""
    b = bench()
    with pytest.raises(KernelError, match="ESRCH"):
        b.m.app("vmm-vm1")


def test_check_sees_a_function_that_passes_through() -> None:
    """A function in a VM whose requests without PASID are not bounded by its memory violates rules 1 and 11."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    owner, victim = m.create_vm("vm1"), m.create_vm("vm2")
    m.assign_pf(dsa, owner)
    driver = vtd_of(m.kernel)
    driver.clear_entry(dsa.rid, 0)
    driver.set_entry(dsa.rid, 0, entries.pass_through(driver.unit, supervisor=True), "a bug")
    app = victim.spawn("app")
    secret = app.process.mm.physical(app.buffer(b"SECRET"))
    m.dma(dsa, None, victim.vmm.process.mm.physical(victim.vmm.process.mm.areas.keys()[-1] + secret), "write")
    assert rules(m) == {1, 11}


def test_check_sees_a_mediated_queue_without_pasid() -> None:
    """A mediated device's hardware queue that sends PASID 0 would use the function's own entry: rule 8."""
    b = bench("dedicated")
    mdev = b.vm.vmm.mdevs[b.adi.name]
    mdev.parent.enable_for(mdev.queue.index, 0)
    assert rules(b.m) == {8}


def test_check_sees_a_present_entry_of_an_unbound_pasid() -> None:
    """An entry is a use, even if no driver record knows of it: rule 3."""
    b = bench()
    b.vm.kernel.ioasid.allocators.active.alloc(1, 9)
    domain = b.vm.vmm.container.domain
    driver = vtd_of(b.m.kernel)
    words = entries.second_level(domain, driver.unit, supervisor=True)
    driver.set_entry(b.dsa.rid, b.vm.pasids[1], words, "a bug")
    assert rules(b.m) == {3}


def test_a_guest_may_program_any_number_into_its_own_function() -> None:
    """A whole function is unmediated, its table protects the others: no invariant breaks and nothing is reached."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1")
    m.assign_pf(dsa, vm)
    driver = vm.kernel.accelerators["dsa0"]
    queue = next(queue for queue in driver.queues.values() if queue.dedicated)
    driver.enable_for(queue.index, 777)
    assert m.check().ok
    assert m.translate(dsa.rid, pasid=777, address=0x1000).fault is not None


def test_a_guest_cannot_hang_the_invalidation_queue() -> None:
    """Changing the descriptor width under way leaves a head that fits no descriptor: the queue stops with an error."""
    b = bench()
    memory, mmio = b.vm.vmm.memory, b.vm.vmm.mmio
    for index in range(257):
        memory.store_words(0x100000 + 16 * index, QI_CONTEXT_CACHE.encode(TYPE=1, G=1) if index % 2 else (0, 0))
    mmio.write(IOMMU_BASE + 0x90, 0x100000 | 1 << 11)
    mmio.write(IOMMU_BASE + 0x88, 0)
    assert FSTS_REG["IQE"].get((mmio.read(IOMMU_BASE + 0x34, 4),)) == 1


def test_a_guest_with_numbers_of_its_own_cannot_become_an_identity_guest() -> None:
    """PASIDs handed out before the first device fix the numbering: a physical function is refused."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1")
    vm.kernel.ioasid.alloc(vm.kernel.host_set, 1, 9, "test")
    with pytest.raises(KernelError, match="EBUSY"):
        m.assign_pf(dsa, vm)
    assert m.check().ok


def test_refused_administration_leaves_nothing_behind() -> None:
    """Out of memory in the middle of an assignment: the world is as it was before the call."""
    m = Machine()
    vm = m.create_vm("vm1", memory=1 << 20)
    functions = [m.plug_accelerator(f"dsa{number}") for number in range(3)]
    for number in range(7):
        m.assign_adi(functions[number % 3], vm)
    before = m.timeline.digest()
    with pytest.raises(KernelError, match="ENOMEM"):
        m.assign_adi(functions[1], vm)
    assert m.timeline.digest() == before
    assert m.check().ok


def test_a_host_without_memory_refuses_a_device_whole() -> None:
    """A function that does not fit is not half plugged in."""
    m = Machine(memory=2 << 20)
    for number in range(14):
        m.plug_accelerator(f"dsa{number}")
    with pytest.raises(KernelError, match="ENOMEM"):
        m.plug_accelerator("dsa14")
    assert m.check().ok


def test_work_for_a_dead_pasid_does_not_stop_its_successor() -> None:
    """FREE queued work for a PASID; the guest stopped the queue itself first: the device's part of the work is void."""
    b = bench("dedicated")
    b.app.bind(b.adi)
    b.vm.free_pasid(1)
    assert "VDCM" in b.m.pending[0].label
    b.app.unbind(b.adi)
    assert ["IOMMU" in action.label for action in b.m.pending] == [True]
    b.m.run()
    b.app.bind(b.adi)
    src, dst = b.app.buffer(b"alive"), b.app.buffer(5)
    assert b.app.copy(b.adi, src, dst, 5).ok
    assert b.app.read(dst, 5) == b"alive"


def test_a_number_freed_and_given_again_is_bound_again() -> None:
    """FREE without unbind, then the same guest number again: the flush binds it, though the entry did not change."""
    b = bench()
    b.app.bind(b.adi)
    b.vm.free_pasid(1)
    b.m.run()
    kernel = b.vm.kernel
    assert kernel.ioasid.allocators.active.alloc(1, 9) == 1
    queue = vtd_of(kernel).queue
    queue.submit(queue.pasid_cache(1, 1))
    assert b.m.kernel.svm.binding_of(b.vm.pasids[1]) is not None
    assert b.m.check().ok


def test_a_mediated_device_resets_like_the_silicon() -> None:
    """RESET_DEVICE puts the virtual WQCFG back to its power-on values: the guest's PASID is gone from it."""
    b = bench("dedicated")
    b.app.bind(b.adi)
    mdev = b.vm.vmm.mdevs[b.adi.name]
    assert WQCFG["pasid"].get(mdev.wqcfg(0)) == 1
    b.vm.kernel.accelerators[b.adi.name].reset()
    assert WQCFG["pasid"].get(mdev.wqcfg(0)) == 0
    assert mdev.programmed is None
    assert b.m.check().ok


def test_a_copy_runs_its_own_work_only() -> None:
    """What another VM has submitted goes on waiting."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    vms = [m.create_vm("vm1"), m.create_vm("vm2")]
    devices = [m.assign_adi(dsa, vm) for vm in vms]
    apps = [vm.spawn("app") for vm in vms]
    for app, device in zip(apps, devices, strict=True):
        app.bind(device)
    waiting = apps[1].submit(devices[1], apps[1].buffer(8), apps[1].buffer(8), 8)
    assert apps[0].copy(devices[0], apps[0].buffer(8), apps[0].buffer(8), 8).ok
    assert waiting.poll() is None
    assert len(m.pending) == 1


def test_acting_in_the_past_outside_an_operation_starts_a_new_future() -> None:
    """An event in the past drops the undone ones, whoever emits it."""
    m = Machine()
    m.plug_accelerator("dsa0")
    m.timeline.go(m.timeline.floor)
    m.kernel.spawn("native")
    assert m.timeline.now == m.timeline.last
    assert m.check().ok


def test_a_store_after_the_last_event_is_not_lost_by_travelling() -> None:
    """Changes that no event followed belong to the last step."""
    m = Machine()
    m.memory.store(0x100000, 7)
    now = m.timeline.now
    m.plug_accelerator("dsa0")
    m.timeline.go(now)
    assert m.memory.load(0x100000) == 7


@pytest.mark.parametrize("arguments", [(1 << 64, 0x1000, 8), (0x1000, -1, 8), (0x1000, 0x2000, 1 << 32)])
def test_addresses_and_sizes_that_no_descriptor_can_hold_are_refused(arguments: tuple[int, int, int]) -> None:
    """-EINVAL, before anything is submitted."""
    b = bench()
    b.app.bind(b.adi)
    with pytest.raises(KernelError, match="EINVAL"):
        b.app.copy(b.adi, *arguments)


def test_cpu_and_device_agree_on_addresses_that_are_not_canonical() -> None:
    """The process gets -EFAULT where the device gets fault 0x80."""
    m = Machine()
    dsa, app = m.plug_accelerator("dsa0"), m.spawn("app")
    pasid, at = app.bind(dsa), app.buffer(8) + (1 << 48)
    with pytest.raises(KernelError, match="EFAULT"):
        app.read(at, 8)
    fault = m.translate(dsa.rid, pasid=pasid, address=at).fault
    assert fault is not None
    assert fault.code == 0x80


def test_a_device_that_leaves_takes_its_bindings_with_it() -> None:
    """Hot-unplug in the guest: the process is unbound first, and exits cleanly afterwards."""
    b = bench()
    b.app.bind(b.adi)
    b.vm.kernel.remove(b.adi.name)
    assert b.vm.pasids == {}
    b.app.exit()
    assert b.m.check().ok


@pytest.mark.parametrize("quota", [1.5, True, "5", None])
def test_a_quota_that_is_no_number_of_pasids_is_refused(quota: object) -> None:
    """-EINVAL, and the machine's digest is as before."""
    m = Machine()
    before = m.timeline.digest()
    with pytest.raises(KernelError, match="EINVAL"):
        cast("Any", m).create_vm("vm1", quota=quota)
    assert m.timeline.digest() == before
