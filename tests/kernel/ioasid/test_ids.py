"""IDs: allocation, references with names, free that always succeeds, and quota until reclaim (facts 1.3, 1.5, 1.7)."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.record import MOVES, State
from pasidlab.timeline import Part, Timeline, Verb

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
    with pytest.raises(ValueError, match=f"kvm must hold a reference on IOASID {number} to drop it"):
        bench.core.put(number, "kvm")


def test_get_of_an_unknown_id_is_enoent(bench):
    """As for find."""
    bench.set()
    assert bench.errno(bench.core.get, 7, "user") == "ENOENT"
    assert bench.errno(bench.core.find, 7) == "ENOENT"


def test_get_of_a_foreign_id_is_eacces_and_without_a_set_there_is_no_check(bench):
    """A set argument asks for the ownership check."""
    one, other = bench.set("mm1"), bench.set("mm2")
    number = bench.alloc(one)
    assert bench.errno(bench.core.get, number, "user", other) == "EACCES"
    assert bench.errno(bench.core.find, number, other) == "EACCES"
    bench.core.get(number, "user", one)
    bench.core.get(number, "user")
    assert bench.core.find(number, one) is bench.core.find(number)


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


# --- private data ---------------------------------------------------------------------------------------------------


def test_private_data_is_attached_once(bench):
    """-EBUSY over other data, -ENOENT for no ID; detach makes room."""
    number, thing = bench.alloc(bench.set()), bench.tokens["mm3"]
    assert bench.errno(bench.core.attach_data, 9, thing) == "ENOENT"
    bench.core.attach_data(number, thing)
    assert bench.errno(bench.core.attach_data, number, thing) == "EBUSY"
    bench.core.detach_data(number)
    bench.core.attach_data(number, thing)
    assert bench.core.find(number).private is thing


# --- everything at once, beside a naive twin ------------------------------------------------------------------------


class TwinOfIds(RuleBasedStateMachine):
    """Any course of alloc, get, put and free: sets, counts and states are those of a dict of lists."""

    def __init__(self):
        super().__init__()
        self.time = Timeline()
        self.core = IoasidCore(self.time, "k.ioasid", "host", 6)
        self.sets = [self.core.set_alloc(f"s{at}", Part(self.time, f"mm{at}"), 3) for at in range(2)]
        self.twin = {}
        self.moves = set()

    def move(self, number, trigger, act):
        """Do something to an ID and note which move of its life cycle that was."""
        record = self.core.ids[number]
        before = record.state
        act()
        self.moves.add((before, trigger, record.state))

    @rule(which=st.integers(0, 1), low=st.integers(0, 5), high=st.integers(0, 7))
    def alloc(self, which, low, high):
        """The lowest free number in the range, while the quota lasts."""
        free = [number for number in range(low, min(high, 5) + 1) if number not in self.twin]
        mine = sum(row["set"] == which for row in self.twin.values())
        if mine < 3 and free:
            assert self.core.alloc(self.sets[which], low, high, "owner") == free[0]
            self.twin[free[0]] = {"set": which, "holders": ["owner"], "dying": False}
        else:
            with pytest.raises(IoasidRefused):
                self.core.alloc(self.sets[which], low, high, "owner")

    @precondition(lambda self: self.twin)
    @rule(data=st.data(), who=st.sampled_from("ab"))
    def get(self, data, who):
        """A living ID gives a reference."""
        number = data.draw(st.sampled_from(sorted(self.twin)))
        if not self.twin[number]["dying"]:
            self.move(number, "get", lambda: self.core.get(number, who))
            self.twin[number]["holders"].append(who)

    @precondition(lambda self: any(set(row["holders"]) - {"owner"} for row in self.twin.values()))
    @rule(data=st.data())
    def put(self, data):
        """A user lets go; the last one of a dying ID reclaims it."""
        users = [(at, who) for at, row in sorted(self.twin.items()) for who in row["holders"] if who != "owner"]
        number, who = data.draw(st.sampled_from(users))
        row = self.twin[number]
        row["holders"].remove(who)
        self.move(number, "put", lambda: self.core.put(number, who))
        if not row["holders"]:
            del self.twin[number]

    @precondition(lambda self: self.twin)
    @rule(data=st.data())
    def free(self, data):
        """The owner gives it back."""
        number = data.draw(st.sampled_from(sorted(self.twin)))
        row = self.twin[number]
        self.move(number, "free", lambda: self.core.free(self.sets[row["set"]], number))
        if not row["dying"]:
            row["dying"] = True
            row["holders"].remove("owner")
            if not row["holders"]:
                del self.twin[number]

    @invariant()
    def core_and_twin_agree(self):
        """Numbers, owners, holders, counts."""
        found = {
            number: {
                "set": self.sets.index(record.owner),
                "holders": sorted(record.holders),
                "dying": record.free_pending,
            }
            for number, record in self.core.ids.items()
        }
        assert found == {number: row | {"holders": sorted(row["holders"])} for number, row in self.twin.items()}
        for at, the_set in enumerate(self.sets):
            assert the_set.count == sum(row["set"] == at for row in self.twin.values())

    @invariant()
    def every_move_is_an_allowed_one(self):
        """The table of moves is the life cycle, and a get never moves a dying ID."""
        assert self.moves <= set(MOVES)


TestTwinOfIds = TwinOfIds.TestCase
