"""The IOASID core and its naive twin agree: answers, errnos, what is heard and all state, over any course of calls."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.twins.ioasid_pair import ALLOCATORS, DATA, SUBSCRIBERS, TOKENS, Pair
from tests.twins.naive_ioasid import INVALID

numbers = st.sampled_from((0, 1, 2, 3, 4, 1, 2, 3, 20, 23, 7))
slots = st.integers(0, 7)
holders = st.sampled_from(("owner", "a", "a", "b"))
spids = st.sampled_from((0, 1, 1, 2, INVALID, -1))
tokens = st.sampled_from(TOKENS)
data = st.sampled_from(DATA)
subscribers = st.sampled_from(sorted(SUBSCRIBERS))
allocators = st.sampled_from(ALLOCATORS)
quotas = st.sampled_from((1, 2, 3, 3, 4, 0, 30, -1, None))
some_sets = precondition(lambda self: self.pair.core.sets)
some_ids = precondition(lambda self: self.pair.twin.ids)


def free_it(core, handle, number):
    """A visit that frees what it sees."""
    core.free(handle, number)


def free_the_rest(core, handle, number):
    """A visit that frees everything else."""
    for other in range(8):
        if other != number:
            core.free(handle, other)


def look(core, handle, number):
    """A visit that changes nothing."""


class WholeApi(RuleBasedStateMachine):
    """Every call of the API, in any order, with good and bad arguments; and time travel."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def handle(self, slot):
        """One of the sets that were ever made, also one that is gone; the newest are drawn more often."""
        return len(self.pair.core.sets) - 1 - slot % min(3, len(self.pair.core.sets))

    def number(self, slot):
        """An ID that is out."""
        return sorted(self.pair.twin.ids)[slot % len(self.pair.twin.ids)]

    def some(self, slot):
        """A set, or none (every fourth time)."""
        return None if slot % 4 == 0 or not self.pair.core.sets else self.handle(slot)

    @initialize(early=st.lists(st.tuples(tokens, subscribers), max_size=6), everyone=st.lists(subscribers, max_size=3))
    def somebody_listens(self, early, everyone):
        """Registrations that come before the sets."""
        for token, who in early:
            self.pair.do("register_mm", token, who)
        for who in everyone:
            self.pair.do("register", who)

    # --- capacity and sets

    @rule(total=st.sampled_from((0, 4, 9, 12, 13, 40)))
    def install(self, total):
        """The hardware says how many there are."""
        self.pair.do("install", total)

    @rule(count=st.sampled_from((-1, 0, 1, 2, 50)))
    def reserve(self, count):
        """Somebody sets some aside."""
        self.pair.do("reserve", count)

    @rule(count=st.sampled_from((-1, 0, 1, 2, 50)))
    def cancel(self, count):
        """Somebody gives some back."""
        self.pair.do("cancel", count)

    @rule(token=tokens | st.none(), quota=quotas, kind=st.sampled_from((None, None, None, 1, 2, 3)))
    def set_alloc(self, token, quota, kind):
        """A set, or a refusal."""
        self.pair.do("set_alloc", token or "kernel", token, quota, kind)

    @rule(token=tokens, quota=st.sampled_from((2, 3)))
    def set_alloc_as_a_vm(self, token, quota):
        """A set as most callers want it."""
        self.pair.do("set_alloc", token, token, quota)

    @some_sets
    @rule(slot=slots)
    def set_free(self, slot):
        """A set ends, at once or later."""
        self.pair.do("set_free", self.handle(slot))

    @some_sets
    @rule(slot=slots, quota=st.integers(-1, 5))
    def adjust(self, slot, quota):
        """Another quota."""
        self.pair.do("adjust", self.handle(slot), quota)

    @some_sets
    @rule(slot=slots, visit=st.sampled_from((look, free_it, free_the_rest)))
    def for_each(self, slot, visit):
        """A visit to each ID."""
        self.pair.do("for_each", self.handle(slot), visit)

    # --- IDs

    @some_sets
    @rule(slot=slots, low=st.integers(0, 3), high=st.integers(0, 4), holder=holders, private=st.none() | data)
    def alloc(self, slot, low, high, holder, private):
        """A number in a range."""
        self.pair.do("alloc", self.handle(slot), low, high, holder, private)

    @some_sets
    @rule(slot=slots)
    def alloc_as_a_vm(self, slot):
        """A number as most callers want it."""
        self.pair.do("alloc", self.handle(slot), 1, 4, "owner")

    @rule(slot=slots, number=numbers)
    def free(self, slot, number):
        """Any number, any set."""
        self.pair.do("free", self.some(slot), number)

    @some_ids
    @rule(slot=slots)
    def free_what_is_out(self, slot):
        """A number that is out."""
        self.pair.do("free", None, self.number(slot))

    @some_sets
    @rule(slot=slots)
    def free_all(self, slot):
        """All of a set."""
        self.pair.do("free_all", self.handle(slot))

    @rule(what=st.sampled_from(("get", "get_locked", "put", "put_locked")), number=numbers, holder=holders, slot=slots)
    def refer(self, what, number, holder, slot):
        """References on any number, in any name."""
        self.pair.do(what, number, holder, self.some(slot))

    @some_ids
    @rule(what=st.sampled_from(("get", "get", "put")), slot=slots, holder=st.sampled_from(("a", "b", "iommu", "kvm")))
    def refer_to_what_is_out(self, what, slot, holder):
        """References on what is there."""
        self.pair.do(what, self.number(slot), holder, None)

    @rule(number=numbers, holder=holders, current=tokens | st.none())
    def get_if_owned(self, number, holder, current):
        """A reference for the calling process."""
        self.pair.do("get_if_owned", number, holder, current)

    # --- private data and SPIDs

    @rule(number=numbers, private=data)
    def attach_data(self, number, private):
        """Private data on."""
        self.pair.do("attach_data", number, private)

    @rule(number=numbers)
    def detach_data(self, number):
        """Private data off."""
        self.pair.do("detach_data", number)

    @rule(number=numbers, spid=spids)
    def attach_spid(self, number, spid):
        """A guest's number."""
        self.pair.do("attach_spid", number, spid)

    @some_ids
    @rule(slot=slots, spid=st.sampled_from((1, 2, 3)))
    def attach_spid_to_what_is_out(self, slot, spid):
        """A guest's number for what is there."""
        self.pair.do("attach_spid", self.number(slot), spid)

    @rule(number=numbers)
    def detach_spid(self, number):
        """No guest's number any more."""
        self.pair.do("detach_spid", number)

    @some_sets
    @rule(slot=slots, spid=spids, holder=st.none() | holders)
    def find_by_spid(self, slot, spid, holder):
        """A look-up, with a reference or without."""
        self.pair.do("find_by_spid", self.handle(slot), spid, holder)

    # --- notifiers, allocators, work

    @rule(what=st.sampled_from(("register", "register", "unregister")), who=subscribers, slot=slots)
    def subscribe(self, what, who, slot):
        """On a chain, off a chain."""
        self.pair.do(what, who, self.some(slot))

    @rule(what=st.sampled_from(("register_mm", "register_mm", "unregister_mm")), token=tokens, who=subscribers)
    def subscribe_by_mm(self, what, token, who):
        """By the mm, early or late."""
        self.pair.do(what, token, who)

    @rule(what=st.sampled_from(("register_allocator", "unregister_allocator")), name=allocators)
    def custom_allocator(self, what, name):
        """An allocator comes or goes."""
        self.pair.do(what, name)

    @rule(who=subscribers, what=st.sampled_from(("1", "2", "9")))
    def queue(self, who, what):
        """Work for later."""
        self.pair.do("queue", who, what)

    @rule(who=subscribers, what=st.sampled_from((None, "1", "2")))
    def cancel_work(self, who, what):
        """Work that is not wanted any more."""
        self.pair.do("cancel_work", who, what)

    @rule()
    def run_work(self):
        """The one item that can run now."""
        self.pair.do("run_work")

    @rule()
    def flush(self):
        """All that waits."""
        self.pair.do("flush")

    # --- time

    @precondition(lambda self: len(self.pair.past) > 1)
    @rule(data=st.data())
    def travel(self, data):
        """To any moment, back or forward; what is done next starts another future."""
        self.pair.go(data.draw(st.integers(0, len(self.pair.past) - 1)))

    # --- what holds

    @invariant()
    def both_show_the_same_world(self):
        """Sets, members, holders, states, chains, order of delivery, allocators, work."""
        self.pair.compare()

    @invariant()
    def both_answer_the_same_questions(self):
        """Every look-up of every number, handle, token and SPID."""
        twin = self.pair.twin
        for number in range(5):
            self.ask("set_of", number)
            self.ask("find", number, None, None)
            self.ask("find", number, None, "data1".__eq__)
        for handle in range(len(twin.sets)):
            self.ask("find", 1, handle, None)
            self.ask("find_by_spid", handle, 1, None)
        for token in TOKENS:
            self.ask("find_mm", token)

    def ask(self, what, *args):
        """A question that changes nothing."""
        from tests.twins.ioasid_pair import outcome

        found, expected = (outcome(getattr(side, what), *args) for side in (self.pair.core, self.pair.twin))
        assert found == expected, f"{what}{args}: the core answers {found!r}, the twin {expected!r}"


TestWholeApi = WholeApi.TestCase
TestWholeApi.settings = settings(max_examples=300, stateful_step_count=60)
