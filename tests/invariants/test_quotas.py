"""Invariant 5: what was promised and what is left make up the whole, under every administrator's policy."""

import pytest

from pasidlab.timeline import Verb
from tests.worlds import World


@pytest.fixture
def world():
    """Control groups, one tenant with room for 5, a VM in it."""
    world = World(quota_policy="cgroup")
    world.tenant = world.m.cgroup("tenant", max=5)
    world.vm1 = world.vm("vm1", cgroup="tenant")
    return world


def _lose_charge(world):
    world.tenant.group.current += 1


def _lose_reserve(world):
    world.core.capacity.available += 1


def _exceed(world):
    world.tenant.group.max = 0
    world.core.capacity.give(5)


def _draw(world):
    world.core.policy.drawn += 1
    world.core.capacity.take(1, "nobody")


@pytest.mark.parametrize("damage", [_lose_charge, _lose_reserve, _exceed, _draw])
def test_invariant_5_sees_a_group_that_miscounts(world, damage):
    """A charge, a reserve, a limit, the root."""
    world.vm1.request_pasid()
    assert world.m.check().ok
    damage(world)
    assert {violation.rule.number for violation in world.m.check().violations} == {5}


@pytest.mark.parametrize("field", ["held", "used"])
def test_invariant_5_sees_an_rlimit_that_miscounts(field):
    """What all have taken, and what one pays for."""
    world = World(quota_policy="rlimit")
    world.vm("vm1", quota=2).request_pasid()
    policy = world.core.policy
    setattr(policy if field == "held" else policy.accounts()[0], field, 7)
    assert {violation.rule.number for violation in world.m.check().violations} == {5}


def test_invariant_5_sees_a_charge_over_the_limit(world):
    """From the stream of events, whatever the state says later."""
    world.core.policy.groups.emit(Verb.CHARGE, "group tenant", 5, 6, group="tenant", limit=5)
    assert "over its limit of 5" in str(world.m.check().violations[0])


def test_more_than_the_limit_is_no_violation_after_a_move_or_a_smaller_max(world):
    """These are the two ways that lead there."""
    for _ in range(3):
        world.vm1.request_pasid()
    world.tenant.set_max(1)
    assert world.m.check().ok
    world.m.cgroup("outer", max=1)
    world.m.cgroup("outer/inner", max=1)
    world.vm1.move_to("outer/inner")
    assert world.m.check().ok
