"""The policies as an experiment: what each gives, costs and prevents, counted under one script."""

import pytest

from pasidlab import Machine
from pasidlab.stories.mixture import ORDERS, PROCESSES, compare_policies, mix
from pasidlab.virt.policies import POLICIES


@pytest.fixture(scope="module")
def found():
    """What the script found out, by policy and kind of device that came first."""
    return {(one.policy, one.first): one for one in compare_policies()}


def test_every_policy_is_tried_and_refuse_in_both_orders(found):
    """Where the first device decides."""
    assert list(found) == list(ORDERS)
    assert {policy for policy, _ in found} == set(POLICIES)
    assert [policy for policy, _ in ORDERS].count("refuse") == 2


def test_the_script_gives_the_same_each_time(found):
    """As data; also on a machine where it has run before."""
    m = Machine()
    assert [mix(m, "identity") for _ in range(2)] == [found["identity", "function"]] * 2


@pytest.mark.parametrize(
    ("key", "errnos"),
    [
        (("translated", "function"), {"function": "EPERM", "interface": ""}),
        (("identity", "function"), {"function": "", "interface": ""}),
        (("refuse", "function"), {"function": "", "interface": "EPERM"}),
        (("refuse", "interface"), {"function": "EPERM", "interface": ""}),
        (("unenforced", "function"), {"function": "", "interface": ""}),
    ],
)
def test_what_may_be_assigned(found, key, errnos):
    """And with which errno the rest is refused."""
    assert {given.device: given.errno for given in found[key].given} == errnos


def test_the_guest_sees_its_own_numbers_unless_identity_is_the_policy(found):
    """Numbers from 1 on, or the host's."""
    for one in found.values():
        guests, hosts = zip(*one.numbers, strict=True)
        assert guests == (hosts if one.policy == "identity" else (1, 2, 3, 4))


def test_a_function_sends_the_guests_numbers_and_an_interface_the_hosts(found):
    """Whatever the policy."""
    for one in found.values():
        guests, hosts = zip(*one.numbers, strict=True)
        if one.function is not None:
            assert one.function.wire == one.function.entries == guests
        if one.interface is not None:
            assert one.interface.wire == one.interface.entries == hosts


def test_enforcing_policies_bring_every_page_and_let_nobody_reach_another(found):
    """On whatever device there is; and check() has nothing to say."""
    for one in found.values():
        if one.policy == "unenforced":
            continue
        assert one.conflicts == ()
        for side in one.sides.values():
            assert all(asked.brought and not asked.astray for asked in side.asked)
            assert all(reached.own for reached in side.reached)


def test_unenforced_a_page_goes_to_another_vm_and_an_enqcmd_to_another_process(found):
    """The two concrete conflicts of the design."""
    one = found["unenforced", "function"]
    asked = {asked.process: asked for asked in one.function.asked}
    assert (asked["ben"].by, asked["ben"].astray, asked["ben"].brought) == (("neighbour",), ("eve",), False)
    reached = {reached.process: reached for reached in one.function.reached}
    assert (reached["ann"].carried, reached["ann"].whose) == (4, ("dan",))
    assert not any(reached[name].own for name in PROCESSES)
    assert len(one.conflicts) == 9


def test_refuse_saves_the_tables_of_the_cpu_for_a_function(found):
    """It keeps ENQCMD untranslated: no entries, nobody is told, and still every process is reached."""
    one = found["refuse", "function"]
    assert (one.kvm_entries, one.kvm_pages, one.price.delivered, one.default) == (0, 2, 0, None)


def test_nothing_is_left_when_all_have_gone(found):
    """Under any policy."""
    assert {one.left for one in found.values()} == {0}
