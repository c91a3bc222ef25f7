"""Random courses under every administrator's policy and through every interface: sums stay true, everything returns.

Two kinds: administrators and hypervisors who try anything, and the scripts of the other laws, in which guests work.
"""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasidlab import Machine
from pasidlab.errors import KernelError
from tests.properties.actions import perform
from tests.properties.strategies import scripts

POLICIES = ("fixed", "rlimit", "cgroup")
APIS = ("vfio", "dev-ioasid")
COURSE = settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow])

vms, groups, small = (
    st.sampled_from(("vm1", "vm2", "vm3")),
    st.sampled_from(("t", "t/a", "t/b", "u", "/")),
    st.integers(-1, 4),
)
steps = st.one_of(
    st.tuples(st.just("create"), vms, small, groups | st.none()),
    st.tuples(st.just("request"), vms),
    st.tuples(st.just("request"), vms),
    st.tuples(st.just("request"), vms),
    st.tuples(st.just("lend"), vms),
    st.tuples(st.just("return"), vms, st.integers(0, 3)),
    st.tuples(st.just("hold"), vms),
    st.tuples(st.just("drop")),
    st.tuples(st.just("quota"), vms, small),
    st.tuples(st.just("crash"), vms),
    st.tuples(st.just("group"), groups, small),
    st.tuples(st.just("max"), groups, small | st.just("max")),
    st.tuples(st.just("remove"), groups),
    st.tuples(st.just("move"), vms, groups),
    st.tuples(st.just("fail"), st.integers(1, 4)),
    st.tuples(st.just("back"), st.integers(1, 3)),
)


class Course:
    """A machine on which anything is tried; ``held`` are IDs that somebody else keeps."""

    def __init__(self, policy, api):
        self.m = Machine(quota_policy=policy, pasid_api=api)
        self.core = self.m.kernel.ioasid
        with self.m.timeline.operation("room"):
            self.core.capacity.reserve(self.core.capacity.available - 8)
        self.helper = self.m.spawn("helper")
        self.m.timeline.floor = self.m.timeline.now
        self.begin = self.m.timeline.digest()

    @property
    def held(self):
        """IDs that somebody keeps."""
        return [ioasid for ioasid, record in self.core.ids.items() if "somebody" in record.holders]

    def check(self):
        """Everything but "references are exactly the uses": somebody's are a test's."""
        wrong = [str(one) for one in self.m.check().violations if one.rule.number != 3 or not self.held]
        assert wrong == []

    def do(self, what, *args):
        """One step; a refusal is an answer."""
        with suppress(KernelError):
            getattr(self, f"do_{what}")(*args)
        self.check()

    def do_create(self, name, quota, group):
        if group is None:
            self.m.create_vm(name, quota=quota, memory=1 << 20)
        else:
            self.m.create_vm(name, memory=1 << 20, cgroup=group)

    def do_request(self, name):
        self.m.vm(name).request_pasid()

    def do_lend(self, name):
        self.m.vm(name).request_pasid(caller=self.helper)

    def do_return(self, name, at):
        owned = self.m.vm(name).vmm.container.user.pasids.keys()
        if owned:
            self.m.vm(name).return_pasid(owned[at % len(owned)])

    def do_hold(self, name):
        free = [ioasid for ioasid in self.m.vm(name).vmm.container.set.ids.keys() if ioasid not in self.held]
        if free:
            with self.m.timeline.operation("hold"):
                self.core.get(free[0], "somebody")

    def do_drop(self):
        if self.held:
            with self.m.timeline.operation("drop"):
                self.core.put(self.held[0], "somebody")

    def do_quota(self, name, quota):
        self.m.vm(name).set_quota(quota)

    def do_crash(self, name):
        self.m.vm(name).crash()

    def do_group(self, path, limit):
        self.m.create_cgroup(path, limit)

    def do_max(self, path, limit):
        self.m.cgroup(path).set_max(limit)

    def do_remove(self, path):
        self.m.cgroup(path).remove()

    def do_move(self, name, path):
        self.m.vm(name).move_to(path)

    def do_fail(self, nth):
        with self.m.timeline.operation("fail"):
            self.core.slab.fail_nth = nth

    def do_back(self, count):
        for _ in range(count):
            self.m.timeline.back_over()

    def everybody_goes(self):
        """Whatever course it took, all of it comes back."""
        self.do_fail(0)
        for vm in self.m.vms:
            vm.crash()
        while self.held:
            self.do("drop")
        if self.m.quota_policy == "cgroup":
            for group in ("t/a", "t/b", "t", "u"):
                self.do("remove", group)
        self.helper.exit()
        self.check()
        assert (self.core.policy.held, self.core.capacity.available, len(self.core.sets)) == (0, 8, 1)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("policy", POLICIES)
@COURSE
@given(script=st.lists(steps, min_size=8, max_size=30))
def test_whatever_people_do_sums_are_true_and_everything_returns(policy, api, script):
    """After every step of a random course every invariant holds; when all have gone, nothing is left."""
    course = Course(policy, api)
    if policy == "cgroup":
        course.do("group", "t", 4)
        course.do("group", "t/a", 3)
    for name, group in (("vm1", "t/a"), ("vm2", None)):
        course.do("create", name, 3, group if policy == "cgroup" else None)
    for step in script:
        course.do(*step)
    course.everybody_goes()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("policy", POLICIES)
@settings(COURSE, max_examples=15)
@given(script=scripts("vtd"))
def test_guests_work_as_they_do_elsewhere(policy, api, script):
    """The scripts of the other laws: every invariant after each action, undo to the start, nothing left at the end."""
    machine = Machine(quota_policy=policy, pasid_api=api)
    with machine.timeline.operation("plug"):
        machine.plug_accelerator("dsa0")
        machine.plug_accelerator("dsa1", shared=1, dedicated=1)
    core, begin, digest = machine.kernel.ioasid, machine.timeline.now, machine.timeline.digest()
    available = core.capacity.available
    for action in script:
        perform(machine, action)
        assert machine.check().ok, machine.check()
    end, last = machine.timeline.now, machine.timeline.digest()
    machine.timeline.go(begin)
    assert machine.timeline.digest() == digest
    machine.timeline.go(end)
    assert machine.timeline.digest() == last
    for vm in machine.vms:
        vm.crash()
    assert machine.check().ok
    assert (core.policy.held, core.capacity.available) == (0, available)
