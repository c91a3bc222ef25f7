"""The administrator's question as an experiment: what each combination answers, and the tables that show it."""

import pytest

from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.machine import PASID_APIS
from pasidlab.stories.comparison import PROMISE, ROOM, administer, compare_administrators


@pytest.fixture(scope="module")
def found():
    """What the script found out, by policy and interface."""
    return {(one.policy, one.api): one for one in compare_administrators()}


def test_every_policy_is_tried_through_every_interface(found):
    """Three by two."""
    assert list(found) == [(policy, api) for policy in QUOTA_POLICIES for api in PASID_APIS]


def test_the_script_gives_the_same_each_time(found):
    """As data."""
    assert administer("cgroup", "vfio") == found["cgroup", "vfio"]


@pytest.mark.parametrize("api", PASID_APIS)
def test_a_fixed_quota_is_a_guarantee_and_a_waste(found, api):
    """The late VM is refused and PASIDs stay idle; the quiet one gets all that it was promised."""
    fixed = found["fixed", api]
    assert [one.errno for one in fixed.admitted] == ["", "", "ENOSPC"]
    assert (fixed.set_aside, fixed.idle) == (2 * PROMISE, ROOM - 2 * PROMISE)
    assert [one.got for one in fixed.asked] == [1, PROMISE, 0, PROMISE - 1]
    assert fixed.smaller.errno == "EINVAL"
    assert fixed.larger.then.got == 2


@pytest.mark.parametrize("api", PASID_APIS)
def test_an_rlimit_is_a_limit_and_no_guarantee(found, api):
    """Everybody is admitted, nothing is set aside, and the quiet one finds too little left."""
    rlimit = found["rlimit", api]
    assert ([one.errno for one in rlimit.admitted], rlimit.set_aside, rlimit.idle) == (["", "", ""], 0, 0)
    assert [one.got for one in rlimit.asked] == [1, PROMISE, PROMISE, PROMISE - 2]
    assert "a limit is no promise" in rlimit.asked[-1].words
    assert (rlimit.smaller.errno, rlimit.smaller.then.got, rlimit.larger.then.got) == ("", 0, 0)


@pytest.mark.parametrize("api", PASID_APIS)
def test_a_group_is_shared_and_moves(found, api):
    """The greedy VM takes what the tenant has; it moves with all of it into a group that is too small."""
    cgroup = found["cgroup", api]
    assert ([one.errno for one in cgroup.admitted], cgroup.set_aside) == (["", "", ""], 2 * PROMISE)
    assert [one.got for one in cgroup.asked] == [1, PROMISE + 3, 1, 0]
    assert cgroup.move.words == "10 used of 1, left behind 2 of 12"
    assert (cgroup.move.then.got, cgroup.larger.then.got) == (0, 2)


def test_only_groups_can_be_moved_between(found):
    """The others have no such thing."""
    assert {policy: one.move.errno for (policy, _), one in found.items()} == {
        "fixed": "EINVAL",
        "rlimit": "EINVAL",
        "cgroup": "",
    }


@pytest.mark.parametrize("policy", QUOTA_POLICIES)
def test_the_interface_changes_the_errno_and_nothing_else(found, policy):
    """-ENOSPC through VFIO is -EINVAL through /dev/ioasid."""
    by_vfio, by_device = (found[policy, api] for api in PASID_APIS)
    assert {one.errno for one in by_vfio.asked} - {""} == {"ENOSPC"}
    assert {one.errno for one in by_device.asked} - {""} == {"EINVAL"}
    assert [one.words for one in by_vfio.refused] == [one.words for one in by_device.refused]


def test_when_all_have_gone_nothing_is_missing(found):
    """Under any combination."""
    assert {one.missing for one in found.values()} == {0}
