"""ioasid_set: one an mm, a quota out of the common capacity, and an end that waits for its last ID (facts 1.4, 1.7)."""

import pytest

from pasidlab.kernel.ioasid.sets import SetType
from pasidlab.timeline import Verb

# --- a set begins ----------------------------------------------------------------------------------------------------


def test_a_set_takes_its_quota_out_of_the_capacity_and_gives_it_back(bench):
    """V4 forgot the second half; the documents and earlier versions return it."""
    the_set = bench.set(quota=8)
    assert bench.core.capacity.available == 24
    bench.core.sets.free(the_set)
    assert bench.core.capacity.available == 32
    assert bench.verbs(Verb.SET_ALLOC, Verb.SET_FREE) == [
        (Verb.SET_ALLOC, "set 0 for mm1"),
        (Verb.SET_FREE, "set 0 of mm1"),
    ]


def test_a_vm_can_start_and_stop_as_often_as_it_likes(make_bench):
    """No quota leaks: the code of 2021 ended here with -ENOSPC (facts 1.4, surprise 1)."""
    bench = make_bench(capacity=10)
    before = bench.time.digest()
    for _ in range(5):
        the_set = bench.set(quota=10)
        bench.core.free(the_set, bench.alloc(the_set))
        bench.core.sets.free(the_set)
    assert bench.time.digest() == before


def test_a_quota_beyond_what_is_left_is_enospc(bench):
    """The other sets hold the rest."""
    bench.set("mm1", 30)
    assert bench.errno(bench.set, "mm2", 3) == "ENOSPC"
    bench.set("mm2", 2)


def test_quota_0_takes_all_that_is_left(bench):
    """A surprise of the interface: 0 is not "unlimited" and not "none" (facts 1.4, surprise 2)."""
    bench.set("mm1", 20)
    assert bench.set("mm2", 0).quota == 12
    assert bench.core.capacity.available == 0


def test_a_second_set_with_quota_0_has_nothing_and_can_allocate_nothing(bench):
    """The first one drained the pool; any real quota is refused."""
    bench.set("mm1", 0)
    assert bench.errno(bench.set, "mm2", 1) == "ENOSPC"
    second = bench.set("mm2", 0)
    assert second.quota == 0
    assert "quota of 0" in bench.refused(bench.alloc, second)


def test_a_set_without_quota_takes_nothing_out_of_the_capacity(bench):
    """``None`` is not 0: an administrator's policy pays for each ID."""
    the_set = bench.set("mm1", None)
    assert (the_set.quota, bench.core.capacity.available) == (None, 32)
    assert [bench.alloc(the_set) for _ in range(3)] == [1, 2, 3]


def test_the_whole_capacity_can_be_given_away_in_small_quotas(make_bench):
    """Twenty sets of one ID each: numbers of sets are not bounded by what is left (bug 20 of the fact sheet)."""
    bench = make_bench(capacity=20)
    sets = [bench.core.sets.alloc(f"vm{at}", None, 1) for at in range(20)]
    assert [the_set.set_id for the_set in sets] == list(range(20))
    assert bench.errno(bench.core.sets.alloc, "one more", None, 1) == "ENOSPC"
    assert bench.core.sets.alloc("without quota", None, None).set_id == 20


def test_a_set_gets_the_lowest_number_that_no_set_has(bench):
    """Numbers of sets that are gone are used again."""
    one, two = bench.set("mm1"), bench.set("mm2")
    bench.core.sets.free(one)
    assert bench.set("mm3").set_id == 0
    assert (two.set_id, bench.set("mm1").set_id) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "token", "errno"),
    [
        (0, None, "EINVAL"),
        (3, "mm1", "EINVAL"),
        (SetType.MM, None, "EINVAL"),
        (SetType.NONE, "mm1", "EINVAL"),
    ],
    ids=["no such type", "NR", "MM without token", "NONE with token"],
)
def test_type_and_token_must_fit(bench, kind, token, errno):
    """A type that exists; a token exactly for type MM."""
    assert bench.errno(bench.core.sets.alloc, "vm", token and bench.tokens[token], 1, kind) == errno


def test_the_type_follows_from_the_token_unless_it_is_said(bench):
    """An mm makes an MM set, nothing makes one of type NONE."""
    assert bench.set("mm1").kind is SetType.MM
    assert bench.core.sets.alloc("host", None, 1).kind is SetType.NONE
    assert bench.core.sets.alloc("vm", bench.tokens["mm2"], 1, 2).kind is SetType.MM


def test_a_negative_quota_is_einval(bench):
    """There is no such number of IDs."""
    assert bench.errno(bench.set, "mm1", -1) == "EINVAL"


def test_a_token_has_one_set_and_the_second_is_eexist(bench):
    """One set for each mm."""
    bench.set("mm1", 1)
    assert bench.errno(bench.set, "mm1", 1) == "EEXIST"


@pytest.mark.parametrize(
    ("kind", "quota", "token", "errno"),
    [
        (3, 99, None, "EINVAL"),
        (SetType.MM, 99, None, "ENOSPC"),
        (SetType.MM, 99, "mm1", "ENOSPC"),
        (SetType.MM, 1, None, "EINVAL"),
        (SetType.MM, 1, "mm1", "EEXIST"),
    ],
    ids=["type before quota", "quota before token", "quota before duplicate", "token", "duplicate"],
)
def test_what_is_wrong_with_a_new_set_is_said_in_the_kernels_order(bench, kind, quota, token, errno):
    """Type, capacity, token, duplicate, memory: with several faults the first one is reported."""
    bench.set("mm1", 1)
    bench.core.slab.fail_nth = 1
    assert bench.errno(bench.core.sets.alloc, "vm", token and bench.tokens[token], quota, kind) == errno


def test_without_memory_for_a_set_it_is_enomem(bench):
    """Only when all else is right."""
    bench.core.slab.fail_nth = 1
    with pytest.raises(Exception, match="-ENOMEM: no memory for struct ioasid_set"):
        bench.set("mm1", 1)
    assert (len(bench.core.sets), bench.core.capacity.available) == (0, 32)


def test_sets_without_token_do_not_exclude_each_other(bench):
    """Sets of type NONE have no token to be found by."""
    bench.core.sets.alloc("host", None, 1)
    bench.core.sets.alloc("host2", None, 1)
    assert len(bench.core.sets) == 2


def test_a_set_is_found_by_its_token_as_long_as_it_exists(bench):
    """ioasid_find_mm_set; no reference is taken."""
    token, sets = bench.tokens["mm1"], bench.core.sets
    assert bench.unchanged(sets.find_mm, token) is None
    the_set = bench.set("mm1")
    assert bench.unchanged(sets.find_mm, token) is the_set
    sets.free(the_set)
    assert sets.find_mm(token) is None


# --- a set ends ------------------------------------------------------------------------------------------------------


def test_a_world_whose_sets_are_gone_is_as_if_they_had_never_been(bench):
    """Nothing of a set outlives it."""
    before = bench.time.digest()
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    bench.core.free(the_set, number)
    bench.core.sets.free(the_set)
    assert bench.time.digest() == before


def test_freeing_a_set_that_is_gone_is_einval(bench):
    """It is not in the table any more, also when its number has another owner now."""
    the_set = bench.set("mm1")
    bench.core.sets.free(the_set)
    assert bench.errno(bench.core.sets.free, the_set) == "EINVAL"
    bench.set("mm2")
    assert bench.errno(bench.core.sets.free, the_set) == "EINVAL"


def test_a_set_with_ids_is_marked_and_the_caller_told_ebusy(bench):
    """It lives on, with its quota and its token still taken, and takes no new IDs."""
    the_set = bench.set(quota=8)
    number = bench.alloc(the_set)
    with pytest.raises(Exception, match="-EBUSY: mm1 still has 1 PASIDs out"):
        bench.core.sets.free(the_set)
    assert the_set.free_pending
    assert bench.core.capacity.available == 24
    assert bench.errno(bench.set, "mm1", 1) == "EEXIST"
    assert "takes no new ones" in bench.refused(bench.alloc, the_set)
    assert bench.errno(bench.core.sets.free, the_set) == "EBUSY"
    assert bench.core.ids[number].owner is the_set


def test_a_marked_set_ends_with_its_last_id(bench):
    """At the last put; then the quota returns and the token is free."""
    the_set = bench.set(quota=8)
    first, second = bench.alloc(the_set), bench.alloc(the_set)
    bench.core.get(second, "user")
    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(the_set)
    bench.core.free_all(the_set)
    assert first not in bench.core.ids
    assert (bench.core.capacity.available, bench.core.sets.find_mm(bench.tokens["mm1"])) == (24, the_set)
    assert bench.core.put(second, "user")
    assert (bench.core.capacity.available, bench.core.sets.find_mm(bench.tokens["mm1"])) == (32, None)
    assert bench.set("mm1").set_id == 0


def test_a_marked_set_also_ends_with_a_free(bench):
    """The last ID may have no users."""
    the_set = bench.set(quota=8)
    number = bench.alloc(the_set)
    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(the_set)
    bench.core.free(the_set, number)
    assert len(bench.core.sets) == 0


def test_a_set_that_is_not_marked_stays_when_its_last_id_goes(bench):
    """Only sets.free ends a set."""
    the_set = bench.set()
    bench.core.free(the_set, bench.alloc(the_set))
    assert bench.core.sets.values() == [the_set]


def test_a_set_that_is_gone_gives_no_ids(bench):
    """INVALID_IOASID, also when its number has another owner now."""
    the_set = bench.set("mm1")
    bench.core.sets.free(the_set)
    bench.set("mm2")
    assert "has no ioasid_set any more" in bench.refused(bench.alloc, the_set)


def test_reading_the_quota_of_a_set_that_is_gone_is_a_use_after_free(bench):
    """The model finds what the kernel would crash on."""
    the_set = bench.set()
    bench.core.sets.free(the_set)
    with pytest.raises(AttributeError):
        _ = the_set.quota


# --- quota -----------------------------------------------------------------------------------------------------------


def test_a_quota_can_grow_and_shrink(bench):
    """The difference comes out of the capacity, or returns to it."""
    the_set = bench.set(quota=8)
    bench.core.sets.adjust(the_set, 20)
    assert (the_set.quota, bench.core.capacity.available) == (20, 12)
    bench.core.sets.adjust(the_set, 1)
    assert (the_set.quota, bench.core.capacity.available) == (1, 31)


@pytest.mark.parametrize(
    ("quota", "errno"),
    [(0, "EINVAL"), (-1, "EINVAL"), (1, "EINVAL"), (33, "ENOSPC")],
    ids=["none", "negative", "below what is out", "more than is left"],
)
def test_a_quota_that_cannot_be_is_refused_and_stays_as_it_was(bench, quota, errno):
    """At least 1, at least what is out, at most what is left."""
    the_set = bench.set(quota=8)
    bench.alloc(the_set)
    bench.dying(the_set)
    assert bench.errno(bench.core.sets.adjust, the_set, quota) == errno
    bench.core.sets.adjust(the_set, 2)
    bench.core.sets.adjust(the_set, 32)


def test_a_set_without_quota_or_gone_cannot_be_adjusted(bench):
    """-EINVAL."""
    gone, free = bench.set("mm1"), bench.set("mm2", None)
    bench.core.sets.free(gone)
    assert bench.errno(bench.core.sets.adjust, gone, 2) == "EINVAL"
    assert bench.errno(bench.core.sets.adjust, free, 2) == "EINVAL"


def test_the_accounts_balance_at_every_event(bench):
    """Whoever travels to the middle of a call finds quotas and capacity that add up, and no SPID twice."""
    seen = []

    def look(event):
        promised = sum(the_set.quota for the_set in bench.core.sets.values())
        capacity = bench.core.capacity
        seen.append((promised + capacity.reserved + capacity.available, capacity.total, str(event)))

    bench.time.observe(look)
    one, other = bench.set("mm1"), bench.set("mm2", 4)
    bench.core.sets.adjust(one, 12)
    bench.core.capacity.reserve(3)
    bench.core.capacity.install(30)
    bench.core.capacity.cancel(1)
    number = bench.dying(one)
    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(one)
    bench.core.put(number, "user")
    bench.core.sets.free(other)
    assert len(seen) > 10
    assert [row for row in seen if row[0] != row[1]] == []


# --- all IDs of a set ------------------------------------------------------------------------------------------------


def test_freeing_all_ids_of_a_set_is_freeing_each(bench):
    """Those with users become free-pending, stay in the set and can be found by SPID; the others are reclaimed."""
    listener = bench.listen("kvm")
    the_set = bench.set()
    ids = [bench.alloc(the_set) for _ in range(3)]
    bench.core.get(ids[1], "user")
    bench.core.attach_spid(ids[1], 5)
    bench.core.free_all(the_set)
    assert the_set.ids.keys() == [ids[1]]
    assert bench.core.ids[ids[1]].free_pending
    assert bench.core.find_by_spid(the_set, 5) == ids[1]
    assert [event for _, event, _ in listener.heard].count("FREE") == 1


def test_freeing_all_of_an_empty_set_or_one_that_is_gone_is_silent(bench):
    """Nothing happens and nobody hears of it."""
    gone, empty = bench.set("mm1"), bench.set("mm2")
    bench.core.sets.free(gone)
    begin = bench.time.now
    bench.unchanged(bench.core.free_all, gone)
    bench.unchanged(bench.core.free_all, empty)
    assert bench.time.now == begin


def test_for_each_visits_every_id_of_the_set_lowest_first(bench):
    """Dying ones too, other sets' not."""
    one, other = bench.set("mm1"), bench.set("mm2")
    ids = [bench.alloc(one, 9), bench.alloc(one), bench.dying(one)]
    bench.alloc(other)
    seen: list[int] = []
    bench.unchanged(bench.core.sets.for_each, one, seen.append)
    assert seen == sorted(ids)


def test_for_each_holds_no_lock_so_that_a_visit_may_free_what_it_sees(bench):
    """ioasid_set_for_each_ioasid with ioasid_free inside."""
    the_set = bench.set()
    for _ in range(3):
        bench.alloc(the_set)
    bench.core.sets.for_each(the_set, lambda number: bench.core.free(the_set, number))
    assert len(bench.core.ids) == 0


def test_for_each_does_not_visit_what_a_visit_has_reclaimed(bench):
    """It looks for the next ID that is there."""
    the_set, seen = bench.set(), []
    ids = [bench.alloc(the_set) for _ in range(3)]

    def visit(number):
        seen.append(number)
        bench.core.free(the_set, ids[1])

    bench.core.sets.for_each(the_set, visit)
    assert seen == [ids[0], ids[2]]


def test_for_each_of_a_marked_set_survives_the_end_of_the_set(bench):
    """A visit may free the last ID, and with it the set."""
    the_set, seen = bench.set(), list[int]()
    ids = [bench.alloc(the_set) for _ in range(2)]

    def visit(number):
        seen.append(number)
        bench.core.free_all(the_set)

    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(the_set)
    bench.core.sets.for_each(the_set, visit)
    assert seen == ids[:1]
    assert bench.errno(bench.core.sets.for_each, the_set, seen.append) == "EINVAL"
