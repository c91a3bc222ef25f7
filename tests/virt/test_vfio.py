"""VFIO: PASID requests, nesting operations, memory, and what a closed container leaves (facts 3.2, 3.3)."""

import pytest

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World


@pytest.fixture
def world():
    """Two VMs that are bound, and their containers."""
    world = TwoVms()
    world.c1, world.c2 = (vm.vmm.container for vm in (world.vm1, world.vm2))
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
    base = next(start for start, count in mm.areas.items() if count == size >> 12)
    assert mapped == {gpa: mm.physical(base + gpa) for gpa in range(0, size, 4096)}


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
