"""One shared queue used by three VMs at once: streams apart, retry when full, each VM's share (facts 6.1, 6.5)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.accelerator.commands import Command
from pasidlab.timeline import Verb
from tests.worlds import World

ROOM = 16
"""Descriptors that the limited portal takes."""


class ThreeVms(World):
    """Three VMs with interfaces of one shared queue; each has a bound process with a source and places to copy to."""

    def __init__(self):
        super().__init__()
        self.vms = [self.vm(name, "shared") for name in ("vm1", "vm2", "vm3")]
        self.apps = [vm.spawn("app") for vm in self.vms]
        for vm, app in zip(self.vms, self.apps, strict=True):
            app.bind(vm.devices[0])
            app.src = app.buffer(f"bytes of {vm.name}".encode())
        self.host_pasids = [vm.pasids[1] for vm in self.vms]

    def submit(self, which):
        """One copy of a VM's process; ``False``: the queue gave retry until the process gave up."""
        app = self.apps[which]
        before, dst = len(self.m.accelerators["dsa0"].waiting(0)), app.buffer(12)
        if before < ROOM:
            app.submit(self.vms[which].devices[0], app.src, dst, 12)
            return dst
        assert self.refused(app.submit, self.vms[which].devices[0], app.src, dst, 12).name == "EAGAIN"
        return None

    def waiting(self):
        """How many descriptors of each VM wait."""
        pasids = [work.pasid for work in self.m.accelerators["dsa0"].waiting(0)]
        return [pasids.count(host) for host in self.host_pasids]


@pytest.fixture
def world():
    return ThreeVms()


def test_three_vms_use_the_same_number_and_the_same_queue(world):
    """Guest PASID 1 in each, three PASIDs of the host, one hardware queue."""
    assert [vm.pasids for vm in world.vms] == [{1: host} for host in world.host_pasids]
    assert len(set(world.host_pasids)) == 3
    assert {vm.vmm.mdevs[vm.devices[0].name].queue.index for vm in world.vms} == {0}


def test_the_streams_stay_apart(world):
    """Interleaved submissions, executed in reverse order: each VM's bytes land in its own memory, with its PASID."""
    places = [(which, world.submit(which)) for which in (0, 1, 2, 1, 0, 2, 2, 0)]
    assert world.waiting() == [3, 2, 3]
    begin = world.time.now
    while world.m.pending:
        world.m.run(world.m.pending[-1].number)
        assert world.m.check().ok
    for which, dst in places:
        assert world.apps[which].read(dst, 12) == f"bytes of vm{which + 1}".encode()
    carried = {event.fact("pasid") for event in world.since(begin) if event.verb is Verb.DMA}
    assert carried == set(world.host_pasids)


def test_a_full_queue_is_full_for_everybody(world):
    """One VM fills it: the others get retry, until anything is carried out."""
    for _ in range(ROOM):
        assert world.submit(0)
    assert world.waiting() == [ROOM, 0, 0]
    assert world.submit(1) is None
    assert world.submit(0) is None
    world.m.run(world.m.pending[0].number)
    assert world.submit(2)
    assert world.waiting() == [ROOM - 1, 0, 1]


@pytest.mark.parametrize(
    "stop",
    [Command.DRAIN_WQ, Command.ABORT_WQ, Command.DISABLE_WQ, Command.RESET_WQ, Command.RESET_DEVICE],
    ids=lambda command: command.name,
)
def test_one_vm_stops_and_the_others_do_not_notice(world, stop):
    """Its own work is drained, whatever it asked for; the queue runs on with theirs (facts 6.5)."""
    places = [world.submit(which) for which in (0, 1, 2)]
    assert world.vms[1].kernel.accelerators[world.vms[1].devices[0].name]._command(stop, 1).name == "SUCCESS"
    assert world.waiting() == [1, 0, 1]
    assert world.apps[1].read(places[1], 12) == b"bytes of vm2"
    assert world.m.accelerators["dsa0"].wq_enabled(0)
    world.m.run()
    assert [world.apps[at].read(places[at], 12) for at in (0, 2)] == [b"bytes of vm1", b"bytes of vm3"]
    assert world.m.check().ok


def test_the_end_of_one_vm_leaves_the_work_of_the_others(world):
    """Its descriptors and its number are gone; theirs wait where they were."""
    for which in (0, 1, 2):
        world.submit(which)
    world.vms[0].crash()
    assert world.waiting() == [0, 1, 1]
    assert world.host_pasids[0] not in world.core.ids
    assert world.m.check().ok
    assert world.submit(2)


def test_interfaces_go_to_the_queue_with_the_fewest():
    """Over several VMs, in order of the queues; what leaves makes room (facts 6.1)."""
    world = World()
    dsa1 = world.m.plug_accelerator("dsa1", shared=4)
    vms = [world.m.create_vm(f"vm{at}", memory=1 << 20) for at in range(5)]
    used = []
    for vm in vms:
        world.m.assign_adi(dsa1, vm)
        used.append(vm.vmm.mdevs[vm.devices[0].name].queue.index)
    assert used == [0, 1, 2, 0, 1]
    vms[1].crash()
    vms[4].crash()
    late = world.vm("late")
    world.m.assign_adi(dsa1, late)
    assert late.vmm.mdevs[late.devices[0].name].queue.index == 1


def test_each_dedicated_queue_serves_one_interface():
    """The fifth of four is -EBUSY, until one is given back."""
    world = World()
    vms = [world.vm(f"vm{at}", "dedicated") for at in range(4)]
    assert [vm.vmm.mdevs[vm.devices[0].name].queue.index for vm in vms] == [2, 3, 4, 5]
    fifth = world.vm("fifth")
    assert world.refused(world.m.assign_adi, world.dsa, fifth, "dedicated").name == "EBUSY"
    vms[2].crash()
    world.m.assign_adi(world.dsa, fifth, queue="dedicated")
    assert fifth.vmm.mdevs[fifth.devices[0].name].queue.index == 4


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=40))
def test_any_interleaving_keeps_order_of_counts_and_bytes(turns):
    """0 to 2: a VM submits; 3: something is carried out. What waits is what was accepted and not carried out."""
    world, accepted, places = ThreeVms(), [0, 0, 0], []
    for turn in turns:
        if turn < 3:
            dst = world.submit(turn)
            if dst is not None:
                accepted[turn] += 1
                places.append((turn, dst))
        elif world.m.pending:
            before = world.waiting()
            world.m.run(world.m.pending[0].number)
            done = [old - new for old, new in zip(before, world.waiting(), strict=True)]
            accepted = [count - gone for count, gone in zip(accepted, done, strict=True)]
            assert sum(done) == 1
        assert world.waiting() == accepted
        assert sum(accepted) <= ROOM
    world.m.run()
    for which, dst in places:
        assert world.apps[which].read(dst, 12) == f"bytes of vm{which + 1}".encode()
    assert world.m.check().ok
