"""A fixed quota: set aside at once, a guarantee for its VM, lost for all others."""

POLICY = "fixed"


def test_a_quota_is_set_aside_before_the_first_id(office):
    """What one was promised another cannot be."""
    office.set("vm1", 8)
    assert office.capacity.available == 4
    assert office.errno(office.set, "vm2", 5) == "ENOSPC"


def test_a_promise_is_kept_whatever_others_do(office):
    """The other VM uses its own up; the first still gets all of its."""
    quiet, greedy = office.set("vm1", 6), office.set("vm2", 6)
    office.alloc(greedy, 6)
    office.refused(greedy)
    office.alloc(quiet, 6)


def test_a_quota_is_adjusted_between_what_is_out_and_what_is_left(office):
    """-EINVAL below, -ENOSPC above, and the sums stay true."""
    the_set = office.set("vm1", 4)
    office.alloc(the_set, 3)
    assert office.errno(office.policy.change, the_set, 2) == "EINVAL"
    assert office.errno(office.policy.change, the_set, 13) == "ENOSPC"
    office.policy.change(the_set, 12)
    assert (office.capacity.available, office.sums) == (0, True)


def test_whoever_calls_the_set_pays(office):
    """Nobody else is charged: a file that was handed on works."""
    office.alloc(office.set(), current=office.mms["vm2"])
