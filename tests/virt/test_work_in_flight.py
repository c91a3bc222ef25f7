"""A copy or a batch is half-way when its PASID is torn down: it ends or is dropped, and no byte moves later."""

import pytest

from pasidlab.hardware.accelerator import Accelerator
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World

WAYS = ("shared", "dedicated", "function")
SIZE = 9000
TEARDOWNS = {
    "unbind": lambda world: world.app.unbind(world.device),
    "exit": lambda world: world.app.exit(),
    "crash": lambda world: world.vm1.crash(),
}
"""Unbind drains while the memory is there; at exit it is gone before the device is closed, and DMA faults."""


class Guest(World):
    """A VM with a device, a bound process, and buffers."""

    def __init__(self, way="shared"):
        super().__init__()
        self.vm1 = self.vm("vm1") if way == "function" else self.vm("vm1", way)
        self.device = self.m.assign_pf(self.dsa, self.vm1) if way == "function" else self.vm1.devices[0]
        self.app = self.vm1.spawn("app")
        self.app.bind(self.device)
        self.src, self.dst = self.app.buffer(b"guest" * 2000), self.app.buffer(SIZE)

    @property
    def hardware(self):
        """The accelerator."""
        return self.m.accelerators["dsa0"]

    def submit(self, kind):
        """A copy, or a batch of two that does the same."""
        if kind == "copy":
            self.app.submit(self.device, self.src, self.dst, SIZE)
        else:
            half = SIZE // 2
            pairs = [(self.src, self.dst, half), (self.src + half, self.dst + half, half)]
            self.app.submit_batch(self.device, pairs)

    def begin(self, kind, steps):
        """Submit, and let so many steps happen."""
        self.submit(kind)
        for _ in range(steps):
            self.m.run(self.m.pending[0].number)
        assert [done > 0 or kind == "batch" for _, _, done in self.hardware.in_flight()] == ([True] if steps else [])

    def is_over(self, step):
        """Nothing is left of it, and nothing of it happened after ``step``, whatever is run now."""
        assert self.hardware.held() == []
        assert self.m.check().ok, self.m.check()
        self.m.run()
        assert not [event for event in self.since(step) if event.verb in (Verb.DMA, Verb.EXECUTE, Verb.COMPLETE)]
        assert self.m.check().ok, self.m.check()


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("kind", ["copy", "batch"])
@pytest.mark.parametrize("teardown", TEARDOWNS)
@pytest.mark.parametrize("way", WAYS)
def test_work_in_flight_does_not_outlive_its_pasid(way, teardown, kind, steps):
    """For each way into the device, each teardown, at each step. Unbind waits for a good end."""
    world = Guest(way)
    world.begin(kind, steps)
    begin = world.time.now
    TEARDOWNS[teardown](world)
    told = [event for event in world.since(begin) if event.verb is Verb.COMPLETE]
    assert teardown != "unbind" or {event.after for event in told} == {"SUCCESS"}
    world.is_over(world.time.now)


@pytest.mark.parametrize("kind", ["copy", "batch"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_drained_has_arrived(way, kind):
    """Unbind waits for the rest: the process, which lives on, finds every byte."""
    world = Guest(way)
    world.begin(kind, 1)
    world.app.unbind(world.device)
    assert world.app.read(world.dst, SIZE) == world.app.read(world.src, SIZE)


@pytest.mark.parametrize("teardown", TEARDOWNS)
def test_the_other_vms_work_stays_in_flight_and_ends_well(teardown):
    """Two VMs on one shared queue, both half-way: one is torn down, the other's copy ends as if nothing had been."""
    world = TwoVms()
    places = []
    for app, adi in ((world.app1, world.adi1), (world.app2, world.adi2)):
        src, dst = app.buffer(b"bytes" * 2000), app.buffer(SIZE)
        app.submit(adi, src, dst, SIZE)
        world.m.run(world.m.pending[-1].number)
        places.append((src, dst))
    world.app, world.device = world.app1, world.adi1
    TEARDOWNS[teardown](world)
    held = world.m.accelerators["dsa0"].held()
    assert [(one.pasid, one.progress.done) for one in held] == [(world.h2, 4096)]
    world.m.run()
    src, dst = places[1]
    assert world.app2.read(dst, SIZE) == world.app2.read(src, SIZE)
    assert world.m.check().ok


@pytest.mark.parametrize("kind", ["copy", "batch"])
def test_a_host_process_that_exits_leaves_nothing_in_flight(kind):
    """The same without a VM."""
    world = Guest()
    world.app, world.device = world.m.spawn("native"), world.m.plug_accelerator("dsa1")
    world.app.bind(world.device)
    world.src, world.dst = world.app.buffer(b"host!" * 2000), world.app.buffer(SIZE)
    world.submit(kind)
    world.m.run(world.m.pending[0].number)
    assert len(world.m.accelerators["dsa1"].in_flight()) == 1
    world.app.exit()
    assert world.m.accelerators["dsa1"].held() == []
    world.is_over(world.time.now)


def test_a_free_pasid_with_work_in_flight_is_named(monkeypatch):
    """Rule 10 looks at what is in flight as well: here the device did not drain."""
    world = TwoVms()
    src, dst = world.app1.buffer(b"bytes" * 2000), world.app1.buffer(SIZE)
    world.app1.submit(world.adi1, src, dst, SIZE)
    world.m.run(world.m.pending[0].number)
    monkeypatch.setattr(Accelerator, "drain", lambda device, wq=None, pasid=None: 0)
    world.app1.unbind(world.adi1)
    report = world.m.check()
    assert not report.ok
    assert f"holds a descriptor for PASID {world.h1}, which is not allocated" in str(report)
