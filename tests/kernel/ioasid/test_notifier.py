"""Notifier chains: who hears what, in which order, and who may register when (facts 1.8, 1.9)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.kernel.ioasid.notifier import NotifyFlag, Priority
from pasidlab.timeline import Verb


def names(heard, event):
    """Who heard an event, in order."""
    return [name for name, what, _ in heard if what == event]


def bound_id(bench):
    """An ID with a SPID and a user."""
    the_set = bench.core.sets.find_mm(bench.tokens["mm1"]) or bench.set()
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
    bench.listen("kvm", Priority.CPU, react={"FREE": lambda payload: bench.core.put_locked(payload.ioasid, "user")})
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
    assert bench.errno(bench.core.notifiers.register_mm, bench.tokens["mm1"], late) == "EBUSY"
    bench.core.free(the_set, number)
    bench.core.notifiers.register_mm(bench.tokens["mm1"], late)
    bench.alloc(the_set)
    assert [event for _, event, _ in late.heard] == ["ALLOC"]


def test_registering_the_same_pair_twice_is_ebusy(bench):
    """The same block with another mm is another registration."""
    listener = bench.listen("kvm", token="mm1")
    assert bench.errno(bench.core.notifiers.register_mm, bench.tokens["mm1"], listener) == "EBUSY"
    bench.core.notifiers.register_mm(bench.tokens["mm2"], listener)


def test_after_leaving_nothing_is_heard(bench):
    """Unregister takes the block off the chain."""
    the_set = bench.set()
    listener = bench.listen("kvm")
    bench.core.notifiers.unregister_mm(bench.tokens["mm1"], listener)
    bench.alloc(the_set)
    assert listener.heard == []


def test_when_a_set_ends_its_subscribers_wait_for_the_next_one_of_that_token(bench):
    """Entries fall back to pending."""
    listener = bench.listen("kvm")
    bench.core.sets.free(bench.set())
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


# --- order -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(list(Priority)), st.booleans()), max_size=8),
)
def test_free_is_heard_in_one_order_over_both_chains(subscribers):
    """By priority; among equals the global chain first; within a chain in order of registration."""
    from tests.kernel.ioasid.conftest import Bench

    bench, heard = Bench(), list[Any]()
    the_set = bench.set()
    for at, (priority, everyone) in enumerate(subscribers):
        bench.listen(f"{at}", priority, None if everyone else "mm1", heard=heard)
    expected = [f"{at}" for at, _ in sorted(enumerate(subscribers), key=lambda row: (-row[1][0], not row[1][1]))]
    both = NotifyFlag.ALL | NotifyFlag.SET
    assert [one.notifier_name for one in bench.core.notifiers.listeners(the_set, both)] == expected
    bench.dying(the_set)
    assert names(heard, "FREE") == expected


def test_who_waited_for_a_set_is_connected_by_priority_then_by_arrival(bench):
    """As if they had registered with the set itself."""
    heard: list[Any] = []
    for name, priority in (("b", Priority.LAST), ("c", Priority.CPU), ("a", Priority.LAST)):
        bench.listen(name, priority, heard=heard)
    bench.alloc(bench.set())
    assert names(heard, "ALLOC") == ["c", "b", "a"]


def test_flags_choose_the_chains(bench):
    """ALL, SET, both, none."""
    bench.listen("everyone", token=None)
    bench.listen("set")
    the_set = bench.set()
    listeners = bench.core.notifiers.listeners
    found = [[one.path for one in listeners(the_set, NotifyFlag(flags))] for flags in range(4)]
    assert found == [[], ["everyone"], ["set"], ["everyone", "set"]]


@pytest.mark.parametrize("flags", [4, 5, 7, 1 << 31])
def test_a_flag_that_does_not_exist_is_einval(bench, flags):
    """ALL is bit 0, SET is bit 1."""
    the_set = bench.set()
    assert bench.errno(bench.core.notifiers.listeners, the_set, NotifyFlag(flags)) == "EINVAL"


# --- on a chain ------------------------------------------------------------------------------------------------------


def test_one_can_register_on_the_chain_of_a_set_at_any_time(bench, make_listener):
    """Also when it has IDs: only registration by mm is refused then. What has been is not told again."""
    the_set = bench.set()
    bench.alloc(the_set)
    late = make_listener("late")
    bench.core.notifiers.register(late, the_set)
    bench.alloc(the_set)
    assert [payload.ioasid for _, _, payload in late.heard] == [2]


def test_on_one_chain_everybody_is_once(bench, make_listener):
    """-EEXIST, on the same chain; another chain is another matter."""
    the_set, listener = bench.set(), make_listener("kvm")
    bench.core.notifiers.register(listener, the_set)
    assert bench.errno(bench.core.notifiers.register, listener, the_set) == "EEXIST"
    assert bench.errno(bench.core.notifiers.register_mm, bench.tokens["mm1"], listener) == "EEXIST"
    bench.core.notifiers.register(listener)
    assert bench.errno(bench.core.notifiers.register, listener) == "EEXIST"


def test_the_chain_of_a_set_that_is_gone_is_einval(bench, make_listener):
    """To register and to unregister."""
    the_set, listener = bench.set(), make_listener("kvm")
    bench.core.notifiers.register(listener, the_set)
    bench.core.sets.free(the_set)
    assert bench.errno(bench.core.notifiers.register, listener, the_set) == "EINVAL"
    assert bench.errno(bench.core.notifiers.unregister, listener, the_set) == "EINVAL"


def test_unregistering_undoes_registering(bench, make_listener):
    """On both kinds of chain; the world is as before."""
    the_set, listener = bench.set(), make_listener("kvm")
    before = bench.time.digest()
    for where in (None, the_set):
        bench.core.notifiers.register(listener, where)
        bench.core.notifiers.unregister(listener, where)
        assert bench.time.digest() == before
    bench.dying(the_set)
    assert listener.heard == []


def test_unregistering_who_is_not_there_is_ignored_with_an_event(bench, make_listener):
    """The function is void."""
    the_set, listener = bench.set(), make_listener("kvm")
    for where in (None, the_set):
        bench.unchanged(bench.core.notifiers.unregister, listener, where)
    bench.unchanged(bench.core.notifiers.unregister_mm, bench.tokens["mm1"], listener)
    assert [subject for _, subject in bench.verbs(Verb.IGNORE)] == [
        "kvm is not on this chain",
        "kvm is not on this chain",
        "kvm is not registered for this VM",
    ]


def test_who_registered_by_mm_must_unregister_by_mm(bench):
    """The plain call is refused, with an event; the entry would otherwise come back with the next set."""
    listener = bench.listen("kvm")
    the_set = bench.set()
    for where in (the_set, None):
        bench.unchanged(bench.core.notifiers.unregister, listener, where)
    assert [subject for _, subject in bench.verbs(Verb.IGNORE)] == [
        "kvm must be unregistered by the mm under which it registered"
    ] * 2
    bench.core.notifiers.unregister_mm(bench.tokens["mm1"], listener)
    bench.alloc(the_set)
    assert listener.heard == []


def test_unregistering_from_an_empty_set_leaves_the_set_alone(bench):
    """The code destroyed it (bug 4 of the fact sheet)."""
    listener = bench.listen("kvm")
    the_set = bench.set()
    bench.core.notifiers.unregister_mm(bench.tokens["mm1"], listener)
    assert bench.core.sets.values() == [the_set]
    assert bench.alloc(the_set) == 1


# --- by mm -----------------------------------------------------------------------------------------------------------


def active(bench):
    """Who is registered by mm, and whether its set is there."""
    return [(row.token.path, row.subscriber.path, row.active) for row in bench.core.notifiers.registrations()]


def test_registrations_wait_connect_fall_back_and_connect_again(bench):
    """pending -> active -> pending -> active, for as long as nobody unregisters."""
    listener = bench.listen("kvm")
    for _ in range(2):
        assert active(bench) == [("mm1", "kvm", False)]
        the_set = bench.set("mm1")
        assert active(bench) == [("mm1", "kvm", True)]
        bench.core.free(the_set, bench.alloc(the_set))
        bench.core.sets.free(the_set)
    assert active(bench) == [("mm1", "kvm", False)]
    assert [event for _, event, _ in listener.heard] == ["ALLOC", "ALLOC"]


def test_a_marked_set_falls_back_when_it_ends(bench):
    """Until then its subscribers hear of its IDs."""
    listener = bench.listen("kvm")
    the_set = bench.set("mm1")
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(the_set)
    assert active(bench) == [("mm1", "kvm", True)]
    bench.core.free(the_set, number)
    bench.core.put(number, "user")
    assert active(bench) == [("mm1", "kvm", False)]
    assert [event for _, event, _ in listener.heard] == ["ALLOC", "FREE"]


def test_a_pending_registration_can_be_withdrawn(bench):
    """The next set does not know it."""
    listener = bench.listen("kvm")
    bench.core.notifiers.unregister_mm(bench.tokens["mm1"], listener)
    assert active(bench) == []
    bench.alloc(bench.set())
    assert listener.heard == []


def test_only_the_set_of_the_token_connects(bench):
    """Sets of other mms, and of none, do not."""
    listener = bench.listen("kvm", token="mm1")
    bench.alloc(bench.set("mm2"))
    bench.alloc(bench.core.sets.alloc("host", None, 2))
    assert (listener.heard, active(bench)) == ([], [("mm1", "kvm", False)])


def test_a_dying_id_is_an_id_for_late_comers(bench, make_listener):
    """-EBUSY until the last one is reclaimed."""
    the_set, late = bench.set(), make_listener("late")
    number = bench.dying(the_set)
    assert bench.errno(bench.core.notifiers.register_mm, bench.tokens["mm1"], late) == "EBUSY"
    bench.core.put(number, "user")
    bench.core.notifiers.register_mm(bench.tokens["mm1"], late)


def test_without_memory_a_registration_is_enomem(bench, make_listener):
    """After all other checks; pending or not."""
    late = make_listener("late")
    bench.core.slab.fail_nth = 1
    with pytest.raises(Exception, match="ENOMEM"):
        bench.core.notifiers.register_mm(bench.tokens["mm1"], late)
    assert active(bench) == []


# --- handlers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["refused", "declined"])
def test_what_a_handler_answers_changes_nothing_for_the_others(bench, error):
    """Results are ignored; a refusal is an event."""
    heard: list[Any] = []
    first = bench.listen("first", Priority.CPU, heard=heard)
    bench.listen("second", heard=heard)
    first.react["BIND"] = lambda payload: bench.core.get_locked(99, "first")
    if error == "declined":
        first.react.clear()
        first.ioasid_notified = lambda event, payload: heard.append(("first", event, payload))
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 5)
    assert names(heard, "BIND") == ["first", "second"]
    assert bench.core.ids[number].spid == 5
    refusals = [(Verb.REFUSE, f"first, BIND of IOASID {number}: PASID 99 is not allocated")]
    assert bench.verbs(Verb.REFUSE) == (refusals if error == "refused" else [])


def test_the_payload_carries_the_private_data_of_that_moment(bench):
    """What is attached later does not appear in it."""
    listener = bench.listen("kvm")
    the_set, thing = bench.set(), bench.tokens["mm3"]
    number = bench.alloc(the_set)
    bench.core.attach_data(number, thing)
    bench.core.attach_spid(number, 5)
    bench.core.detach_data(number)
    bench.core.get(number, "user")
    bench.core.free(the_set, number)
    assert [(event, payload.private) for _, event, payload in listener.heard] == [
        ("ALLOC", None),
        ("BIND", thing),
        ("FREE", None),
    ]


def test_the_clean_up_of_a_dying_id_tells_nobody(bench):
    """UNBIND after FREE is not sent: FREE has told them; the allocator's own list of moves stays BIND, FREE."""
    listener = bench.listen("kvm")
    the_set, number = bound_id(bench)
    bench.core.free(the_set, number)
    bench.core.detach_spid(number)
    bench.core.put(number, "user")
    assert [event for _, event, _ in listener.heard] == ["ALLOC", "BIND", "FREE"]
