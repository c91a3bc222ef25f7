"""The tree of control groups against a naive twin, which counts everything anew at every question."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota, cgroups_of
from pasidlab.timeline import Agenda, Part, Timeline

TOTAL = 12
NAMES = ("a", "b", "a/x", "a/y", "a/x/z")
PLACES = (*NAMES, "/")


class Twin:
    """Who is where, what is out, who said no. Nothing is kept that can be counted."""

    def __init__(self):
        self.max, self.events = {}, {}
        self.where, self.alive = {}, set()
        self.out = {}
        self.drawn = 0

    def members(self, name):
        return [who for who, group in self.where.items() if group == name and who in self.alive]

    def current(self, name):
        """IDs of everybody in a group or below it, the dead included."""
        return sum(f"{self.where[who]}/".startswith(f"{name}/") for who, _ in self.out.values())

    def levels(self, name):
        parts = [] if name == "/" else name.split("/")
        return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]

    @property
    def root(self):
        return sum(self.where[who] == "/" for who, _ in self.out.values())

    @property
    def available(self):
        return TOTAL - sum(self.max.values()) - self.drawn

    def charge(self, who):
        """Whether one more is allowed."""
        if self.where[who] == "/":
            allowed = self.available > 0
            self.drawn += allowed
            return allowed
        for level in self.levels(self.where[who]):
            if self.current(level) >= self.max[level]:
                self.events[level] += 1
                return False
        return True

    def settle(self, moved=0):
        if self.drawn > self.root:
            self.drawn = self.root
        else:
            self.drawn += min(moved, self.root - self.drawn, self.available)


class Groups(RuleBasedStateMachine):
    """Administrators and processes do as they like."""

    def __init__(self):
        super().__init__()
        self.time = Timeline()
        self.core = IoasidCore(self.time, "k.ioasid", "host", Agenda(self.time), TOTAL, CgroupQuota)
        self.policy = cgroups_of(self.core)
        self.tree = self.policy.groups
        self.twin = Twin()
        self.sets = {}
        self.born = 0
        self.begin = self.time.digest()

    def attempt(self, call, *args):
        """The errno of a call, or an empty word."""
        before = self.time.digest()
        try:
            call(*args)
        except KernelError as error:
            assert self.time.digest() == before
            return error.name
        return ""

    @initialize()
    def move_in(self):
        """Something to work with."""
        for name, limit in (("a", 4), ("b", 2), ("a/x", 3)):
            self.make(name, limit)
        for name in ("a/x", "b", "/"):
            self.start(name)

    # --- administrators -------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), limit=st.integers(0, 6))
    def make(self, name, limit):
        """mkdir and a first write."""
        twin, parent = self.twin, name.rpartition("/")[0]
        wanted = (
            "EEXIST"
            if name in twin.max
            else "ENOENT"
            if parent and parent not in twin.max
            else "ENOSPC"
            if limit > twin.available
            else ""
        )
        assert self.attempt(self.tree.make, name, limit) == wanted
        if not wanted:
            twin.max[name], twin.events[name] = limit, 0

    @rule(data=st.data(), limit=st.integers(-1, 8) | st.just("max"))
    @precondition(lambda self: self.twin.max)
    def write(self, data, limit):
        """Another max."""
        twin = self.twin
        name = data.draw(st.sampled_from(sorted(twin.max)))
        old = twin.max[name]
        new = old + twin.available if limit == "max" else limit
        wanted = "EINVAL" if new < 0 or new == old else "ENOSPC" if new - old > twin.available else ""
        assert self.attempt(self.tree.write_max, self.tree.find(name), limit) == wanted
        if not wanted:
            twin.max[name] = new

    @rule(data=st.data())
    @precondition(lambda self: self.twin.max)
    def remove(self, data):
        """rmdir."""
        twin = self.twin
        name = data.draw(st.sampled_from(sorted(twin.max)))
        below = [other for other in twin.max if other.startswith(f"{name}/")]
        wanted = "EBUSY" if below or twin.members(name) or twin.current(name) else ""
        assert self.attempt(self.policy.remove, self.tree.find(name)) == wanted
        if not wanted:
            del twin.max[name], twin.events[name]

    @rule(data=st.data())
    @precondition(lambda self: self.twin.alive)
    def move(self, data):
        """Never refused."""
        twin, who = self.twin, data.draw(st.sampled_from(sorted(self.twin.alive)))
        name = data.draw(st.sampled_from((*sorted(twin.max), "/")))
        self.policy.migrate(self.sets[who].token, self.tree.find(name))
        count = sum(owner == who for owner, _ in twin.out.values())
        elsewhere, twin.where[who] = twin.where[who] != name, name
        twin.settle(count if elsewhere and name == "/" else 0)

    # --- processes ------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(PLACES))
    @precondition(lambda self: len(self.twin.alive) < 3)
    def start(self, name):
        """A process in some group makes its set; pids are used again."""
        if name not in (*self.twin.max, "/"):
            return
        taken = {self.sets[who].token.path for who in self.twin.alive}
        mm = Part(self.time, next(f"p{at}.mm" for at in range(4) if f"p{at}.mm" not in taken))
        self.policy.migrate(mm, self.tree.find(name))
        who = f"vm{self.born:03}"
        self.born += 1
        self.sets[who] = self.policy.make_set(who, mm, 4)
        self.twin.alive.add(who)
        self.twin.where[who] = name

    @rule(data=st.data())
    @precondition(lambda self: self.twin.alive)
    def alloc(self, data):
        """As far as the limits go."""
        self.alloc_failing(data, 0)

    @rule(data=st.data(), nth=st.integers(1, 3))
    @precondition(lambda self: self.twin.alive)
    def alloc_failing(self, data, nth):
        """Memory fails on the way."""
        twin, who = self.twin, data.draw(st.sampled_from(sorted(self.twin.alive)))
        allowed = twin.charge(who)
        self.core.slab.fail_nth = nth if allowed else 0
        try:
            ioasid = self.core.alloc(self.sets[who], 1, 1000, "owner")
            assert allowed
            assert not nth
            twin.out[ioasid] = (who, False)
        except (IoasidRefused, KernelError):
            assert nth or not allowed
            twin.settle()

    @rule(data=st.data())
    @precondition(lambda self: self.twin.alive)
    def foreign(self, data):
        """Somebody else asks with the owner's file: refused, and no event counted."""
        the_set = self.sets[data.draw(st.sampled_from(sorted(self.twin.alive)))]
        with pytest.raises(IoasidRefused, match="-EPERM"):
            self.core.alloc(the_set, 1, 1000, "owner", current=Part(self.time, "thief.mm"))

    @rule(data=st.data(), pending=st.booleans())
    @precondition(lambda self: any(not pending for _, pending in self.twin.out.values()))
    def free(self, data, pending):
        """At once, or with somebody else who still holds it."""
        twin = self.twin
        ioasid = data.draw(st.sampled_from(sorted(at for at, (_, dying) in twin.out.items() if not dying)))
        who = twin.out[ioasid][0]
        if pending:
            self.core.get(ioasid, "iommu")
            twin.out[ioasid] = (who, True)
        else:
            del twin.out[ioasid]
        self.core.free(self.sets[who], ioasid)
        twin.settle()

    @rule(data=st.data())
    @precondition(lambda self: any(pending for _, pending in self.twin.out.values()))
    def put(self, data):
        """The last user lets go, whoever that is."""
        ioasid = data.draw(st.sampled_from(sorted(at for at, (_, dying) in self.twin.out.items() if dying)))
        self.core.put(ioasid, "iommu")
        del self.twin.out[ioasid]
        self.twin.settle()

    @rule(data=st.data())
    @precondition(lambda self: self.twin.alive)
    def die(self, data):
        """A process ends: its IDs are freed, its set ends or waits for the last."""
        twin, who = self.twin, data.draw(st.sampled_from(sorted(self.twin.alive)))
        self.core.free_all(self.sets[who])
        twin.out = {at: row for at, row in twin.out.items() if row[0] != who or row[1]}
        pending = any(owner == who for owner, _ in twin.out.values())
        assert self.attempt_to_end(who) == ("EBUSY" if pending else "")
        self.policy.leave(self.sets[who].token)
        twin.alive.discard(who)
        twin.settle()

    def attempt_to_end(self, who):
        """Mark the set, or end it."""
        try:
            self.core.sets.free(self.sets[who])
        except KernelError as error:
            return error.name
        return ""

    # --- the same answers -----------------------------------------------------------------------------------------

    @invariant()
    def every_group_says_what_the_twin_counts(self):
        """max, current, events; and the capacity."""
        twin = self.twin
        said = {group.name: (group.max, group.current, group.events) for group in self.tree.values()}
        assert said == {name: (limit, twin.current(name), twin.events[name]) for name, limit in twin.max.items()}
        assert (self.policy.drawn, self.core.capacity.available) == (twin.drawn, twin.available)
        assert self.policy.held + self.core.capacity.available == TOTAL

    def teardown(self):
        """Everybody goes, everything returns: as if nothing had ever been."""
        for who in sorted(self.twin.alive):
            self.core.free_all(self.sets[who])
            self.attempt_to_end(who)
            self.policy.leave(self.sets[who].token)
        for ioasid in self.core.ids.keys():
            self.core.put(ioasid, "iommu")
        for group in reversed(self.tree.values()):
            self.policy.remove(group)
        self.core.slab.fail_nth = 0
        assert self.time.digest() == self.begin


TestGroups = Groups.TestCase
TestGroups.settings = settings(deadline=None, derandomize=True, max_examples=100, stateful_step_count=40)
