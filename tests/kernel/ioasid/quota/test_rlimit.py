"""A limit for each process, as resource limits work in general (no patch was ever posted: UNVERIFIED)."""

import pytest

from pasidlab.kernel.ioasid.quota.rlimit import DEFAULT_LIMITS, Limits
from pasidlab.timeline import Part, Verb

POLICY = "rlimit"


def test_nothing_is_set_aside(office):
    """Limits may add up to more than there is; each ID takes one of the capacity while it is out."""
    first, second = office.set("vm1", 10), office.set("vm2", 10)
    assert office.capacity.available == 12
    office.alloc(first, 10)
    office.alloc(second, 2)
    assert (office.policy.held, office.capacity.available) == (12, 0)
    assert "a limit is no promise" in office.refused(second)
    office.core.free(first, 1)
    office.alloc(second)
    assert office.sums


def test_one_number_sets_both_limits(office):
    """As prlimit does."""
    the_set = office.set("vm1", 3)
    assert office.policy.limits_of(office.mms["vm1"]) == (3, 3)
    office.policy.change(the_set, 5)
    assert str(office.policy.limits_of(office.mms["vm1"])) == "5:5"


def test_a_process_of_which_nothing_was_said_has_the_default(office):
    """And no account."""
    assert office.policy.limits_of(office.mms["vm1"]) == DEFAULT_LIMITS
    assert office.policy.accounts() == []


@pytest.mark.parametrize(
    ("limits", "privileged", "errno"),
    [
        (Limits(5, 4), True, "EINVAL"),
        (Limits(-1, 4), True, "EINVAL"),
        (Limits(-2, -1), True, "EINVAL"),
        (Limits(4, 9), False, "EPERM"),
        (Limits(9, 4), False, "EINVAL"),
    ],
)
def test_limits_that_cannot_be_are_refused(office, limits, privileged, errno):
    """Soft above hard, negative, or the hard one raised without privilege; nothing changes."""
    office.set("vm1", 8)
    mm = office.mms["vm1"]
    assert office.errno(office.policy.set_limits, mm, limits, privileged=privileged) == errno


def test_a_process_may_lower_its_hard_limit_and_not_raise_it_again(office):
    """The way back needs privilege."""
    mm = office.mms["vm1"]
    office.policy.set_limits(mm, Limits(4, 8))
    office.policy.set_limits(mm, Limits(6, 6), privileged=False)
    assert office.errno(office.policy.set_limits, mm, Limits(4, 8), privileged=False) == "EPERM"
    office.policy.set_limits(mm, Limits(4, 8))


def test_lowering_below_what_is_in_use_only_refuses_further_ones(office):
    """What is out stays out; when enough came back there may be more."""
    the_set = office.set("vm1", 4)
    office.alloc(the_set, 4)
    office.policy.change(the_set, 2)
    assert the_set.count == 4
    for ioasid in (1, 2, 3):
        office.refused(the_set)
        office.core.free(the_set, ioasid)
    office.alloc(the_set)


def test_the_caller_pays_whoever_owns_the_set(office):
    """A process that was handed the file is charged by its own limit, and gets it back."""
    the_set, other = office.set("vm1", 1), office.mms["vm2"]
    office.policy.set_limits(other, Limits(1, 1))
    ioasid = office.alloc(the_set, current=other)
    office.alloc(the_set)
    assert [office.policy.used_by(office.mms[name]) for name in ("vm1", "vm2")] == [1, 1]
    office.refused(the_set, current=other)
    office.core.free(the_set, ioasid)
    assert office.policy.used_by(other) == 0


def test_native_processes_are_limited_one_by_one(office):
    """They are served from the kernel's own set, and each pays for itself."""
    own, mm = office.own_set(8), office.mms["vm1"]
    office.policy.set_limits(mm, Limits(1, 1))
    office.alloc(own, current=mm)
    office.refused(own, current=mm)
    office.alloc(own, current=office.mms["vm2"])
    office.alloc(own)
    assert (own.count, office.policy.held) == (3, 0)


def test_a_new_process_does_not_inherit_the_ids_of_the_dead(office):
    """Same path, another mm: limits and use start afresh, and the late return does not count for it."""
    the_set = office.set("vm1", 1)
    ioasid = office.alloc(the_set)
    office.core.get(ioasid, "iommu")
    office.policy.leave(the_set.token)
    successor = Part(office.time, "vm1.mm")
    office.alloc(office.own_set(4), current=successor)
    assert office.policy.used_by(successor) == 1
    office.core.free(the_set, ioasid)
    office.core.put(ioasid, "iommu")
    assert (office.policy.used_by(successor), office.policy.held) == (1, 0)
    assert office.sums


def test_a_kernels_own_set_has_no_limits(office):
    """-EINVAL: it is no process."""
    assert office.errno(office.policy.change, office.own_set(2), 1) == "EINVAL"


def test_charges_and_limits_are_told(office):
    """Before and after, by name."""
    the_set = office.set("vm1", 2)
    office.core.free(the_set, office.alloc(the_set))
    assert office.told(Verb.CHARGE, Verb.UNCHARGE) == [("process vm1", 0, 1), ("process vm1", 1, 0)]
    assert office.told(Verb.ADJUST) == [("limits of vm1", "1000:1048576", "2:2")]
