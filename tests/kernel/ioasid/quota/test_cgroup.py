"""The ioasids controller: the tree, max, charges, migration, and what the code got wrong (facts 8.2)."""

import pytest

from pasidlab.kernel.ioasid.quota.cgroup import cgroups_of
from pasidlab.kernel.ioasid.quota.group import ROOT
from pasidlab.timeline import Part, Verb

POLICY = "cgroup"


@pytest.fixture
def groups(office):
    """The tree."""
    return office.policy.groups


def join(office, name, group):
    """A process in a group, with its set."""
    office.policy.migrate(office.mms[name], group)
    return office.set(name)


# --- the tree -----------------------------------------------------------------------------------------------------


def test_a_new_group_allows_nothing(office, groups):
    """The default of max is 0, not everything."""
    the_set = join(office, "vm1", groups.make("a"))
    assert groups.find("a").max == 0
    assert "max of 0" in office.refused(the_set)


def test_groups_are_found_by_name_and_the_root_is_none(groups):
    """-ENOENT for what is not there."""
    group = groups.make("a")
    below = groups.make("a/b")
    assert (groups.find("a"), groups.find("a/b"), groups.find(ROOT)) == (group, below, None)
    assert (groups.below(None), groups.below(group), [level.name for level in below.levels()]) == (
        [group],
        [below],
        ["a/b", "a"],
    )


@pytest.mark.parametrize(
    ("name", "limit", "errno"),
    [
        ("", 0, "EINVAL"),
        ("a//b", 0, "EINVAL"),
        ("/b", 0, "EINVAL"),
        ("a", 0, "EEXIST"),
        ("x/y", 0, "ENOENT"),
        ("b", -1, "EINVAL"),
        ("b", 13, "ENOSPC"),
    ],
)
def test_a_group_that_cannot_be_is_refused(office, groups, name, limit, errno):
    """And nothing changes."""
    groups.make("a")
    assert office.errno(groups.make, name, limit) == errno


def test_removing_needs_an_empty_group(office, groups):
    """-EBUSY with a member, with a group below, with charges of the dead; the reserve returns at the end."""
    parent = groups.make("a", 6)
    group = groups.make("a/b", 4)
    the_set = join(office, "vm1", group)
    ioasid = office.alloc(the_set)
    office.core.get(ioasid, "iommu")
    office.core.free(the_set, ioasid)
    assert office.errno(office.policy.remove, parent) == "EBUSY"
    assert office.errno(office.policy.remove, group) == "EBUSY"
    office.policy.leave(office.mms["vm1"])
    assert office.errno(office.policy.remove, group) == "EBUSY"
    office.core.put(ioasid, "iommu")
    office.core.sets.free(the_set)
    office.policy.remove(group)
    office.policy.remove(parent)
    assert (office.capacity.available, office.policy.held, groups.values()) == (12, 0, [])


def test_a_set_keeps_the_group_of_its_dead_owner(office, groups):
    """Even an empty one, until it ends."""
    group = groups.make("a", 4)
    the_set = join(office, "vm1", group)
    office.policy.leave(office.mms["vm1"])
    assert office.errno(office.policy.remove, group) == "EBUSY"
    office.core.sets.free(the_set)
    office.policy.remove(group)


# --- max ----------------------------------------------------------------------------------------------------------


def test_max_is_set_aside_and_given_back(office, groups):
    """Growth takes the difference, a smaller max returns it, and each level takes its own."""
    group = groups.make("a", 5)
    groups.make("a/b", 4)
    assert office.capacity.available == 3
    groups.write_max(group, 8)
    assert office.capacity.available == 0
    groups.write_max(group, 1)
    assert (office.capacity.available, groups.reserved, office.sums) == (7, 5, True)


@pytest.mark.parametrize(("limit", "errno"), [(-1, "EINVAL"), (5, "EINVAL"), (13, "ENOSPC")])
def test_a_max_that_cannot_be_is_refused(office, groups, limit, errno):
    """Negative, unchanged, more than is left."""
    assert office.errno(groups.write_max, groups.make("a", 5), limit) == errno


def test_max_is_everything_that_is_left_and_records_all_of_it(office, groups):
    """The code recorded only what it took in addition; a second write changes nothing and is -EINVAL."""
    group = groups.make("a", 5)
    groups.make("b", 3)
    groups.write_max(group, "max")
    assert (group.max, office.capacity.available) == (9, 0)
    assert office.errno(groups.write_max, group, "max") == "EINVAL"
    office.policy.remove(group)
    assert office.capacity.available == 9


def test_max_may_be_below_what_is_in_use(office, groups):
    """No check against current: further IDs are refused until it is below."""
    group = groups.make("a", 3)
    the_set = join(office, "vm1", group)
    office.alloc(the_set, 3)
    groups.write_max(group, 1)
    assert (group.current, group.max) == (3, 1)
    for ioasid in (1, 2, 3):
        office.refused(the_set)
        office.core.free(the_set, ioasid)
    office.alloc(the_set)


# --- charges ------------------------------------------------------------------------------------------------------


def test_every_level_above_is_charged(office, groups):
    """And uncharged again; the root is not."""
    groups.make("a", 4)
    group = groups.make("a/b", 4)
    the_set = join(office, "vm1", group)
    ioasid = office.alloc(the_set)
    assert [level.current for level in group.levels()] == [1, 1]
    assert office.told(Verb.CHARGE) == [("group a/b", 0, 1), ("group a", 0, 1)]
    office.core.free(the_set, ioasid)
    assert [level.current for level in group.levels()] == [0, 0]


def test_a_level_that_is_full_undoes_everything_and_counts_the_event(office, groups):
    """The level that said no: in the code nobody counted."""
    top = groups.make("a", 1)
    left, right = groups.make("a/l", 3), groups.make("a/r", 3)
    office.alloc(join(office, "vm1", left))
    words = office.refused(join(office, "vm2", right))
    assert words == "vm2 cannot be charged: group a has 1 PASIDs in use and a max of 1 (-EAGAIN)"
    assert [(group.current, group.events) for group in (top, left, right)] == [(1, 1), (1, 0), (0, 0)]


def test_only_the_owner_itself_can_be_charged(office, groups):
    """The caller's mm must be the token (-EPERM inside), and there must be one (-EINVAL inside)."""
    the_set = join(office, "vm1", groups.make("a", 4))
    assert "(-EPERM)" in office.refused(the_set, current=office.mms["vm2"])
    assert groups.find("a").events == 0
    with pytest.raises(Exception, match=r"no mm \(-EINVAL\)"):
        office.policy.charge(the_set, None)


def test_two_members_share_what_their_group_has(office, groups):
    """Neither has a quota of its own."""
    group = groups.make("a", 4)
    first, second = join(office, "vm1", group), join(office, "vm2", group)
    office.alloc(first, 3)
    office.alloc(second)
    office.refused(second)
    assert (first.quota, group.current, office.capacity.available) == (None, 4, 8)


def test_the_group_of_the_dead_owner_gets_the_charge_back(office, groups):
    """Not whoever runs the last put, and not the next process at the same place."""
    group, other = groups.make("a", 4), groups.make("b", 4)
    the_set = join(office, "vm1", group)
    ioasid = office.alloc(the_set)
    office.core.get(ioasid, "iommu")
    office.core.free(the_set, ioasid)
    office.policy.leave(office.mms["vm1"])
    successor = Part(office.time, "vm1.mm")
    office.policy.migrate(successor, other)
    assert (office.policy.group_of(successor), office.policy.set_group(the_set)) == (other, group)
    office.core.put(ioasid, "iommu")
    assert (group.current, other.current) == (0, 0)


# --- migration ----------------------------------------------------------------------------------------------------


def test_the_example_of_the_documents(office, groups):
    """max 5, current 5, alloc fails; move in a process that owns one: current 6, max 5."""
    full, source = groups.make("full", 5), groups.make("source", 5)
    the_set, guest = join(office, "vm1", full), join(office, "vm2", source)
    office.alloc(the_set, 5)
    office.alloc(guest)
    office.refused(the_set)
    office.policy.migrate(office.mms["vm2"], full)
    assert (full.current, full.max, source.current) == (6, 5, 0)
    office.refused(guest)
    office.core.free(the_set, 1)
    office.refused(guest)
    office.core.free(the_set, 2)
    office.alloc(guest)
    assert office.told(Verb.MIGRATE)[-1] == ("vm2", "source", "full")


def test_the_whole_count_moves_free_pending_ids_included(office, groups):
    """The code moved the set's count, and on cancel only one per task."""
    source, target = groups.make("a", 4), groups.make("b", 1)
    the_set = join(office, "vm1", source)
    ioasid, *_ = office.alloc(the_set, 3)
    office.core.get(ioasid, "iommu")
    office.core.free(the_set, ioasid)
    office.policy.migrate(office.mms["vm1"], target)
    assert (source.current, target.current) == (0, 3)
    office.core.put(ioasid, "iommu")
    assert target.current == 2


def test_a_move_inside_a_tree_leaves_the_common_levels_as_they_are(office, groups):
    """Source and destination are below one group."""
    top = groups.make("t", 4)
    left, right = groups.make("t/l", 2), groups.make("t/r", 2)
    office.alloc(join(office, "vm1", left), 2)
    office.policy.migrate(office.mms["vm1"], right)
    assert (top.current, left.current, right.current) == (2, 0, 2)


def test_a_move_to_where_one_is_changes_nothing(office, groups):
    """It is told as ignored."""
    group = groups.make("a", 4)
    office.alloc(join(office, "vm1", group))
    before = office.time.digest()
    office.policy.migrate(office.mms["vm1"], group)
    assert office.time.digest() == before
    assert len(office.told(Verb.IGNORE)) == 1


# --- the root -----------------------------------------------------------------------------------------------------


def test_members_of_the_root_are_not_charged_and_draw_on_the_capacity(office):
    """A choice of ours: first come, first served, or the sums would not be true."""
    the_set = join(office, "vm1", None)
    office.alloc(the_set, 3)
    assert (office.policy.held, office.capacity.available, office.policy.limit(the_set)) == (3, 9, None)
    assert office.errno(office.policy.change, the_set, 2) == "ENOENT"
    office.core.free(the_set, 1)
    assert (office.policy.held, office.sums) == (2, True)


def test_the_root_refuses_when_nothing_is_left(office, groups):
    """What groups have set aside is theirs."""
    the_set = join(office, "vm1", None)
    groups.make("a", "max")
    assert "in the root" in office.refused(the_set)


def test_a_move_out_of_the_root_gives_back_what_was_drawn(office, groups):
    """The group pays instead, from what it has set aside."""
    the_set = join(office, "vm1", None)
    office.alloc(the_set, 3)
    office.policy.migrate(office.mms["vm1"], groups.make("a", 2))
    assert (office.policy.drawn, groups.find("a").current, office.capacity.available) == (0, 3, 10)


def test_a_move_into_the_root_draws_as_far_as_there_is(office, groups):
    """It is never refused; what could not be drawn is not returned either."""
    group = groups.make("a", 11)
    the_set = join(office, "vm1", group)
    office.alloc(the_set, 3)
    office.policy.migrate(office.mms["vm1"], None)
    assert (office.policy.drawn, office.capacity.available, office.sums) == (1, 0, True)
    for ioasid in (1, 2):
        office.core.free(the_set, ioasid)
    assert (office.policy.drawn, office.sums) == (1, True)
    office.core.free(the_set, 3)
    assert (office.policy.drawn, office.capacity.available) == (0, 1)


# --- groups made for one process ----------------------------------------------------------------------------------


def test_a_process_that_was_put_nowhere_gets_a_group_of_its_own(office, groups):
    """With the quota as max; it goes with the process."""
    the_set = office.set("vm1", 4)
    assert repr(groups.find("vm1")) == "<cgroup vm1: 0 of 4>"
    office.core.sets.free(the_set)
    assert groups.find("vm1").max == 4
    office.policy.leave(office.mms["vm1"])
    assert (groups.values(), office.capacity.available) == ([], 12)


def test_such_a_group_waits_for_ids_of_the_dead_and_for_guests(office, groups):
    """It goes with the last of its own IDs; with somebody else in it, it stays."""
    the_set = office.set("vm1", 4)
    ioasid = office.alloc(the_set)
    office.core.get(ioasid, "iommu")
    office.core.free(the_set, ioasid)
    the_set.free_pending = True
    office.policy.leave(office.mms["vm1"])
    assert groups.find("vm1").current == 1
    office.core.put(ioasid, "iommu")
    assert groups.values() == []
    office.set("vm2", 4)
    office.policy.migrate(office.mms["vm3"], groups.find("vm2"))
    office.policy.leave(office.mms["vm2"])
    assert [group.name for group in groups.values()] == ["vm2"]


def test_only_a_core_with_this_policy_has_groups(make_office):
    """-EINVAL elsewhere."""
    office = make_office("fixed")
    assert office.errno(cgroups_of, office.core) == "EINVAL"


def test_a_removed_group_says_so(groups, office):
    """For whoever still holds it."""
    group = groups.make("a", 2)
    office.policy.remove(group)
    assert repr(group) == "<cgroup a, removed>"
