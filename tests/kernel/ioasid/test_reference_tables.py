"""The life-cycle tables of the documents, step by step, from the event stream (facts 2.1, 2.2, 2.6)."""

import itertools

import pytest

from pasidlab.timeline import HOST, Verb
from tests.worlds import TwoVms, World, references

ALLOC = ("alloc", None, 1)
"""The allocator's reference comes with the ID."""


def story(world, events, ioasid):
    """Notifications, handlers, queued work and references of one host PASID, in order, as short words."""
    words = []
    for event in events:
        about = event.fact("ioasid") if event.fact("ioasid") is not None else event.fact("pasid")
        if event.altitude != HOST or about != ioasid:
            continue
        if event.verb is Verb.NOTIFY:
            words.append(f"notify {event.fact('event')} refs={event.fact('refs')}")
        elif event.verb in (Verb.QUEUE_WORK, Verb.RUN_WORK):
            words.append(f"{event.actor} {event.verb}")
        elif event.verb in (Verb.GET, Verb.PUT):
            words.append(f"{event.verb} {event.fact('holder')} refs={event.fact('refs')}")
        elif event.verb in (Verb.WRITE_ENTRY, Verb.CLEAR_ENTRY):
            words.append(f"{event.actor} {event.verb}")
        elif event.verb is Verb.RECLAIM:
            words.append("reclaim")
    return words


def test_the_normal_flow_of_a_shared_queue():
    """Table 2.1, rows 2 to 7 and 13 to 18: 1 alloc, 2 IOMMU, 3 KVM, and back; VDCM holds nothing (facts 6.4)."""
    world = World()
    vm = world.vm("vm1", "shared")
    app, begin = vm.spawn("app"), world.time.now
    app.bind(vm.devices[0])
    host_pasid = vm.pasids[1]
    assert story(world, world.since(begin), host_pasid) == [
        "notify ALLOC refs=1",
        "iommu write-entry",
        "get iommu refs=2",
        "notify BIND refs=2",
        "get kvm:vm1 refs=3",
        "kvm write-entry",
    ]
    begin = world.time.now
    app.unbind(vm.devices[0])
    assert story(world, world.since(begin), host_pasid) == [
        "iommu clear-entry",
        "notify UNBIND refs=3",
        "kvm clear-entry",
        "put kvm:vm1 refs=2",
        "vdcm queue-work",
        "vdcm run-work",
        "put iommu refs=1",
        "put vfio refs=0",
        "reclaim",
    ]


def test_the_normal_flow_of_a_dedicated_queue():
    """Table 2.1 in full: VDCM takes the fourth reference at programming, and is the first to let go."""
    world = World()
    vm = world.vm("vm1", "dedicated")
    app, begin = vm.spawn("app"), world.time.now
    app.bind(vm.devices[0])
    host_pasid = vm.pasids[1]
    app.copy(vm.devices[0], app.buffer(b"x"), app.buffer(1), 1)
    app.unbind(vm.devices[0])
    assert references(world.since(begin), host_pasid) == [
        ALLOC,
        ("get", "iommu", 2),
        ("get", "kvm:vm1", 3),
        ("get", "vdcm:adi0", 4),
        ("put", "vdcm:adi0", 3),
        ("put", "kvm:vm1", 2),
        ("put", "iommu", 1),
        ("put", "vfio", 0),
        ("reclaim", None, 0),
    ]


def test_notifications_of_a_normal_life():
    """ALLOC, BIND, UNBIND; no FREE, since nobody is left to be told (facts 1.5)."""
    world = TwoVms()
    world.app1.unbind(world.adi1)
    told = [
        event.fact("event")
        for event in world.time.events
        if event.verb is Verb.NOTIFY and event.fact("ioasid") == world.h1
    ]
    assert told == ["ALLOC", "BIND", "UNBIND"]


def test_free_before_unbind():
    """Table 2.2 as documented, steps 1 to 6: 4, KVM 3, device and IOMMU queue work, the allocator 2."""
    world = TwoVms("dedicated")
    assert world.core.ids[world.h1].refs == 4
    begin = world.time.now
    world.vm1.free_pasid(1)
    assert story(world, world.since(begin), world.h1) == [
        "notify FREE refs=4",
        "kvm clear-entry",
        "put kvm:vm1 refs=3",
        "vdcm queue-work",
        "iommu queue-work",
        "put vfio refs=2",
    ]
    assert [work.label for work in world.core.work.waiting()] == [
        "VDCM: stop the queue of adi0",
        f"IOMMU driver: clean up PASID {world.h1}",
    ]
    assert [action.label for action in world.m.pending] == ["VDCM: stop the queue of adi0"]
    assert world.m.check().ok


def test_the_deferred_work_runs_in_the_order_in_which_it_was_queued():
    """Table 2.2, steps 7 and 8, on the ordered queue: device 1, IOMMU 0, reclaimed; isolation holds between them."""
    world = TwoVms("dedicated")
    world.vm1.free_pasid(1)
    steps = []
    while world.m.pending:
        (head,), begin = world.m.pending, world.time.now
        world.m.run(head.number)
        steps.append(story(world, world.since(begin), world.h1))
        assert world.m.check().ok
    assert steps == [
        ["vdcm run-work", "put vdcm:adi0 refs=1"],
        ["iommu run-work", "iommu clear-entry", "put iommu refs=0", "reclaim"],
    ]
    assert world.h1 not in world.core.ids


@pytest.mark.parametrize("order", list(itertools.permutations(("kvm", "vdcm", "iommu"))), ids="-".join)
def test_after_free_the_users_may_let_go_in_any_order(order, bench):
    """Table 2.2 after step 6 (note 2 of the v2 document): 3, 2, 1, and the last one reclaims, whoever it is."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    for user in ("iommu", "kvm", "vdcm"):
        bench.core.get(number, user)
    bench.core.free(the_set, number)
    assert bench.refs(number) == 3
    assert [bench.core.put(number, user) for user in order] == [False, False, True]
    assert number not in bench.core.ids


def test_free_before_unbind_of_a_shared_queue():
    """VDCM holds nothing there, but drains before the IOMMU's clean-up lets the number go (pattern ALLOC-BIND-FREE)."""
    world = TwoVms()
    begin = world.time.now
    world.vm1.free_pasid(1)
    world.m.run()
    assert story(world, world.since(begin), world.h1) == [
        "notify FREE refs=3",
        "kvm clear-entry",
        "put kvm:vm1 refs=2",
        "vdcm queue-work",
        "iommu queue-work",
        "put vfio refs=1",
        "vdcm run-work",
        "iommu run-work",
        "iommu clear-entry",
        "put iommu refs=0",
        "reclaim",
    ]


@pytest.mark.parametrize("cleaned", [False, True], ids=["before the clean-up", "after the clean-up"])
def test_a_late_unbind_finds_nothing_and_fails_harmlessly(cleaned):
    """Table 2.2, step 9: the guest unbinds a PASID that it has freed already."""
    world = TwoVms("dedicated")
    world.vm1.free_pasid(1)
    if cleaned:
        world.m.run()
    world.app1.unbind(world.adi1)
    world.m.run()
    assert world.m.check().ok
    assert world.vm1.vmm.container.set.count == 0
    assert not any(event.verb is Verb.UNBIND and event.fact("pasid") == world.h2 for event in world.time.events)


def test_a_double_free_by_the_guest_is_one_free():
    """The second virtual command is answered "invalid PASID"; subscribers are told once."""
    world = TwoVms()
    world.vm1.free_pasid(1)
    assert world.refused(world.vm1.free_pasid, 1).name == "EINVAL"
    frees = [event for event in world.time.events if event.verb is Verb.NOTIFY and event.fact("event") == "FREE"]
    assert len(frees) == 1


def test_the_same_guest_number_again_while_the_old_one_dies():
    """FREE, re-ALLOC, bind: the number still stands for the dying PASID, so the host refuses; later it works."""
    world = TwoVms()
    world.vm1.free_pasid(1)
    assert world.refused(world.vm1.spawn("other").bind, world.adi1).name == "ENOSPC"
    world.m.run()
    assert world.h1 not in world.core.ids
    world.app1.unbind(world.adi1)
    assert world.vm1.app("other").bind(world.adi1) == 1
    app = world.vm1.app("other")
    assert app.copy(world.adi1, app.buffer(b"again"), app.buffer(5), 5).ok
    assert world.m.check().ok


def test_two_devices_share_one_reference_and_one_pair_of_events():
    """Only the first device binds the PASID, only the last one unbinds it (facts 2.6, 4.2)."""
    world = World()
    second = world.m.plug_accelerator("dsa1")
    vm = world.vm("vm1", "shared")
    world.m.assign_adi(second, vm)
    app, begin = vm.spawn("app"), world.time.now
    one, other = vm.devices
    app.bind(one)
    app.bind(other)
    host_pasid = vm.pasids[1]
    assert world.core.ids[host_pasid].holders == ("vfio", "iommu", "kvm:vm1")
    app.unbind(one)
    assert world.core.ids[host_pasid].holders == ("vfio", "iommu", "kvm:vm1")
    assert world.entry(host_pasid) == (0,) * 8
    assert app.copy(other, app.buffer(b"x"), app.buffer(1), 1).ok
    app.unbind(other)
    told = [event.fact("event") for event in world.since(begin) if event.verb is Verb.NOTIFY]
    assert told == ["ALLOC", "BIND", "UNBIND"]


def test_kvm_gone_before_free():
    """The VM's file descriptors close in their own order: KVM first, and the counts still come out even."""
    world = TwoVms("dedicated")
    begin = world.time.now
    world.vm1.crash()
    assert references(world.since(begin), world.h1) == [
        ("put", "kvm:vm1", 3),
        ("put", "vdcm:adi0", 2),
        ("put", "iommu", 1),
        ("put", "vfio", 0),
        ("reclaim", None, 0),
    ]
