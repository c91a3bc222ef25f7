"""SPIDs: a set's own number for an ID, unique within the set, announced by BIND and withdrawn by UNBIND (facts 1.5)."""

import pytest

from pasidlab.timeline import Verb


@pytest.fixture
def listener(bench):
    """Somebody who is told."""
    return bench.listen("kvm")


def heard(listener):
    """Event and SPID, without ALLOC."""
    return [(event, payload.ioasid, payload.spid) for _, event, payload in listener.heard if event != "ALLOC"]


def test_attaching_a_spid_tells_bind_with_the_spid(bench, listener):
    """Published by the attach itself, to the set's chain."""
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 101)
    assert heard(listener) == [("BIND", number, 101)]


def test_detaching_tells_unbind_with_the_old_spid_and_then_clears_it(bench, listener):
    """Handlers need the number to find their entry."""
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 101)
    bench.core.detach_spid(number)
    assert heard(listener)[1:] == [("UNBIND", number, 101)]
    assert bench.core.ids[number].spid is None


def test_detaching_what_is_not_attached_is_silent(bench, listener):
    """Unknown IDs and IDs without SPID: nothing happens."""
    number = bench.alloc(bench.set())
    before = bench.time.digest()
    bench.core.detach_spid(number)
    bench.core.detach_spid(31)
    assert bench.time.digest() == before
    assert heard(listener) == []


def test_a_spid_is_unique_within_its_set(bench, listener):
    """The second is -EINVAL, is not announced, and pins nothing (bug 5 of the fact sheet)."""
    the_set = bench.set()
    first, second = bench.alloc(the_set), bench.alloc(the_set)
    bench.core.attach_spid(first, 5)
    assert bench.errno(bench.core.attach_spid, second, 5) == "EINVAL"
    assert heard(listener) == [("BIND", first, 5)]
    assert bench.refs(first) == 1


def test_two_sets_may_use_the_same_spid(bench):
    """VM1 and VM2 both call theirs 101."""
    one, other = bench.set("mm1"), bench.set("mm2")
    first, second = bench.alloc(one), bench.alloc(other)
    bench.core.attach_spid(first, 101)
    bench.core.attach_spid(second, 101)
    assert bench.core.find_by_spid(one, 101) == first
    assert bench.core.find_by_spid(other, 101) == second


def test_an_id_has_one_spid(bench, listener):
    """A second one over the first would be BIND twice without UNBIND between: -EINVAL."""
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 5)
    assert bench.errno(bench.core.attach_spid, number, 6) == "EINVAL"
    assert heard(listener) == [("BIND", number, 5)]


def test_attaching_to_an_unknown_id_is_enoent(bench):
    """There is nothing to name."""
    bench.set()
    assert bench.errno(bench.core.attach_spid, 9, 5) == "ENOENT"


def test_a_look_up_by_spid_takes_a_reference_only_when_asked(bench):
    """With a holder's name it does, in that name."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    assert bench.core.find_by_spid(the_set, 5) == number
    assert bench.refs(number) == 1
    assert bench.core.find_by_spid(the_set, 5, holder="vdcm") == number
    assert bench.core.ids[number].holders == ("owner", "vdcm")
    assert bench.core.find_by_spid(the_set, 6, holder="vdcm") is None


def test_a_dying_id_loses_its_spid_without_unbind(bench, listener):
    """FREE has told its users already: (BIND UNBIND)*, at most one FREE."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    bench.core.get(number, "iommu")
    bench.core.free(the_set, number)
    bench.core.detach_spid(number)
    assert [event for event, _, _ in heard(listener)] == ["BIND", "FREE"]
    assert bench.core.ids[number].spid is None
    assert bench.verbs(Verb.DETACH_SPID) == [(Verb.DETACH_SPID, f"IOASID {number}")]
