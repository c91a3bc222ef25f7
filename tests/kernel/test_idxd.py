"""The accelerator's driver: kinds of queues, who may open which, and the PASID in the registers (facts 6.1, 6.5)."""

import pytest

from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.kernel.idxd import QueueType
from pasidlab.timeline import Verb
from tests.worlds import World


def queue_words(world, index):
    """WQCFG as the device holds it."""
    return WQCFG.decode(world.m.accelerators["dsa0"].wqcfg(index))


def test_the_driver_finds_the_queues_in_the_registers():
    """Two shared ones, enabled and without a PASID of their own; four dedicated ones, disabled."""
    world = World()
    driver = world.m.kernel.accelerators["dsa0"]
    assert [(queue.mode, str(queue.kind)) for queue in driver.queues.values()] == [
        ("shared", "mdev"),
        ("shared", "user"),
        *[("dedicated", "mdev")] * 4,
    ]
    assert [queue_words(world, index)["wq_state"] for index in range(6)] == [1, 1, 0, 0, 0, 0]
    assert [queue_words(world, index)["pasid_en"] for index in range(6)] == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("shared", "dedicated"), [(0, 0), (5, 4), (-1, 2), (9, 0)])
def test_an_accelerator_has_one_to_eight_queues(shared, dedicated):
    """-EINVAL, and nothing was plugged in."""
    world = World()
    error = world.refused(world.m.plug_accelerator, "dsa1", shared=shared, dedicated=dedicated)
    assert error.name == "EINVAL"
    assert world.m.functions.keys() == ["dsa0"]


def test_interfaces_are_spread_over_the_shared_queues():
    """The queue with the fewest clients is taken; several VMs use one hardware queue."""
    world = World()
    other = world.m.plug_accelerator("dsa1", shared=3, dedicated=0)
    vms = [world.vm(name) for name in ("vm1", "vm2", "vm3")]
    for vm in vms:
        world.m.assign_adi(other, vm)
    queues = world.m.kernel.accelerators["dsa1"].queues
    assert [queues[index].clients.keys() for index in range(3)] == [["adi0", "adi2"], ["adi1"], []]


def test_a_dedicated_queue_has_one_client_and_then_there_is_ebusy():
    """Taken exclusively, given back when the VM goes."""
    world = World()
    vms = [world.vm(name, *["dedicated"] * 2) for name in ("vm1", "vm2")]
    late = world.vm("vm3")
    assert world.refused(world.m.assign_adi, world.dsa, late, queue="dedicated").name == "EBUSY"
    vms[0].crash()
    world.m.assign_adi(world.dsa, late, queue="dedicated")


@pytest.mark.parametrize(("queue", "errno"), [("private", "EINVAL"), ("dedicated", "ENODEV")])
def test_a_queue_that_does_not_exist_cannot_be_assigned(queue, errno):
    """-EINVAL for a kind that there is not, -ENODEV for one that this device has none of."""
    world = World()
    other = world.m.plug_accelerator("dsa1", shared=1, dedicated=0)
    assert world.refused(world.m.assign_adi, other, world.vm("vm1"), queue=queue).name == errno


def test_a_process_opens_the_shared_queue_unless_it_asks_otherwise():
    """On a whole function in a guest all queues serve processes."""
    world = World()
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.dsa, vm)
    one, other = vm.spawn("one"), vm.spawn("other")
    one.bind(pf)
    other.bind(pf, queue="dedicated")
    driver = vm.kernel.accelerators["dsa0"]
    opened = [driver.queue_of(app.process) for app in (one, other)]
    assert [queue and queue.mode for queue in opened] == ["shared", "dedicated"]
    assert world.refused(vm.spawn("third").bind, pf, queue="odd").name == "EINVAL"


def test_opening_twice_or_without_a_queue_is_refused():
    """-EBUSY bound already; -ENODEV the kind does not exist here; -EBUSY somebody has the dedicated queue."""
    world = World()
    vm = world.vm("vm1", "dedicated")
    app, adi = vm.spawn("app"), vm.devices[0]
    assert world.refused(app.bind, adi, queue="shared").name == "ENODEV"
    app.bind(adi)
    assert world.refused(app.bind, adi).name == "EBUSY"
    assert world.refused(vm.spawn("second").bind, adi).name == "EBUSY"
    assert vm.app("second").pasid is None


def test_a_dedicated_queue_is_programmed_for_its_process_and_cleared_behind_it():
    """WQCFG carries the PASID from open to close; the queue runs in between."""
    world = World()
    vm = world.vm("vm1", "dedicated")
    app, adi = vm.spawn("app"), vm.devices[0]
    app.bind(adi)
    words = queue_words(world, 2)
    assert (words["wq_state"], words["pasid_en"], words["pasid"]) == (1, 1, vm.pasids[1])
    app.unbind(adi)
    words = queue_words(world, 2)
    assert (words["wq_state"], words["pasid_en"], words["pasid"]) == (0, 0, 0)


def test_a_shared_queue_is_drained_of_the_leaving_processes_work_only():
    """Close waits for this PASID; what another process submitted goes on waiting."""
    world = World()
    apps = [world.m.spawn(name) for name in ("one", "other")]
    places = []
    for app in apps:
        app.bind(world.dsa)
        src, dst = app.buffer(app.name.encode()), app.buffer(8)
        app.submit(world.dsa, src, dst, len(app.name))
        places.append(dst)
    apps[0].unbind(world.dsa)
    assert apps[0].read(places[0], 3) == b"one"
    assert apps[1].read(places[1], 5) == bytes(5)
    assert len(world.m.pending) == 1


def test_closing_stops_the_work_before_it_unbinds():
    """Stop DMA, unbind, free: the documented order (facts 2.3)."""
    world = World()
    app = world.m.spawn("app")
    app.bind(world.dsa)
    begin = world.time.now
    app.unbind(world.dsa)
    order = [event.verb for event in world.since(begin) if event.verb in (Verb.DRAIN, Verb.CLEAR_ENTRY, Verb.RECLAIM)]
    assert order == [Verb.DRAIN, Verb.CLEAR_ENTRY, Verb.RECLAIM]


def test_queues_keep_their_types_while_a_guest_has_the_whole_function():
    """After the VM's end the host takes the device up as it was."""
    world = World()
    vm = world.m.create_vm("vm1")
    world.m.assign_pf(world.dsa, vm)
    vm.crash()
    driver = world.m.kernel.accelerators["dsa0"]
    kinds = [queue.kind for queue in driver.queues.values()]
    assert kinds == [QueueType.MDEV, QueueType.USER, *[QueueType.MDEV] * 4]
    late = world.vm("vm2", "shared", "dedicated")
    assert len(late.devices) == 2


@pytest.mark.parametrize("altitude", ["host", "guest"])
def test_a_process_has_no_portal_of_a_queue_that_it_has_not_opened(altitude):
    """Bound elsewhere it could leave work behind that outlives its PASID: -EFAULT, and nothing reaches the device."""
    world = World()
    second = world.m.plug_accelerator("dsa1")
    if altitude == "host":
        app, mine, other = world.m.spawn("app"), "dsa0", "dsa1"
    else:
        vm = world.vm("vm1", "shared")
        world.m.assign_adi(second, vm)
        app, mine, other = vm.spawn("app"), "adi0", "adi1"
    app.bind(mine)
    begin = world.time.now
    error = world.refused(app.submit, other, app.buffer(1), app.buffer(1), 1)
    assert (error.name, "portal" in error.reason) == ("EFAULT", True)
    assert not any(event.verb in (Verb.ENQCMD, Verb.ACCEPT) for event in world.since(begin))
    app.bind(other)
    assert app.copy(other, app.buffer(1), app.buffer(1), 1).ok
