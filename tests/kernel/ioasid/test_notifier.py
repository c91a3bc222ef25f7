"""Notifier chains: who hears what, in which order, and who may register when (facts 1.8, 1.9)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.kernel.ioasid.notifier import Priority
from pasidlab.timeline import Verb


def names(heard, event):
    """Who heard an event, in order."""
    return [name for name, what, _ in heard if what == event]


def bound_id(bench):
    """An ID with a SPID and a user."""
    the_set = bench.core.find_set(bench.tokens["mm1"]) or bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    bench.core.get(number, "user")
    return the_set, number


def test_cpu_hears_before_device_before_iommu_before_the_rest_over_both_chains(bench):
    """Quiesce the source of work first; the global chain (IOMMU) does not run ahead of the set's chain (KVM)."""
    heard: list[Any] = []
    for name, token in (("LAST", "mm1"), ("IOMMU", None), ("DEVICE", "mm1"), ("CPU", "mm1")):
        bench.listen(name, Priority[name], token, heard=heard)
    the_set, number = bound_id(bench)
    bench.core.free(the_set, number)
    assert names(heard, "FREE") == ["CPU", "DEVICE", "IOMMU", "LAST"]
    assert Priority.CPU > Priority.DEVICE > Priority.IOMMU > Priority.LAST


@given(st.lists(st.sampled_from(list(Priority)), max_size=8))
def test_equal_priorities_hear_in_order_of_registration(priorities):
    """The order is a stable sort by priority."""
    from tests.kernel.ioasid.conftest import Bench

    bench, heard = Bench(), list[Any]()
    bench.set()
    for at, priority in enumerate(priorities):
        bench.listen(f"{at}", priority, heard=heard)
    bound_id(bench)
    assert names(heard, "BIND") == [f"{at}" for at, _ in sorted(enumerate(priorities), key=lambda pair: -pair[1])]


def test_free_goes_to_both_chains_and_the_rest_to_the_set_only(bench):
    """ALLOC, BIND and UNBIND are the set's own affair."""
    heard: list[Any] = []
    bench.listen("global", token=None, heard=heard)
    bench.listen("set", token="mm1", heard=heard)
    the_set, number = bound_id(bench)
    bench.core.detach_spid(number)
    bench.core.free(the_set, number)
    assert [event for name, event, _ in heard if name == "global"] == ["FREE"]
    assert [event for name, event, _ in heard if name == "set"] == ["ALLOC", "BIND", "UNBIND", "FREE"]


def test_another_set_hears_nothing(bench):
    """Chains are per set."""
    mine = bench.listen("mine", token="mm1")
    yours = bench.listen("yours", token="mm2")
    bench.set("mm1"), bench.set("mm2")
    bound_id(bench)
    assert mine.heard
    assert yours.heard == []


def test_the_payload_is_a_snapshot(bench):
    """It stays true when the record changes afterwards."""
    listener = bench.listen("late")
    the_set, number = bound_id(bench)
    bench.core.free(the_set, number)
    bench.core.detach_spid(number)
    bench.core.put(number, "user")
    _, _, payload = listener.heard[-1]
    assert (payload.ioasid, payload.spid, payload.set_id) == (number, 5, 0)


def test_on_free_the_allocators_own_reference_goes_last(bench):
    """Handlers find the count that the documents print: 4, then theirs, then the allocator's (facts 2.2)."""
    counts = []
    bench.listen("kvm", Priority.CPU, react={"FREE": lambda payload: counts.append(bench.refs(payload.ioasid))})
    the_set, number = bound_id(bench)
    bench.core.free(the_set, number)
    assert counts == [2]
    assert bench.refs(number) == 1


def test_a_handler_may_drop_its_reference(bench):
    """The locked variant of put: legal within a handler, and the allocator's drop then reclaims."""
    bench.listen("kvm", Priority.CPU, react={"FREE": lambda payload: bench.core.put(payload.ioasid, "user")})
    the_set, number = bound_id(bench)
    bench.core.free(the_set, number)
    assert number not in bench.core.ids


def test_registration_before_the_set_exists_is_pending_until_it_does(bench):
    """KVM may come before VFIO."""
    listener = bench.listen("early")
    registered = bench.verbs(Verb.REGISTER)
    assert registered == [(Verb.REGISTER, "early")]
    assert bench.time.events[-1].after == "pending: no set yet"
    bench.alloc(bench.set())
    assert [event for _, event, _ in listener.heard] == ["ALLOC"]


def test_registration_on_an_empty_set_is_active_at_once(bench):
    """No event was missed."""
    the_set = bench.set()
    listener = bench.listen("kvm")
    bench.alloc(the_set)
    assert [event for _, event, _ in listener.heard] == ["ALLOC"]


def test_registration_on_a_set_with_ids_is_ebusy(bench, make_listener):
    """Past events are not replayed: hot-adding a device to a VM that has PASIDs fails."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    late = make_listener("late")
    assert bench.errno(bench.core.register_notifier_mm, bench.tokens["mm1"], late) == "EBUSY"
    bench.core.free(the_set, number)
    bench.core.register_notifier_mm(bench.tokens["mm1"], late)
    bench.alloc(the_set)
    assert [event for _, event, _ in late.heard] == ["ALLOC"]


def test_registering_the_same_pair_twice_is_ebusy(bench):
    """The same block with another mm is another registration."""
    listener = bench.listen("kvm", token="mm1")
    assert bench.errno(bench.core.register_notifier_mm, bench.tokens["mm1"], listener) == "EBUSY"
    bench.core.register_notifier_mm(bench.tokens["mm2"], listener)


def test_after_leaving_nothing_is_heard(bench):
    """Unregister takes the block off the chain."""
    the_set = bench.set()
    listener = bench.listen("kvm")
    bench.core.unregister_notifier_mm(bench.tokens["mm1"], listener)
    bench.alloc(the_set)
    assert listener.heard == []


def test_when_a_set_ends_its_subscribers_wait_for_the_next_one_of_that_token(bench):
    """Entries fall back to pending."""
    listener = bench.listen("kvm")
    bench.core.set_free(bench.set())
    bench.alloc(bench.set())
    assert [event for _, event, _ in listener.heard] == ["ALLOC"]


def test_a_notification_is_an_event_with_its_handlers_below_it(bench):
    """alloc -> notify -> handler is a tree."""
    seen = []
    bench.listen("kvm", react={"BIND": lambda payload: seen.append(bench.time.emit("host", "kvm", Verb.HANDLE, "x"))})
    bound_id(bench)
    notify = bench.time.events[seen[0].cause]
    attach = bench.time.events[notify.cause]
    assert (notify.verb, notify.fact("event"), attach.verb) == (Verb.NOTIFY, "BIND", Verb.ATTACH_SPID)


def test_without_listeners_nothing_is_told(bench):
    """An event that nobody hears is not sent."""
    bound_id(bench)
    assert bench.told() == []


@pytest.mark.parametrize("count", [1, 3])
def test_events_of_one_id_are_bind_unbind_pairs_and_at_most_one_free(bench, count):
    """Level behaviour: one event for each change of state."""
    bench.listen("kvm")
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    for _ in range(count):
        bench.core.attach_spid(number, 5)
        bench.core.detach_spid(number)
        bench.core.detach_spid(number)
    bench.core.free(the_set, number)
    bench.core.free(the_set, number)
    assert bench.told() == ["ALLOC", *["BIND", "UNBIND"] * count, "FREE"]
