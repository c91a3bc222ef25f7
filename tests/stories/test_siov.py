"""The stories about interfaces, functions and the conflict of their numbers: what events and bytes must show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pasidlab import Machine
from pasidlab.stories import STORIES, Chapter, Story, StoryBroken, expect, play
from pasidlab.stories.mixture import MEANINGS, bind_all, end_scene, set_scene
from pasidlab.timeline import Event, Verb

POINTS = {"T5": "default-pasid", "T6": "coexistence", "T7": "two-numbers", "T9": "shadow", "T10": "conflict"}


def chapters(name: str) -> list[Chapter]:
    """A story, told to its end."""
    return list(play(STORIES[name]))


def events(name: str) -> list[Event]:
    """Its events."""
    return [event for chapter in chapters(name) for event in chapter.events]


def chapter(name: str, words: str) -> list[Event]:
    """The events of the first chapter in whose caption these words are."""
    return next(told.events for told in chapters(name) if words in told.caption)


def numbers(told: list[Event], verb: Verb, fact: str = "pasid") -> list[object]:
    """What all events of one kind say under one name."""
    return [event.fact(fact) for event in told if event.verb is verb]


@pytest.mark.parametrize("point", [*POINTS, "T14"])
def test_each_point_of_the_talk_has_its_story(point: str) -> None:
    """And is found by its number; the one that was written for it by name."""
    found = [story.name for story in STORIES.values() if point in story.points]
    assert found
    assert POINTS.get(point, "guest-life") in found


# --- T5 ---------------------------------------------------------------------------------------------------------------


def test_the_default_pasid_is_programmed_for_a_queue_without_one_and_for_number_0() -> None:
    """Both times hardware gets the number of the auxiliary attach, and nobody looks a SPID up."""
    told = events("default-pasid")
    silicon = (event for event in told if event.verb is Verb.PROGRAM and event.actor == "accelerator")
    programmed = [event.after for event in silicon if event.after == "off" or isinstance(event.after, int)]
    assert programmed[:4] == [1, "off", 1, "off"]
    assert numbers(told, Verb.TRANSLATE) == []


def test_default_pasids_are_never_sent_by_another_vm() -> None:
    """Each copy asks with one number only: 1 for vm1, 2 for vm2, and 1 again for vm3 when vm1 has gone."""
    asked = [number for number in numbers(events("default-pasid"), Verb.ATS) if number is not None]
    assert list(dict.fromkeys(asked)) == [1, 2]
    assert asked.index(2) > 0
    assert asked[-1] == 1


# --- T6 ---------------------------------------------------------------------------------------------------------------


def test_a_dedicated_queue_is_converted_between_the_trap_and_the_register() -> None:
    """Store, trap, look-up, store: in this order, and the look-up is caused by the trapped command."""
    told = chapter("coexistence", "Dedicated")
    steps = [event for event in told if event.actor in ("vdcm", "accelerator")]
    wanted = iter([Verb.TRAP, Verb.PROGRAM, Verb.TRAP, Verb.COMMAND, Verb.TRANSLATE, Verb.PROGRAM, Verb.ENABLE])
    step: Verb | None = next(wanted)
    for event in steps:
        if event.verb is step:
            step = next(wanted, None)
    assert step is None


def test_a_shared_queue_is_converted_by_the_cpu_and_nobody_traps() -> None:
    """One ENQCMD, one translation, one descriptor."""
    told = chapter("coexistence", "ENQCMD: the number")
    assert numbers(told, Verb.ENQCMD) == [1]
    assert numbers(told, Verb.TRANSLATE, "host_pasid") == numbers(told, Verb.ACCEPT)
    assert not [event for event in told if event.verb in (Verb.TRAP, Verb.EXIT_VMX)]


def test_a_function_is_programmed_without_a_trap_of_the_device() -> None:
    """What traps is what concerns the IOMMU: command and flushes."""
    told = chapter("coexistence", "A whole function")
    assert {event.actor for event in told if event.verb is Verb.TRAP} == {"vmm"}
    assert not [event for event in told if event.verb is Verb.TRANSLATE and event.altitude == "host"]


# --- T9 ---------------------------------------------------------------------------------------------------------------


def test_three_streams_of_one_queue_have_three_numbers_and_one_address() -> None:
    """What the queue accepts differs by its PASID only."""
    told = chapter("shadow", "Three descriptors lie in one queue")
    assert len(set(numbers(told, Verb.ACCEPT))) == 3
    assert len(set(numbers(told, Verb.ACCEPT, "wq"))) == 1


def test_the_price_of_a_shadow_is_told_in_counts() -> None:
    """In the caption, from the run itself."""
    caption = next(told.caption for told in chapters("shadow") if "price" in told.caption)
    assert "3 IOASIDs" in caption
    assert "traps" in caption


# --- T7, T10 ----------------------------------------------------------------------------------------------------------


def test_two_numbers_go_on_the_wire_for_one_process() -> None:
    """The guest's from the function, the host's from the interface."""
    told = chapter("two-numbers", "On the wire")
    asked = {(event.fact("rid"), event.fact("pasid")) for event in told if event.verb is Verb.ATS}
    assert len({rid for rid, _ in asked}) == len({pasid for _, pasid in asked}) == 2


def test_a_page_request_of_one_vm_makes_another_vms_guest_bring_a_page() -> None:
    """The function asks; the neighbour's kernel has the fault; it is nobody of the VM that asked."""
    told = chapter("conflict", "ben's work comes to a page")
    guests = {event.altitude for event in told if event.verb is Verb.PAGE_FAULT}
    assert "neighbour" in guests
    assert "vm" not in guests
    assert set(numbers([event for event in told if event.altitude == "hardware"], Verb.PAGE_REQUEST)) == {2}


def test_one_msr_value_arrives_as_the_same_number_at_two_portals() -> None:
    """The CPU translates 1 to 4 for the interface and for the function."""
    told = [event for event in events("conflict") if event.verb is Verb.TRANSLATE and event.fact("guest_pasid") == 1]
    assert {event.fact("host_pasid") for event in told[:2]} == {4}
    portals = [event.fact("device") for event in events("conflict") if event.verb is Verb.ACCEPT]
    assert {"dsa0", "dsa1"} <= set(portals)


@pytest.mark.parametrize("policy", ["identity", "translated", "refuse"])
def test_under_an_enforcing_policy_no_invariant_is_broken_for_a_moment(policy: str) -> None:
    """The scene of the conflict, supervised after every operation, without leave to break anything."""

    def tell(m: Machine) -> Iterator[str]:
        yield "all bind"
        scene = set_scene(m, policy)
        bind_all(scene)
        expect(bool(scene.vm.pasids), "somebody is bound")
        yield "all end"
        end_scene(scene)

    assert len(list(play(Story("calm", "Calm", (), tell)))) == 2


@pytest.mark.parametrize("name", ["two-numbers", "conflict", "policies"])
def test_a_story_of_the_conflict_needs_its_leave(name: str) -> None:
    """Without it the same script is broken, and invariant 14 is named."""
    with pytest.raises(StoryBroken, match=f"invariant {MEANINGS}"):
        list(play(STORIES[name]._replace(breaks=frozenset(), leaves=frozenset())))


def test_what_a_story_leaves_broken_must_hold_at_its_end() -> None:
    """From chapter to chapter it may stay, at the end it may not."""

    def tell(m: Machine) -> Iterator[str]:
        scene = set_scene(m, "unenforced")
        yield "all bind"
        bind_all(scene)
        yield "nothing is repaired"

    told = play(Story("careless", "Careless", (), tell, leaves=frozenset({MEANINGS})))
    assert next(told).caption == "all bind"
    assert next(told).caption == "nothing is repaired"
    with pytest.raises(StoryBroken, match=f"invariant {MEANINGS}"):
        next(told)


def test_a_broken_expectation_is_told_even_where_invariants_are_broken_on_purpose() -> None:
    """What the reader needs to know comes first."""

    def tell(m: Machine) -> Iterator[str]:
        yield "all bind"
        bind_all(set_scene(m, "unenforced"))
        expect(False, "pigs fly")

    with pytest.raises(StoryBroken, match="expected: pigs fly"):
        list(play(Story("careless", "Careless", (), tell, breaks=frozenset({MEANINGS}))))
