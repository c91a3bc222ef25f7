"""The stories about the IOMMU's tables and caches: what their events and bytes must show, and how a story may break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pasidlab import Machine
from pasidlab.kernel.iommu.vtd.teardown import STEPS
from pasidlab.stories import STORIES, Chapter, Story, StoryBroken, play
from pasidlab.stories.teardown import queued, tail
from pasidlab.stories.turns import DIARY, LETTER, SIZE, end_turns, take_turn
from pasidlab.timeline import Event, Verb


def chapters(name: str) -> list[Chapter]:
    """A story, told to its end."""
    return list(play(STORIES[name]))


def events(name: str) -> list[Event]:
    """Its events."""
    return [event for chapter in chapters(name) for event in chapter.events]


# --- walk -------------------------------------------------------------------------------------------------------------


def test_the_walks_are_asked_with_and_without_pasid() -> None:
    """Pass-through, first-level, nested, the guest's own number, the default PASID: five requests, in this order."""
    sent = [event.fact("pasid") for event in events("walk") if event.verb is Verb.DMA]
    assert sent == [None, 1, 3, 1, 2]


def test_three_ways_lead_to_two_pages() -> None:
    """The editor's page is reached thrice, the guest's by its virtual and by its guest-physical address."""
    reached = [event.fact("hpa") for event in events("walk") if event.verb is Verb.DMA]
    editor, guest = reached[0], reached[2]
    assert reached == [editor, editor, guest, editor, guest]
    assert editor != guest


# --- stale ------------------------------------------------------------------------------------------------------------


def test_each_step_is_left_out_once_and_the_last_chapter_leaves_none_out() -> None:
    """What the driver leaves out, chapter by chapter."""
    ignored = [[event.subject for event in told.events if event.verb is Verb.LEAVE_OUT] for told in chapters("stale")]
    pasid_cache, iotlb, device_tlb, drain = STEPS.values()
    assert ignored == [[], [pasid_cache], [pasid_cache], [iotlb], [device_tlb], [drain], []]


def test_a_stale_story_needs_its_leave() -> None:
    """Without `breaks` the same script is a broken story: invariant 10."""
    with pytest.raises(StoryBroken, match="invariant 10"):
        list(play(STORIES["stale"]._replace(breaks=frozenset())))


def test_what_is_broken_on_purpose_must_hold_again_at_the_end_of_the_chapter() -> None:
    """A story cannot walk away from what it has broken."""

    def tell(m: Machine) -> Iterator[str]:
        yield "something stays behind"
        take_turn(m.spawn("alice"), m.spawn("bob"), m.plug_accelerator("dsa0", ats=False), "pasid-cache")

    with pytest.raises(StoryBroken, match="invariant 10"):
        list(play(Story("careless", "Careless", (), tell, breaks=frozenset({10}))))


@pytest.mark.parametrize("ats", [False, True])
def test_after_a_complete_turn_the_next_one_is_untouched(ats: bool) -> None:
    """Bob has Alice's number and addresses, and gets his own bytes."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0", ats=ats)
    turns = take_turn(m.spawn("alice"), m.spawn("bob"), dsa)
    assert turns.bob.bind(dsa) == turns.pasid
    assert turns.bob.copy(dsa, turns.src, turns.dst, SIZE).ok
    assert (turns.bob.read(turns.dst, SIZE), turns.alice.read(turns.src, SIZE)) == (LETTER, DIARY)
    end_turns(turns)


# --- page-request -----------------------------------------------------------------------------------------------------


def test_a_page_request_of_a_guest_is_asked_twice_and_answered_twice() -> None:
    """On the wire with the host's number, in the guest's queue with the guest's; answers come the other way round."""
    told = chapters("page-request")[4].events
    asked = [event.fact("pasid") for event in told if event.verb is Verb.PAGE_REQUEST]
    answered = [event.fact("pasid") for event in told if event.verb is Verb.PAGE_RESPONSE]
    assert asked == [3, 1]
    assert answered == [1, 3]


def test_refused_pages_end_in_a_page_fault_and_no_record() -> None:
    """Two copies are refused, one of the host and one of the guest; the IOMMU records nothing."""
    told = events("page-request")
    ends = [event.after for event in told if event.verb is Verb.COMPLETE]
    assert ends == ["SUCCESS", "PAGE_FAULT_IR", "SUCCESS", "PAGE_FAULT_IR"]
    assert not [event for event in told if event.verb is Verb.FAULT]


# --- teardown ---------------------------------------------------------------------------------------------------------


def test_the_ring_is_read_across_its_end() -> None:
    """After more descriptors than the ring holds, the newest ones are still found."""
    m = Machine()
    dsa, app = m.plug_accelerator("dsa0"), m.spawn("app")
    wrapped = 0
    for _ in range(40):
        app.bind(dsa)
        before = tail(m)
        app.unbind(dsa)
        assert [one.name for one in queued(m, before)][:2] == ["PASID cache", "PASID IOTLB"]
        wrapped += tail(m) < before
    assert wrapped


def test_the_descriptors_in_memory_are_the_invalidations_of_the_events() -> None:
    """But for the waits, which invalidate nothing."""
    m = Machine()
    dsa, app = m.plug_accelerator("dsa0"), m.spawn("app")
    app.bind(dsa)
    before, start = tail(m), m.timeline.now
    app.unbind(dsa)
    told = [event.subject for event in m.timeline.since(start) if event.verb is Verb.INVALIDATE]
    assert [str(one) for one in queued(m, before) if one.name != "wait"] == told
