"""ioasid_set: one an mm, a quota out of the common capacity, and an end that waits for its last ID (facts 1.4, 1.7)."""

import pytest

from pasidlab.timeline import Verb


def test_a_set_takes_its_quota_out_of_the_capacity_and_gives_it_back(bench):
    """V4 forgot the second half; the documents and earlier versions return it."""
    the_set = bench.set(quota=8)
    assert bench.core.available == 24
    bench.core.set_free(the_set)
    assert bench.core.available == 32
    assert bench.verbs(Verb.SET_ALLOC, Verb.SET_FREE) == [
        (Verb.SET_ALLOC, "set 0 for mm1"),
        (Verb.SET_FREE, "set 0 of mm1"),
    ]


def test_a_world_whose_sets_are_gone_is_as_if_they_had_never_been(bench):
    """Nothing of a set outlives it."""
    before = bench.time.digest()
    the_set = bench.set()
    bench.core.free(the_set, bench.alloc(the_set))
    bench.core.set_free(the_set)
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
    assert bench.core.available == 0


def test_a_negative_quota_is_einval(bench):
    """There is no such number of IDs."""
    assert bench.errno(bench.set, "mm1", -1) == "EINVAL"


def test_a_token_has_one_set_and_the_second_is_eexist(bench):
    """One set for each mm."""
    bench.set("mm1", 1)
    assert bench.errno(bench.set, "mm1", 1) == "EEXIST"


def test_sets_without_token_do_not_exclude_each_other(bench):
    """Sets of type NULL have no token to be found by."""
    bench.core.set_alloc("host", None, 1)
    bench.core.set_alloc("host2", None, 1)
    assert len(bench.core.sets) == 2


def test_a_set_is_found_by_its_token_as_long_as_it_exists(bench):
    """ioasid_find_mm_set."""
    token = bench.tokens["mm1"]
    assert bench.core.find_set(token) is None
    the_set = bench.set("mm1")
    assert bench.core.find_set(token) is the_set
    bench.core.set_free(the_set)
    assert bench.core.find_set(token) is None


def test_freeing_a_set_that_is_gone_is_einval(bench):
    """It is not in the table any more."""
    the_set = bench.set()
    bench.core.set_free(the_set)
    assert bench.errno(bench.core.set_free, the_set) == "EINVAL"


def test_a_freed_set_with_ids_lives_until_its_last_id_is_reclaimed(bench):
    """Pending, with its quota and its token still taken; then it goes, and only then the quota returns."""
    the_set = bench.set(quota=8)
    first, second = bench.alloc(the_set), bench.alloc(the_set)
    bench.core.get(second, "user")
    bench.core.set_free(the_set)
    assert bench.errno(bench.set, "mm1", 1) == "EEXIST"
    bench.core.free_all(the_set)
    assert bench.core.available == 24
    assert first not in bench.core.ids
    bench.core.put(second, "user")
    assert bench.core.available == 32
    assert bench.core.find_set(bench.tokens["mm1"]) is None


def test_reading_a_set_that_is_gone_is_a_use_after_free(bench):
    """The model finds what the kernel would crash on."""
    the_set = bench.set()
    bench.core.set_free(the_set)
    with pytest.raises(AttributeError):
        bench.alloc(the_set)


def test_freeing_all_ids_of_a_set_is_freeing_each(bench):
    """Those with users become free-pending, the others are reclaimed."""
    the_set = bench.set()
    ids = [bench.alloc(the_set) for _ in range(3)]
    bench.core.get(ids[1], "user")
    bench.core.free_all(the_set)
    assert the_set.ids.keys() == [ids[1]]
    assert bench.core.ids[ids[1]].free_pending
