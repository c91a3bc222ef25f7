"""The end of a process: memory first, files second, the PASID last; late DMA is blocked in silence (facts 2.4)."""

import pytest

from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World

STEPS = {
    Verb.CLEAR_ENTRY: "entry cleared",
    Verb.DRAIN: "drained",
    Verb.DISABLE: "queue disabled",
    Verb.FREE: "freed",
    Verb.RECLAIM: "reclaimed",
}


def order(events, altitude=None, actors=("iommu", "accelerator", "ioasid")):
    """The steps of a teardown that one altitude and the hardware took."""
    return [
        STEPS[event.verb]
        for event in events
        if event.verb in STEPS and event.actor in actors and event.altitude in (altitude, "hardware")
    ]


def test_a_native_exit_clears_the_entry_then_stops_the_queue_then_frees():
    """A: mm exit, B: device close, C: the last drop of the mm."""
    world = World()
    app = world.m.spawn("app")
    app.bind(world.dsa)
    begin = world.time.now
    app.exit()
    assert order(world.since(begin), "host") == ["entry cleared", "drained", "freed", "reclaimed"]
    assert not app.alive


@pytest.mark.parametrize(("queue", "stops"), [("shared", ["drained"]), ("dedicated", ["drained", "queue disabled"])])
def test_a_guests_exit_takes_the_same_steps(queue, stops):
    """The same code at another altitude; the host follows each step."""
    world = TwoVms(queue)
    begin = world.time.now
    world.app1.exit()
    guest = order(world.since(begin), "vm1")
    assert guest[0] == "entry cleared"
    assert guest[-2:] == ["freed", "reclaimed"]
    assert list(dict.fromkeys(step for step in guest if step in stops)) == stops
    host = order(world.since(begin), "host", ("iommu", "ioasid"))
    assert host == ["entry cleared", "freed", "reclaimed"]


def test_dma_that_comes_after_the_memory_went_is_blocked_and_not_recorded():
    """The entry keeps FPD: faults between A and B are normal and nobody needs to read of them."""
    world = World(ats=False)
    app = world.m.spawn("app")
    app.bind(world.dsa)
    app.submit(world.dsa, app.buffer(b"late"), app.buffer(4), 4)
    begin = world.time.now
    app.exit()
    faults = [event for event in world.since(begin) if event.verb is Verb.FAULT and event.actor == "iommu unit"]
    assert faults
    assert {(event.fact("code"), event.fact("fate")) for event in faults} == {(0x59, "suppressed by FPD")}
    assert world.m.fault_log == []


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_no_descriptor_outlives_its_pasid(queue):
    """Work that a dead process left in the device must not run under the next owner's number."""
    world = TwoVms(queue)
    src, dst = world.app1.buffer(b"EVIL"), world.app1.buffer(4)
    world.app1.submit(world.adi1, src, dst, 4)
    world.app1.exit()
    assert world.m.pending == []
    heir = world.vm2.spawn("heir")
    if queue == "shared":
        heir.bind(world.adi2)
        assert world.vm2.pasids[2] == world.h1, "the number is reused at once"
    own = heir.buffer(b"good"), heir.buffer(b"keep")
    assert own == (src, dst), "the same virtual addresses"
    world.m.run()
    assert heir.read(dst, 4) == b"keep"
    assert world.m.check().ok


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_everything_comes_back(queue):
    """Frames, PASIDs, references, KVM entries and queues are as before the process."""
    world = TwoVms(queue)
    guest = world.vm1.kernel
    app = world.app1
    app.buffer(b"x" * 50000)
    app.exit()
    frames, ids = guest.pages.used, world.core.ids.keys()
    again = world.vm1.spawn("again")
    again.bind(world.adi1)
    again.buffer(b"x" * 50000)
    again.exit()
    assert (guest.pages.used, world.core.ids.keys()) == (frames, ids)
    assert world.vm1.pasids == {}
    assert world.vm1.vmm.kvm.entries() == []
    assert world.m.check().ok


def test_an_exit_ends_every_binding_of_the_process_and_no_other():
    """Two devices, two processes."""
    world = World()
    world.m.plug_accelerator("dsa1")
    apps = [world.m.spawn(name) for name in ("one", "other")]
    for app in apps:
        for name in ("dsa0", "dsa1"):
            app.bind(name)
    pasid = apps[1].pasid
    apps[0].exit()
    assert list(world.m.kernel.sva.bonds.keys()) == [(2, rid) for rid in sorted(world.m.kernel.iommu.devices.keys())]
    assert world.core.ids.keys() == [pasid]
    assert apps[1].copy("dsa1", apps[1].buffer(b"x"), apps[1].buffer(1), 1).ok


def test_a_process_that_never_bound_ends_without_a_word_to_the_iommu():
    """Nothing to tear down."""
    world = World()
    app, begin = world.m.spawn("app"), world.time.now
    app.exit()
    assert order(world.since(begin), "host") == []


def test_the_memory_goes_before_the_files_and_the_pasid_last():
    """A: entries cleared; A': page tables and pages freed; B: files closed, the queue stopped; C: the PASID freed."""
    world = World()
    app = world.m.spawn("app")
    app.bind(world.dsa)
    begin = world.time.now
    app.exit()
    steps = {
        Verb.CLEAR_ENTRY: "A",
        Verb.UNMAP: "A'",
        Verb.DRAIN: "B",
        Verb.RECLAIM: "C",
    }
    seen = [steps[event.verb] for event in world.since(begin) if event.verb in steps]
    assert list(dict.fromkeys(seen)) == ["A", "A'", "B", "C"]


def test_pinned_guest_memory_outlives_the_hypervisors_address_space():
    """VFIO's pin holds it until the container is closed: until then devices can reach it, and nobody else gets it."""
    world = TwoVms("shared")
    m, vm = world.m, world.vm1
    container, pages = vm.vmm.container, m.kernel.pages
    frames = container.pinned
    begin = world.time.now
    vm.crash()
    gone = next(event for event in world.since(begin) if event.verb is Verb.UNMAP and "vmm-vm1" in event.subject)
    world.time.go(gone.number + 1)
    assert all(pages.is_used(frame) for frame in frames)
    assert m.check().ok
    world.time.go(world.time.last)
    assert not any(pages.is_used(frame) for frame in frames)
