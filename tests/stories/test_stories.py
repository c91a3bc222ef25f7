"""The stories hold, say which points of the talk they show, and break loudly when the world does not behave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pasidlab import Machine
from pasidlab.stories import STORIES, Story, StoryBroken, expect, play
from pasidlab.timeline import Event, Verb


@pytest.mark.parametrize("name", STORIES)
def test_each_story_holds(name: str) -> None:
    """Every chapter has a caption and events, every expectation holds, every invariant is true after each chapter."""
    chapters = list(play(STORIES[name]))
    assert len(chapters) >= 4
    assert all(chapter.caption for chapter in chapters)
    assert any(chapter.events for chapter in chapters)


@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_the_same_each_time(name: str) -> None:
    """Two tellings give the same events and the same digest."""
    machines = STORIES[name].make(), STORIES[name].make()
    tellings = [[chapter.events for chapter in play(STORIES[name], machine)] for machine in machines]
    assert tellings[0] == tellings[1]
    assert machines[0].timeline.digest() == machines[1].timeline.digest()


def _events(name: str) -> list[Event]:
    return [event for chapter in play(STORIES[name]) for event in chapter.events]


def test_two_vms_shows_alloc_bind_use_unbind_free_for_each_guest() -> None:
    """The five steps of a PASID's life appear in the host's stream, in order, once a VM."""
    host = [event for event in _events("two-vms") if event.altitude == "host"]
    for pasid, guest in ((3, "vm1"), (4, "vm2")):
        life = [event.verb for event in host if event.actor == "ioasid" and event.fact("ioasid") == pasid]
        steps = [
            verb for verb in life if verb in (Verb.ALLOC, Verb.ATTACH_SPID, Verb.DETACH_SPID, Verb.FREE, Verb.RECLAIM)
        ]
        assert steps == [Verb.ALLOC, Verb.ATTACH_SPID, Verb.DETACH_SPID, Verb.FREE, Verb.RECLAIM], guest


def test_two_vms_programs_two_numbers_for_one_guest_pasid() -> None:
    """The CPU translates guest PASID 1 to 3 in one VM and to 4 in the other, and DMA carries these."""
    events = _events("two-vms")
    translated = {(event.altitude, event.before, event.after) for event in events if event.verb is Verb.TRANSLATE}
    assert translated == {("vm1", 1, 3), ("vm2", 1, 4)}
    assert {event.fact("pasid") for event in events if event.verb is Verb.DMA} == {3, 4}


def test_the_function_story_puts_the_guests_number_on_the_wire() -> None:
    """What the guest programs into a physical function is what its DMA carries."""
    events = _events("physical-function")
    programmed = {event.after for event in events if event.verb is Verb.PROGRAM and isinstance(event.after, int)}
    assert {event.fact("pasid") for event in events if event.verb is Verb.DMA} <= programmed


def test_an_expectation_that_fails_breaks_the_story() -> None:
    """`expect` names what was expected."""
    with pytest.raises(StoryBroken, match="expected: pigs fly"):
        expect(False, "pigs fly")


def test_an_invariant_that_fails_breaks_the_story() -> None:
    """A world that is not in order ends the telling, and the rule is named."""

    def tell(m: Machine) -> Iterator[str]:
        yield "somebody loses count"
        m.kernel.ioasid.capacity.available -= 1

    with pytest.raises(StoryBroken, match="invariant 5"):
        list(play(Story("broken", "Broken", (), tell)))


def test_what_is_wrong_for_one_operation_only_breaks_the_story_too() -> None:
    """Every operation is supervised: a violation that a later call hides is still told, with its chapter."""

    def tell(m: Machine) -> Iterator[str]:
        yield "somebody miscounts for a moment"
        m.kernel.ioasid.capacity.available -= 1
        app = m.spawn("app")
        m.kernel.ioasid.capacity.available += 1
        app.buffer(8)

    chapters = play(Story("broken", "Broken", (), tell))
    assert next(chapters).caption == "somebody miscounts for a moment"
    with pytest.raises(StoryBroken, match="invariant 5"):
        next(chapters)


def test_a_refusal_that_a_story_does_not_expect_breaks_it() -> None:
    """A KernelError that escapes is told as a broken story, not as a crash."""

    def tell(m: Machine) -> Iterator[str]:
        yield "nobody is there"
        m.vm("nobody")

    with pytest.raises(StoryBroken, match="ESRCH"):
        list(play(Story("broken", "Broken", (), tell)))
