"""SPIDs: a set's own number for an ID, unique within the set, announced by BIND and withdrawn by UNBIND (facts 1.5)."""

import pytest

from pasidlab.kernel.ioasid.record import INVALID_IOASID
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


def test_a_second_attach_is_refused_until_the_first_is_detached(bench, listener):
    """The code emitted BIND again without UNBIND between; also the same number again is refused."""
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 5)
    for spid in (5, 6):
        assert bench.errno(bench.core.attach_spid, number, spid) == "EINVAL"
    bench.core.detach_spid(number)
    bench.core.attach_spid(number, 6)
    assert heard(listener) == [("BIND", number, 5), ("UNBIND", number, 5), ("BIND", number, 6)]


@pytest.mark.parametrize("spid", [INVALID_IOASID, INVALID_IOASID + 1, -1])
def test_what_is_no_number_cannot_be_a_spid(bench, spid):
    """All ones means "none"."""
    number = bench.alloc(bench.set())
    assert bench.errno(bench.core.attach_spid, number, spid) == "EINVAL"
    bench.core.attach_spid(number, INVALID_IOASID - 1)


def test_what_is_wrong_with_an_attach_is_said_in_order(bench):
    """The number itself, the ID, the other IDs of the set."""
    the_set = bench.set()
    first, dying = bench.alloc(the_set), bench.dying(the_set)
    bench.core.attach_spid(first, 5)
    assert bench.errno(bench.core.attach_spid, 30, INVALID_IOASID) == "EINVAL"
    assert bench.errno(bench.core.attach_spid, dying, INVALID_IOASID) == "EINVAL"
    assert bench.errno(bench.core.attach_spid, 30, 5) == "ENOENT"
    assert bench.errno(bench.core.attach_spid, dying, 5) == "ENOENT"


def test_a_dying_id_keeps_its_spid_until_it_is_detached_or_reclaimed(bench):
    """Its number still stands for it: another ID cannot have it yet, and a plain look-up finds it."""
    the_set = bench.set()
    first = bench.alloc(the_set)
    bench.core.attach_spid(first, 5)
    bench.core.get(first, "user")
    bench.core.free(the_set, first)
    second = bench.alloc(the_set)
    assert bench.errno(bench.core.attach_spid, second, 5) == "EINVAL"
    assert bench.unchanged(bench.core.find_by_spid, the_set, 5) == first
    assert bench.unchanged(bench.core.find_by_spid, the_set, 5, "late") is None
    bench.core.put(first, "user")
    bench.core.attach_spid(second, 5)
    assert bench.core.find_by_spid(the_set, 5) == second


def test_a_reclaimed_id_loses_its_spid(bench, listener):
    """Nobody used it, so nobody is told."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    bench.core.free(the_set, number)
    assert bench.unchanged(bench.core.find_by_spid, the_set, 5) is None
    assert bench.alloc(the_set) == number
    assert bench.core.ids[number].spid is None
    assert heard(listener) == [("BIND", number, 5)]


def test_in_a_set_that_is_gone_nothing_is_found(bench):
    """INVALID_IOASID."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.attach_spid(number, 5)
    bench.core.free(the_set, number)
    bench.core.sets.free(the_set)
    assert bench.core.find_by_spid(the_set, 5, "late") is None


def test_nobody_asks_who_attaches(bench):
    """There is no ownership argument: whoever knows the number may do it (facts 1.5)."""
    bench.set("mm1")
    number = bench.alloc(bench.set("mm2"))
    bench.core.attach_spid(number, 5)
    assert bench.core.ids[number].spid == 5


def test_handlers_of_unbind_find_the_spid_still_there(bench):
    """It is cleared when all have been told."""
    found = []
    bench.listen("kvm", react={"UNBIND": lambda payload: found.append(bench.core.ids[payload.ioasid].spid)})
    number = bench.alloc(bench.set())
    bench.core.attach_spid(number, 5)
    bench.core.detach_spid(number)
    assert found == [5]
