"""IDs: allocation, references with names, free that always succeeds, and quota until reclaim (facts 1.3, 1.5, 1.7)."""

import pytest

from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Priority
from pasidlab.kernel.ioasid.record import INVALID_IOASID, MOVES, State
from pasidlab.timeline import Verb

# --- allocation -----------------------------------------------------------------------------------------------------


def test_an_id_begins_idle_with_one_reference_of_its_allocator(bench):
    """FREE -> IDLE, refcount 1."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    record = bench.core.ids[number]
    assert (record.state, record.holders, record.spid, record.owner) == (State.IDLE, ("owner",), None, the_set)
    alloc = next(event for event in bench.time.events if event.verb is Verb.ALLOC)
    assert (alloc.fact("ioasid"), alloc.fact("refs"), alloc.after) == (number, 1, "mm1")


def test_the_lowest_free_number_in_the_inclusive_range_is_handed_out(bench):
    """Both ends belong to the range; numbers are system-wide, whatever the set."""
    one, other = bench.set("mm1"), bench.set("mm2")
    assert [bench.alloc(one, 5, 6), bench.alloc(other, 5, 6)] == [5, 6]
    with pytest.raises(IoasidRefused):
        bench.alloc(one, 5, 6)
    assert bench.alloc(one, 0, 6) == 0


def test_a_set_gets_no_more_ids_than_its_quota(bench):
    """Refused in words; the kernel says INVALID_IOASID for every kind of failure."""
    the_set = bench.set(quota=2)
    bench.alloc(the_set), bench.alloc(the_set)
    with pytest.raises(IoasidRefused, match="mm1 has used its quota of 2 PASIDs"):
        bench.alloc(the_set)
    assert the_set.count == 2


def test_a_range_that_is_empty_or_full_gives_no_id(bench):
    """Both ends are the caller's; upside down is empty."""
    the_set = bench.set()
    bench.alloc(the_set, 3, 3)
    for low, high in ((3, 3), (5, 4)):
        assert "every number in the range is out" in bench.refused(bench.alloc, the_set, low, high)


def test_the_core_itself_hands_out_0_and_everything_below_the_invalid_one(bench):
    """Only its callers keep 0 free; all ones means "no ID" (facts 1.1)."""
    the_set = bench.set()
    assert bench.alloc(the_set, 0, 0) == 0
    assert bench.alloc(the_set, INVALID_IOASID - 1, INVALID_IOASID) == INVALID_IOASID - 1
    bench.refused(bench.alloc, the_set, INVALID_IOASID, INVALID_IOASID)


def test_a_new_id_is_told_to_its_sets_subscribers_as_it_is(bench):
    """ALLOC, when all is done: a handler finds it, and may take a reference."""
    listener = bench.listen("kvm", react={"ALLOC": lambda payload: bench.core.get_locked(payload.ioasid, "kvm")})
    the_set, thing = bench.set(), bench.tokens["mm3"]
    number = bench.core.alloc(the_set, 7, 9, "owner", private=thing)
    assert listener.heard == [("kvm", IoasidEvent.ALLOC, (7, None, 0, thing))]
    assert bench.core.ids[number].holders == ("owner", "kvm")


def test_what_is_wrong_with_an_allocation_is_said_in_order(bench):
    """Set gone, set ending, quota, memory, range."""
    gone, ending, full = bench.set("mm1"), bench.set("mm2"), bench.set("mm3", 1)
    bench.core.sets.free(gone)
    number = bench.alloc(ending)
    with pytest.raises(Exception, match="EBUSY"):
        bench.core.sets.free(ending)
    bench.alloc(full)
    bench.core.slab.fail_nth = 1
    assert "no ioasid_set any more" in bench.refused(bench.alloc, gone, number, number)
    assert "ends with its last ID" in bench.refused(bench.alloc, ending, number, number)
    assert "used its quota of 1" in bench.refused(bench.alloc, full, number, number)
    bench.core.sets.adjust(full, 2)
    with pytest.raises(IoasidRefused, match="no memory for struct ioasid_data"):
        bench.alloc(full, number, number)
    assert "every number in the range is out" in bench.refused(bench.alloc, full, number, number)


def test_a_refused_allocation_changes_nothing(make_bench):
    """Neither the quota nor the pool."""
    bench = make_bench(capacity=2)
    the_set = bench.set(quota=2)
    bench.alloc(the_set, 0, 0)
    before = bench.time.digest()
    with pytest.raises(IoasidRefused):
        bench.alloc(the_set, 0, 0)
    assert bench.time.digest() == before


def test_a_number_is_reused_only_after_its_reclaim(bench):
    """Free-pending numbers are not in the pool."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    bench.core.free(the_set, number)
    assert bench.alloc(the_set) == number + 1
    bench.core.put(number, "user")
    assert bench.alloc(the_set) == number


# --- references -----------------------------------------------------------------------------------------------------


def test_references_have_names_and_are_counted(bench):
    """IDLE -> ACTIVE with the first user, back with the last; each holder by name, twice if twice."""
    number = bench.alloc(bench.set())
    record = bench.core.ids[number]
    bench.core.get(number, "kvm")
    bench.core.get(number, "kvm")
    assert (record.state, record.holders) == (State.ACTIVE, ("owner", "kvm", "kvm"))
    assert not bench.core.put(number, "kvm")
    assert not bench.core.put(number, "kvm")
    assert (record.state, record.refs) == (State.IDLE, 1)


def test_put_says_whether_it_was_the_one_that_reclaimed(bench):
    """True only for the last reference."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "a")
    bench.core.get(number, "b")
    bench.core.free(the_set, number)
    assert bench.core.put(number, "a") is False
    assert bench.core.put(number, "b") is True


def test_nobody_can_drop_a_reference_that_he_does_not_hold(bench):
    """A put too many is a mistake at the place where it is made."""
    number = bench.alloc(bench.set())
    with pytest.raises(
        ValueError, match=f"kvm must hold a reference on IOASID {number}, beside the allocator's, to drop it"
    ):
        bench.core.put(number, "kvm")


def test_get_of_an_unknown_id_is_einval_and_every_look_up_enoent(bench):
    """Two errnos for one thing: so the kernel has it."""
    bench.set()
    assert bench.errno(bench.core.get, 7, "user") == "EINVAL"
    assert bench.errno(bench.core.get_locked, 7, "user") == "EINVAL"
    assert bench.errno(bench.core.find, 7) == "ENOENT"
    assert bench.errno(bench.core.set_of, 7) == "ENOENT"
    assert bench.errno(bench.core.get_if_owned, 7, "user", bench.tokens["mm1"]) == "ENOENT"
    assert bench.unchanged(bench.core.put, 7, "user") is False


def test_a_reclaimed_id_is_an_unknown_one(bench):
    """Nothing remembers it."""
    the_set = bench.set()
    number = bench.dying(the_set)
    bench.core.put(number, "user")
    assert bench.errno(bench.core.get, number, "user") == "EINVAL"
    assert bench.errno(bench.core.find, number) == "ENOENT"
    assert bench.unchanged(bench.core.put, number, "user") is False


def test_get_of_a_foreign_id_is_eacces_and_without_a_set_there_is_no_check(bench):
    """A set argument asks for the ownership check."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number = bench.alloc(one)
    assert bench.errno(bench.core.get, number, "user", other) == "EACCES"
    assert bench.errno(bench.core.find, number, other) == "EACCES"
    bench.core.get(number, "user", one)
    bench.core.get(number, "user")
    assert bench.core.find(number, one) is bench.core.find(number)


def test_put_of_a_foreign_id_is_false_and_drops_nothing(bench):
    """A set argument asks for the ownership check; without one there is none."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number = bench.alloc(one)
    bench.core.get(number, "user")
    assert bench.unchanged(bench.core.put, number, "user", other) is False
    assert bench.core.put(number, "user", one) is False
    assert bench.refs(number) == 1


def test_a_dying_id_gives_no_reference_by_any_way(bench):
    """Documents: -ENOENT; tested before ownership. The code answered -EBUSY and let the SPID look-up take one."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number = bench.alloc(one)
    bench.core.attach_spid(number, 5)
    bench.core.get(number, "user")
    bench.core.free(one, number)
    for the_set in (None, one, other):
        assert bench.errno(bench.core.get, number, "late", the_set) == "ENOENT"
        assert bench.errno(bench.core.find, number, the_set) == "ENOENT"
    assert bench.errno(bench.core.attach_spid, number, 6) == "ENOENT"
    assert bench.errno(bench.core.attach_data, number, bench.tokens["mm1"]) == "ENOENT"
    assert bench.core.find_by_spid(one, 5, holder="late") is None
    assert bench.core.ids[number].holders == ("user",)


# --- free -----------------------------------------------------------------------------------------------------------


def test_free_of_an_unused_id_reclaims_it_without_an_event(bench):
    """IDLE -> FREE: nobody needs to be told."""
    bench.listen("user")
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.free(the_set, number)
    assert number not in bench.core.ids
    assert "FREE" not in bench.told()


def test_free_of_a_used_id_tells_once_and_the_last_put_reclaims(bench):
    """ACTIVE -> FREE_PENDING -> FREE; the allocator's own reference goes at free."""
    bench.listen("user")
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    bench.core.free(the_set, number)
    record = bench.core.ids[number]
    assert (record.state, record.holders) == (State.FREE_PENDING, ("user",))
    assert bench.told().count("FREE") == 1
    bench.core.put(number, "user")
    assert record.state is State.FREE


def test_a_double_free_emits_one_free_and_drops_nothing_twice(bench):
    """FREE_PENDING -> FREE_PENDING: level behaviour."""
    bench.listen("user")
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "a")
    bench.core.get(number, "b")
    for _ in range(3):
        bench.core.free(the_set, number)
    assert bench.told().count("FREE") == 1
    assert bench.refs(number) == 2


def test_free_always_succeeds(bench):
    """An unknown, a foreign and an already reclaimed ID are left alone, without an error and without a change."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number = bench.alloc(one)
    before = bench.time.digest()
    bench.core.free(one, 31)
    bench.core.free(other, number)
    assert bench.time.digest() == before
    bench.core.free(one, number)
    after = bench.time.digest()
    bench.core.free(one, number)
    assert bench.time.digest() == after


def test_a_dying_id_counts_against_the_quota_until_its_reclaim(bench):
    """A misbehaving guest cannot free and allocate around its quota."""
    the_set = bench.set(quota=1)
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    bench.core.free(the_set, number)
    with pytest.raises(IoasidRefused, match="quota"):
        bench.alloc(the_set)
    bench.core.put(number, "user")
    assert bench.alloc(the_set) == number


def test_free_without_a_set_skips_the_check_of_the_owner(bench):
    """What the comment in the source promises, and the code never did."""
    number = bench.alloc(bench.set())
    bench.core.free(None, number)
    assert number not in bench.core.ids


def test_an_ignored_free_says_why(bench):
    """Unknown, foreign, dying: three reasons, each an event."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number, dying = bench.alloc(one), bench.dying(one)
    for the_set, ioasid in ((one, 31), (other, number), (one, dying), (None, dying)):
        bench.unchanged(bench.core.free, the_set, ioasid)
    assert [subject for _, subject in bench.verbs(Verb.IGNORE)] == [
        "free of IOASID 31: it is not allocated",
        f"free of IOASID {number}: it belongs to mm1, not to mm2",
        f"free of IOASID {dying}: it was freed already",
        f"free of IOASID {dying}: it was freed already",
    ]


def test_on_free_the_id_is_dying_before_anybody_is_told(bench):
    """A handler cannot take a reference on what it is told is going (facts 2.2, step 2)."""
    asked = []

    def grab(payload):
        asked.append(bench.core.ids[payload.ioasid].state)
        bench.core.get_locked(payload.ioasid, "grabber")

    bench.listen("kvm", Priority.CPU, react={"FREE": grab})
    number = bench.dying(bench.set())
    assert asked == [State.FREE_PENDING]
    assert bench.core.ids[number].holders == ("user",)
    assert bench.verbs(Verb.REFUSE) == [
        (
            Verb.REFUSE,
            f"kvm, FREE of IOASID {number}: PASID {number} was freed and only waits for owner, user to let go",
        )
    ]


# --- the allocator's own reference ----------------------------------------------------------------------------------


def test_the_allocators_own_reference_goes_by_free_only(bench):
    """A put in the allocator's name would let a PASID vanish under its users; IDLE has no move "put"."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    with pytest.raises(ValueError, match="beside the allocator's"):
        bench.unchanged(bench.core.put, number, "owner")
    bench.core.get(number, "kvm")
    with pytest.raises(ValueError, match="beside the allocator's"):
        bench.unchanged(bench.core.put, number, "owner")
    bench.core.free(the_set, number)
    assert bench.core.ids[number].holders == ("kvm",)
    assert not any(state is State.IDLE and trigger == "put" for state, trigger, _ in MOVES)


def test_a_user_of_the_same_name_is_another_holder(bench):
    """It can let go of what it took itself, and of no more."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "owner")
    assert bench.core.put(number, "owner") is False
    with pytest.raises(ValueError, match="beside the allocator's"):
        bench.core.put(number, "owner")
    bench.core.get(number, "owner")
    bench.core.free(the_set, number)
    assert bench.core.put(number, "owner") is True


def test_a_handler_of_free_cannot_drop_the_allocators_reference(bench):
    """Free itself does, when everybody has been told."""
    wrong = []

    def let_go_of_too_much(payload):
        for holder in ("user", "owner"):
            try:
                bench.core.put_locked(payload.ioasid, holder)
            except ValueError as error:
                wrong.append(str(error))

    bench.listen("kvm", Priority.CPU, react={"FREE": let_go_of_too_much})
    number = bench.dying(bench.set())
    assert wrong == [f"owner must hold a reference on IOASID {number}, beside the allocator's, to drop it"]
    assert number not in bench.core.ids


# --- if the calling process owns it ---------------------------------------------------------------------------------


def test_a_process_gets_a_reference_on_what_it_owns(bench):
    """ioasid_get_if_owned: the check of a bind request."""
    number = bench.alloc(bench.set("mm1"))
    bench.core.get_if_owned(number, "bind", bench.tokens["mm1"])
    assert bench.core.ids[number].holders == ("owner", "bind")


def test_a_process_gets_none_on_what_it_does_not_own(bench):
    """-EINVAL: no process owns it; -EPERM: another one does; nobody's mm is no key to a kernel's set."""
    number, kernels = bench.alloc(bench.set("mm1")), bench.alloc(bench.core.sets.alloc("host", None, 2))
    assert bench.errno(bench.core.get_if_owned, number, "bind", bench.tokens["mm2"]) == "EPERM"
    assert bench.errno(bench.core.get_if_owned, number, "bind", None) == "EPERM"
    for current in (bench.tokens["mm1"], None):
        assert bench.errno(bench.core.get_if_owned, kernels, "bind", current) == "EINVAL"


def test_ownership_is_checked_before_dying(bench):
    """Unknown, type, owner, then as get: the order of the checks."""
    kernels = bench.core.sets.alloc("host", None, 2)
    one, other = bench.dying(bench.set("mm1")), bench.dying(kernels)
    assert bench.errno(bench.core.get_if_owned, one, "bind", bench.tokens["mm2"]) == "EPERM"
    assert bench.errno(bench.core.get_if_owned, one, "bind", bench.tokens["mm1"]) == "ENOENT"
    assert bench.errno(bench.core.get_if_owned, other, "bind", None) == "EINVAL"


# --- looking up -----------------------------------------------------------------------------------------------------


def test_find_answers_the_private_data(bench):
    """What was given at alloc or attached later; nothing if there is none."""
    the_set, thing = bench.set(), bench.tokens["mm3"]
    number = bench.core.alloc(the_set, 1, 9, "owner", private=thing)
    assert bench.unchanged(bench.core.find, number) is thing
    assert bench.unchanged(bench.core.find, bench.alloc(the_set)) is None


def test_find_asks_the_getter_whether_the_data_can_be_had(bench):
    """If it says no there is nothing; it is not asked about nothing; it may take references of its own."""
    the_set, thing, asked = bench.set(), bench.tokens["mm3"], []

    def getter(answer):
        def ask(part):
            asked.append(part)
            return answer

        return ask

    number = bench.core.alloc(the_set, 1, 9, "owner", private=thing)
    assert bench.core.find(number, getter=getter(True)) is thing
    assert bench.core.find(number, getter=getter(False)) is None
    assert bench.core.find(bench.alloc(the_set), getter=getter(True)) is None
    assert asked == [thing, thing]


def test_find_checks_unknown_dying_owner_in_this_order_and_only_then_asks_the_getter(bench):
    """-ENOENT before -EACCES."""
    one, other = bench.set("mm1"), bench.set("mm2")
    living, dying = bench.core.alloc(one, 1, 9, "owner", private=bench.tokens["mm3"]), bench.dying(one)
    assert bench.errno(bench.core.find, 30, other, pytest.fail) == "ENOENT"
    assert bench.errno(bench.core.find, dying, other, pytest.fail) == "ENOENT"
    assert bench.errno(bench.core.find, living, other, pytest.fail) == "EACCES"


def test_the_set_of_an_id_is_known_until_its_reclaim(bench):
    """ioasid_find_set: also of a dying one."""
    the_set = bench.set()
    number = bench.dying(the_set)
    assert bench.unchanged(bench.core.set_of, number) is the_set
    bench.core.put(number, "user")
    assert bench.errno(bench.core.set_of, number) == "ENOENT"


# --- private data ---------------------------------------------------------------------------------------------------


def test_private_data_is_attached_once(bench):
    """-EBUSY over other data, -ENOENT for no ID or a dying one; detach makes room, and is silent about nothing."""
    the_set, thing = bench.set(), bench.tokens["mm3"]
    number, dying = bench.alloc(the_set), bench.dying(the_set)
    assert bench.errno(bench.core.attach_data, 9, thing) == "ENOENT"
    assert bench.errno(bench.core.attach_data, dying, thing) == "ENOENT"
    bench.core.attach_data(number, thing)
    assert bench.errno(bench.core.attach_data, number, thing) == "EBUSY"
    assert bench.errno(bench.core.attach_data, number, bench.tokens["mm2"]) == "EBUSY"
    bench.core.detach_data(number)
    bench.unchanged(bench.core.detach_data, number)
    bench.unchanged(bench.core.detach_data, 9)
    bench.core.attach_data(number, thing)
    assert bench.core.find(number) is thing


def test_private_data_of_a_dying_id_can_still_be_taken_off(bench):
    """The IOMMU driver's clean-up does so before it lets go."""
    the_set = bench.set()
    number = bench.core.alloc(the_set, 1, 9, "owner", private=bench.tokens["mm3"])
    bench.core.get(number, "iommu")
    bench.core.free(the_set, number)
    bench.core.detach_data(number)
    assert bench.core.ids[number].private is None
