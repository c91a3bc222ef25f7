"""Shared Virtual Addressing on the host itself: one PASID a process, shared by its devices, until the last unbind."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.timeline import Verb
from tests.worlds import World, references


@pytest.fixture
def world():
    """A machine with two accelerators."""
    world = World()
    world.second = world.m.plug_accelerator("dsa1")
    return world


def test_the_device_uses_the_processes_own_page_table(world):
    """A first-level entry whose pointer is the process's root: what CR3 holds."""
    app = world.m.spawn("app")
    pasid = app.bind(world.dsa)
    entry = world.entry(pasid)
    assert PASID_ENTRY["PGTT"].get(entry) == PGTT.FIRST
    assert PASID_ENTRY["FLPTPTR"].get(entry) == app.process.mm.root


def test_device_and_cpu_reach_the_same_byte_through_the_same_tables(world):
    """The walk of the unit and the walk of the CPU end at one physical address."""
    app = world.m.spawn("app")
    pasid, at = app.bind(world.dsa), app.buffer(b"x" * 9000)
    for address in (at, at + 4096, at + 8999):
        walk = world.m.translate(world.dsa.rid, pasid=pasid, address=address)
        assert walk.address == app.process.mm.physical(address)


def test_a_process_has_one_pasid_for_all_its_devices(world):
    """The second device gets an entry with the same number; references are those of one binding."""
    app = world.m.spawn("app")
    pasid = app.bind(world.dsa)
    assert app.bind(world.second) == pasid
    assert world.entry(pasid, world.second.rid) == world.entry(pasid)
    assert world.core.ids[pasid].holders == ("sva", "iommu")
    app.unbind(world.dsa)
    assert app.pasid == pasid
    assert app.copy(world.second, app.buffer(b"still"), app.buffer(5), 5).ok
    app.unbind(world.second)
    assert (app.pasid, pasid in world.core.ids) == (None, False)


def test_two_processes_have_different_pasids_and_different_memory(world):
    """What one copies lands in its own memory, at equal virtual addresses."""
    one, other = world.m.spawn("one"), world.m.spawn("other")
    assert one.bind(world.dsa) != other.bind(world.dsa)
    for app, text in ((one, b"one's"), (other, b"other")):
        app.src, app.dst = app.buffer(text), app.buffer(5)
    assert (one.src, one.dst) == (other.src, other.dst)
    assert one.copy(world.dsa, one.src, one.dst, 5).ok
    assert (one.read(one.dst, 5), other.read(other.dst, 5)) == (b"one's", bytes(5))


def test_the_references_of_a_native_life(world):
    """Allocator and IOMMU driver; stop, unbind, free (facts 2.3)."""
    app = world.m.spawn("app")
    pasid = app.bind(world.dsa)
    app.unbind(world.dsa)
    assert references(world.time.events, pasid) == [
        ("alloc", None, 1),
        ("get", "iommu", 2),
        ("put", "iommu", 1),
        ("put", "sva", 0),
        ("reclaim", None, 0),
    ]


def test_ia32_pasid_is_valid_from_bind_to_last_unbind(world):
    """The register is part of the process's state; the CPU loads it when the process runs."""
    app = world.m.spawn("app")
    assert app.process.ia32_pasid == 0
    pasid = app.bind(world.dsa)
    assert app.process.ia32_pasid == 1 << 31 | pasid
    app.copy(world.dsa, app.buffer(b"x"), app.buffer(1), 1)
    assert world.m.cpu.ia32_pasid == 1 << 31 | pasid
    app.unbind(world.dsa)
    assert app.process.ia32_pasid == 0


def test_the_processor_is_loaded_with_the_state_of_whoever_runs(world):
    """Two processes take turns: each ENQCMD carries its own PASID."""
    apps = [world.m.spawn(name) for name in ("one", "other")]
    pasids = [app.bind(world.dsa) for app in apps]
    begin = world.time.now
    for app in (*apps, apps[0]):
        app.copy(world.dsa, app.buffer(b"x"), app.buffer(1), 1)
    sent = [event.fact("pasid") for event in world.since(begin) if event.verb is Verb.ENQCMD]
    assert sent == [pasids[0], pasids[1], pasids[0]]


def test_without_a_pasid_left_the_bind_is_enospc(world):
    """The host's own set has a quota too; nothing remains of the attempt."""
    kernel = world.m.kernel
    kernel.host_set.quota = 1
    world.m.spawn("first").bind(world.dsa)
    app, holders = world.m.spawn("app"), kernel.ioasid.ids.keys()
    with pytest.raises(KernelError, match="quota of 1 PASIDs") as refused:
        app.bind(world.dsa)
    assert refused.value.name == "ENOSPC"
    assert (app.pasid, app.process.ia32_pasid, kernel.ioasid.ids.keys()) == (None, 0, holders)
    assert len(kernel.sva.bonds) == 1


def test_a_bind_that_fails_for_want_of_memory_gives_the_pasid_back(world):
    """The entry's leaf table cannot be had: -ENOMEM, and the number is in the pool again."""
    app, kernel = world.m.spawn("app"), world.m.kernel
    for number in range(1, 64):
        kernel.ioasid.alloc(kernel.host_set, number, number, "filler")  # the next one needs a leaf table of its own
    while kernel.pages.available:
        kernel.pages.alloc()
    assert world.m.kernel.ioasid.ids.keys() == list(range(1, 64))
    with pytest.raises(KernelError, match="ENOMEM"):
        app.bind(world.dsa)
    assert world.core.ids.keys() == list(range(1, 64))
    assert app.pasid is None
