"""VFIO: PASID requests, nesting operations, memory, and what a closed container leaves (facts 3.2, 3.3)."""

import pytest

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.uapi import HPASID_DEF, GuestPasidBind
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World


@pytest.fixture
def world():
    """Two VMs that are bound, and their containers."""
    world = TwoVms()
    world.c1, world.c2 = (vm.vmm.container for vm in (world.vm1, world.vm2))
    areas, size = world.vm1.vmm.process.mm.areas, world.vm1.vmm.memory.size
    world.base = next(start for start, area in areas.items() if area.pages == size >> 12)
    return world


# --- VFIO_IOMMU_PASID_REQUEST -------------------------------------------------------------------------------------


def test_an_allocation_is_inclusive_at_both_ends(world):
    """The range is the caller's."""
    assert world.c1.pasid_alloc(500, 500) == 500
    assert world.refused(world.c1.pasid_alloc, 500, 500).name == "ENOSPC"


@pytest.mark.parametrize("call", ["pasid_alloc", "pasid_free"])
def test_a_range_that_is_upside_down_is_einval(world, call):
    """min > max."""
    assert world.refused(getattr(world.c1, call), 6, 5).name == "EINVAL"


def test_the_quota_is_enospc(world):
    """Core failures of any kind arrive as -ENOSPC, with the reason in words."""
    small = world.vm("vm3", quota=2).vmm.container
    small.pasid_alloc(1, 1000), small.pasid_alloc(1, 1000)
    error = world.refused(small.pasid_alloc, 1, 1000)
    assert (error.name, "vm3 has used its quota of 2 PASIDs" in error.reason) == ("ENOSPC", True)


def test_free_takes_every_own_pasid_in_the_range_and_no_other(world):
    """The whole space: mine go, yours stay; that there was nothing to free is no error."""
    mine = [world.c1.pasid_alloc(100, 200) for _ in range(3)]
    yours = world.c2.pasid_alloc(100, 200)
    world.c1.pasid_free(101, 200)
    assert [pasid in world.core.ids for pasid in (*mine, yours)] == [True, False, False, True]
    begin = world.time.digest()
    world.c1.pasid_free(100000, 200000)
    assert world.time.digest() == begin


def test_a_freed_pasid_that_is_in_use_is_cleaned_up_later(world):
    """Free always succeeds; the number stays charged until its users let go."""
    world.c1.pasid_free(world.h1, world.h1)
    assert world.core.ids[world.h1].free_pending
    assert world.c1.set.count == 1
    world.m.run()
    assert world.c1.set.count == 0


# --- VFIO_IOMMU_NESTING_OP ----------------------------------------------------------------------------------------


def test_a_bind_nests_the_guests_table_over_the_containers_domain(world):
    """The entry of the parent's table, at the host's number."""
    entry = world.entry(world.h1)
    assert PASID_ENTRY["PGTT"].get(entry) == 3
    assert PASID_ENTRY["SLPTPTR"].get(entry) == world.c1.domain.table.root
    assert PASID_ENTRY["FLPTPTR"].get(entry) == world.app1.process.mm.root


def test_the_bind_data_may_come_as_the_bytes_that_user_space_passes(world):
    """The ioctl's structure: what it says is what the record says."""
    number = world.vm1.request_pasid()
    world.c1.bind_pgtbl("adi0", GuestPasidBind(number, 0x6000, 7).to_bytes())
    assert PASID_ENTRY["FLPTPTR"].get(world.entry(number)) == 0x6000
    assert world.vm1.vmm.kvm.entry(7) == number


@pytest.mark.parametrize(
    ("data", "errno", "word"),
    [
        (bytes(55), "EFAULT", "readable"),
        (GuestPasidBind(argsz=55).to_bytes(), "EINVAL", "argsz"),
        (GuestPasidBind(version=2), "EINVAL", "version"),
        (GuestPasidBind(format=9), "EINVAL", "format"),
        (GuestPasidBind(flags=8), "EINVAL", "flags"),
        (GuestPasidBind(padding=1), "EINVAL", "padding"),
    ],
)
def test_the_generic_layer_refuses_before_the_driver_looks(world, data, errno, word):
    """Host PASID 0, which the driver would refuse, is not reached."""
    error = world.refused(world.c1.bind_pgtbl, "adi0", data)
    assert (error.name, word in error.reason) == (errno, True)


def test_without_nested_translation_nesting_operations_are_eopnotsupp(world):
    """There is no nesting information: bind and unbind are refused before their data is looked at."""
    driver = world.m.kernel.iommu
    vars(driver)["unit"] = driver.unit._replace(nesting=False)
    for call, data in ((world.c1.bind_pgtbl, GuestPasidBind(version=2)), (world.c1.unbind_pgtbl, world.h1)):
        assert world.refused(call, "adi0", data).name == "EOPNOTSUPP"


def test_the_default_pasid_is_bound_by_its_flag(world):
    """DMA with the VM's default PASID goes through the guest's page table, and after unbind nowhere."""
    default, virtual = world.c1.domain.default_pasid, world.app1.buffer(b"nested")
    world.c1.bind_pgtbl("adi0", GuestPasidBind(gpgd=world.app1.process.mm.root, flags=HPASID_DEF))
    assert world.m.check().ok, world.m.check()
    walk = world.m.translate(world.dsa.rid, pasid=default, address=virtual)
    assert walk.address == world.vm1.vmm.process.mm.physical(world.base + world.app1.process.mm.physical(virtual))
    world.c1.unbind_pgtbl("adi0", GuestPasidBind(flags=HPASID_DEF))
    assert world.m.check().ok, world.m.check()
    assert world.m.translate(world.dsa.rid, pasid=default, address=virtual).fault is not None
    world.vm1.crash()
    assert world.m.check().ok, world.m.check()


def test_a_vm_that_dies_with_its_default_pasid_bound_leaves_nothing(world):
    """The driver's reference is dropped by the clean-up that the free queues."""
    default = world.c1.domain.default_pasid
    world.c1.bind_pgtbl("adi0", GuestPasidBind(gpgd=world.app1.process.mm.root, flags=HPASID_DEF))
    world.vm1.crash()
    world.m.run()
    assert default not in world.core.ids
    assert world.m.check().ok, world.m.check()


def test_unbinding_by_data_needs_the_common_part_only(world):
    """The VT-d part is not looked at; what the generic layer refuses is ignored and told."""
    begin = world.time.now
    world.c1.unbind_pgtbl("adi0", GuestPasidBind(world.h1, version=3))
    assert [event.after for event in world.since(begin) if event.verb is Verb.IGNORE] == ["-EINVAL"]
    assert PASID_ENTRY["P"].get(world.entry(world.h1))
    world.c1.unbind_pgtbl("adi0", GuestPasidBind(world.h1, argsz=56, vtd_flags=1 << 20))
    assert not PASID_ENTRY["P"].get(world.entry(world.h1))


def test_a_container_cannot_bind_anothers_pasid(world):
    """Ownership is checked by set: -EACCES, and the other VM's entry is as it was."""
    before = world.entry(world.h2)
    error = world.refused(world.c1.bind_pgtbl, "adi0", GuestPasidBind(world.h2, 0x6000, 7))
    assert error.name == "EACCES"
    assert world.entry(world.h2) == before


def test_a_container_cannot_unbind_or_free_anothers_pasid(world):
    """Errors of an unbind are ignored, and told: -EACCES; free leaves a foreign number alone."""
    begin = world.time.now
    world.c1.unbind_pgtbl("adi0", world.h2)
    assert [event.after for event in world.since(begin) if event.verb is Verb.IGNORE] == ["-EACCES"]
    world.c1.pasid_free(world.h2, world.h2)
    assert world.app2.copy(world.adi2, world.app2.buffer(b"x"), world.app2.buffer(1), 1).ok


def test_a_device_of_another_container_is_enodev(world):
    """Devices are named within the container."""
    assert world.refused(world.c1.bind_pgtbl, "adi1", GuestPasidBind(world.h1, 0x6000)).name == "ENODEV"
    assert world.refused(world.c1.unbind_pgtbl, "adi1", world.h1).name == "ENODEV"


def test_each_request_is_an_ioctl_with_what_it_causes_below(world):
    """ioctl -> core -> notification: a tree."""
    begin = world.time.now
    world.c1.pasid_free(world.h1, world.h1)
    ioctl = world.time.events[begin]
    assert (ioctl.verb, ioctl.actor) == (Verb.IOCTL, "vfio")
    free = next(event for event in world.since(begin) if event.verb is Verb.FREE)
    assert free.cause == ioctl.number


def test_a_cache_invalidation_reaches_the_unit_with_host_numbers(world):
    """The guest's domain id and PASID are replaced by the host's."""
    begin = world.time.now
    world.c1.cache_invalidate(world.h1)
    told = next(event for event in world.since(begin) if event.verb is Verb.INVALIDATE)
    assert (told.fact("pasid"), told.fact("did")) == (world.h1, world.c1.domain.did)


# --- memory and the end -------------------------------------------------------------------------------------------


def test_the_domain_maps_exactly_the_guests_memory(world):
    """Every guest-physical page, to the frame behind the hypervisor's mapping, and nothing else."""
    mm, size = world.vm1.vmm.process.mm, world.vm1.vmm.memory.size
    mapped = {mapping.virtual: mapping.physical for mapping in world.c1.domain.table.mappings()}
    assert mapped == {gpa: mm.physical(world.base + gpa) for gpa in range(0, size, 4096)}


@pytest.mark.parametrize("mapping", [(1, 0, 4096), (0, 1, 4096), (0, 0, 100)])
def test_a_mapping_that_is_not_whole_pages_is_einval(world, mapping):
    """iova, address and size."""
    assert world.refused(world.c1.map_dma, *mapping).name == "EINVAL"


def test_a_closed_container_returns_set_quota_domain_and_default_pasid():
    """Everything that was opened with it."""
    world = World()
    available, frames, domains = (
        world.core.capacity.available,
        world.m.kernel.pages.used,
        len(world.m.kernel.iommu.domains),
    )
    vm = world.vm("vm1", "shared", quota=50)
    app = vm.spawn("app")
    app.bind(vm.devices[0])
    assert world.core.capacity.available == available - 50
    vm.crash()
    assert (world.core.capacity.available, len(world.m.kernel.iommu.domains), world.core.ids.keys()) == (
        available,
        domains,
        [],
    )
    assert world.m.kernel.pages.used == frames
