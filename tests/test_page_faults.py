"""Every page that an operation of a machine asks for is refused once: nothing leaks, and a second try succeeds."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.timeline import Verb
from tests.worlds import World


def bench(queue):
    """One VM with an interface, a process in it, and a native process."""
    world = World()
    world.vm1 = world.vm("vm1", queue)
    world.adi = world.vm1.devices[0]
    world.app = world.vm1.spawn("app")
    world.native = world.m.spawn("native")
    return world


OPERATIONS = {
    "bind in a guest": lambda world: world.app.bind(world.adi),
    "bind natively": lambda world: world.native.bind(world.dsa),
    "spawn in a guest": lambda world: world.vm1.spawn("more"),
    "spawn natively": lambda world: world.m.spawn("more"),
    "assign an interface": lambda world: world.m.assign_adi(world.dsa, world.vm1),
    "plug a device": lambda world: world.m.plug_accelerator("dsa1"),
    "memory for a process": lambda world: world.app.buffer(3 * 4096),
}


def held(world):
    """What must be as before: PASIDs with their holders, sets, quota, pages of host and guest, work that waits."""
    core = world.core
    return (
        {number: record.holders for number, record in core.ids.items()},
        [(the_set.name, the_set.count, the_set.quota) for the_set in core.sets.values()],
        core.capacity.available,
        {number: record.holders for number, record in world.vm1.kernel.ioasid.ids.items()},
        world.vm1.pasids,
        world.vm1.vmm.kvm.entries(),
        [action.label for action in world.m.pending],
    )


def sweep(queue, name, whose):
    """Fail the 1st, 2nd, ... page of an operation until it succeeds; returns how many pages it asked for."""
    for nth in range(1, 200):
        world = bench(queue)
        pages = world.m.kernel.pages if whose == "host" else world.vm1.kernel.pages
        before, used = held(world), pages.used
        pages.slab.fail_nth = nth
        begin = world.time.now
        try:
            OPERATIONS[name](world)
        except KernelError:
            pages.slab.fail_nth = 0  # a transaction that was refused has undone this as well
            assert held(world) == before
            assert pages.used == used
            OPERATIONS[name](world)
        else:
            if pages.slab.fail_nth:
                return nth - 1
            assert any(event.verb is Verb.REFUSE for event in world.since(begin)), "somebody did without, and said so"
        assert world.m.check().ok, nth
    raise AssertionError(f"{name} asks for pages without end")


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
@pytest.mark.parametrize("whose", ["host", "guest"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_refused_page_leaks_anything(name, whose, queue, record_property):
    """Whichever page it is, in whichever kernel: invariants hold, nothing is left over, the next try works."""
    record_property("fault points", sweep(queue, name, whose))


def test_the_sweep_finds_the_pages_of_a_bind():
    """KVM needs a table for a guest's first PASID, a new device tables of its own: the sweep is not empty."""
    assert sweep("shared", "bind in a guest", "host") == 1
    assert sweep("shared", "plug a device", "host") > 1
