"""What holds under every policy: sums are true, a refusal charges nobody, whatever was charged comes back."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES

POLICIES = list(QUOTA_POLICIES)


@pytest.fixture(params=POLICIES)
def any_office(request, make_office):
    """A core under each policy in turn."""
    return make_office(request.param)


def test_the_policies_are_called_by_their_names():
    """The word on a machine is the policy's own."""
    assert POLICIES == ["fixed", "rlimit", "cgroup"]


def test_a_set_gets_what_its_quota_says_and_no_more(any_office):
    """The fifth of four is refused under every policy."""
    the_set = any_office.set(quota=4)
    any_office.alloc(the_set, 4)
    assert "4" in any_office.refused(the_set)
    assert any_office.policy.limit(the_set) == 4
    assert any_office.sums


def test_what_is_charged_returns_at_reclaim_and_not_at_free(any_office):
    """A free-pending ID counts until its last user lets go, so free and alloc again is no way around a limit."""
    the_set = any_office.set(quota=1)
    ioasid = any_office.alloc(the_set)
    any_office.core.get(ioasid, "iommu")
    any_office.core.free(the_set, ioasid)
    any_office.refused(the_set)
    any_office.core.put(ioasid, "iommu")
    any_office.alloc(the_set)
    assert any_office.sums


def test_a_world_from_which_everything_returned_is_as_it_was(any_office):
    """Sets, IDs and processes come and go: same digest, same capacity."""
    begin, available = any_office.time.digest(), any_office.capacity.available
    the_set = any_office.set(quota=4)
    for ioasid in any_office.alloc(the_set, 3):
        any_office.core.free(the_set, ioasid)
    any_office.core.sets.free(the_set)
    any_office.policy.leave(the_set.token)
    assert (any_office.time.digest(), any_office.capacity.available) == (begin, available)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_allocation_that_fails_for_memory_gives_the_charge_back(any_office, nth):
    """At each place where the core asks for memory: nobody is charged, and the digest is as before."""
    the_set = any_office.set(quota=2)
    any_office.alloc(the_set)
    before = any_office.time.digest()
    any_office.core.slab.fail_nth = nth
    with pytest.raises((IoasidRefused, KernelError)):
        any_office.alloc(the_set)
    assert any_office.core.slab.fail_nth == 0
    assert any_office.time.digest() == before
    any_office.alloc(the_set)
    assert any_office.sums


def test_an_allocation_without_a_number_gives_the_charge_back(any_office):
    """The range is full: refused after the charge."""
    the_set = any_office.set(quota=3)
    any_office.core.alloc(the_set, 5, 5, "owner")
    before = any_office.time.digest()
    with pytest.raises(IoasidRefused):
        any_office.core.alloc(the_set, 5, 5, "owner")
    assert any_office.time.digest() == before


@pytest.mark.parametrize("nth", [1, 2])
def test_a_set_that_fails_for_memory_leaves_nothing(any_office, nth):
    """No limit, no group and no reserve of a set that never was."""
    any_office.core.slab.fail_nth = nth
    begin = any_office.capacity.available
    with pytest.raises(KernelError, match="ENOMEM"):
        any_office.set(quota=4)
    any_office.core.slab.fail_nth = 0
    assert any_office.capacity.available == begin
    assert any_office.sums
    any_office.set(quota=4)


def test_a_dead_owner_is_relieved_too(any_office):
    """The last put comes after the process is gone, from somebody else: the charge does not stay for ever."""
    the_set = any_office.set(quota=4)
    available = any_office.capacity.available
    ioasid = any_office.alloc(the_set)
    any_office.core.get(ioasid, "iommu")
    any_office.core.free(the_set, ioasid)
    with pytest.raises(KernelError, match="EBUSY"):
        any_office.core.sets.free(the_set)
    any_office.policy.leave(the_set.token)
    assert any_office.sums
    any_office.core.put(ioasid, "iommu")
    assert any_office.sums
    assert len(any_office.core.sets) == 0
    assert any_office.policy.held == 0
    assert any_office.capacity.available == any_office.capacity.total >= available


def test_a_kernels_own_set_keeps_its_quota(any_office):
    """Native SVA is served from a quota under every policy, and nothing is taken twice."""
    own = any_office.own_set(2)
    any_office.alloc(own, 2)
    assert any_office.capacity.available == 10
    assert any_office.policy.held == 0
    any_office.refused(own)
    assert any_office.policy.limit(own) == 2
