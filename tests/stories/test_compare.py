"""The same guest on every IOMMU: what is counted, how steps are linked, what is refused and in whose words."""

from __future__ import annotations

import pytest

from pasidlab import KernelError, Machine
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories import STORIES, play
from pasidlab.stories.compare import COMPARE, compare_machines, play_on, try_on
from pasidlab.timeline import HARDWARE, HOST, Verb
from pasidlab.views.compare import Comparison, Did, Moment, Tried
from pasidlab.views.compare_words import STEPS, TRIES
from pasidlab.views.price import price

BOUND = [name for name, family in FAMILIES.items() if family.binds_tables]
SHADOWED = [name for name in FAMILIES if name not in BOUND]


@pytest.fixture(scope="module")
def found() -> Comparison:
    """The script on a machine of each kind."""
    return compare_machines()


def did(found: Comparison, kind: str, step: str) -> Did:
    """One step on one machine."""
    return next(each for one in found.played if one.machine.iommu == kind for each in one.did if each.name == step)


def tried(found: Comparison, kind: str) -> dict[str, Tried]:
    """What was tried on one kind, by name."""
    return {one.what: one for one in dict(found.tried)[kind]}


def test_every_kind_of_machine_takes_every_step(found: Comparison) -> None:
    """In the same order, each beginning where the one before has ended."""
    assert list(found.key) == list(FAMILIES)
    for one in found.played:
        assert [each.name for each in one.did] == list(STEPS)
        assert [each.first for each in one.did[1:]] == [each.last for each in one.did[:-1]]
        assert one.machine.check().ok


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_script_gives_the_same_each_time(kind: str) -> None:
    """As data, and as digest."""
    one, other = play_on(Machine(iommu=kind)), play_on(Machine(iommu=kind))
    assert one.did == other.did
    assert one.machine.timeline.digest() == other.machine.timeline.digest()


@pytest.mark.parametrize("kind", BOUND)
def test_where_the_guest_owns_the_table_a_process_costs_the_host_nothing(found: Comparison, kind: str) -> None:
    """No IOASID, no word, no notification; the hypervisor hands invalidations on."""
    for step in ("bind", "second", "unbind", "exit"):
        cost = did(found, kind, step).price
        assert (cost.ioasids, cost.host_words, cost.kvm_words, cost.delivered) == (0, 0, 0, 0)
        assert cost.guest_words > 0
        assert cost.traps == cost.ioctls
    assert did(found, kind, "function").price.host_words > 0


@pytest.mark.parametrize("kind", SHADOWED)
def test_where_the_host_owns_it_each_process_is_paid_for(found: Comparison, kind: str) -> None:
    """A number, words in two tables, somebody told: and the same once more for the second process."""
    for step in ("bind", "second"):
        cost = did(found, kind, step).price
        assert cost.ioasids == 1
        assert cost.delivered >= 1
        assert cost.host_words == cost.guest_words == 3
    assert did(found, kind, "bind").allocated != did(found, kind, "second").allocated


@pytest.mark.parametrize("kind", FAMILIES)
def test_using_a_number_traps_nothing_on_any_machine(found: Comparison, kind: str) -> None:
    """A copy by the device is the device's affair."""
    cost = did(found, kind, "copy").price
    assert (cost.traps, cost.exits, cost.ioctls, cost.host_words, cost.guest_words) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_prices_are_counted_from_the_events_of_the_step(found: Comparison, kind: str) -> None:
    """Counted once more by hand; nothing in a price is written down."""
    for one in (each for each in found.played if each.machine.iommu == kind):
        for step in one.did:
            events = one.machine.timeline.since(step.first)[: step.last - step.first]
            assert step.price.traps == len(step.trapped) == sum(event.verb is Verb.TRAP for event in events)
            assert step.price.ioctls == sum(event.verb is Verb.IOCTL for event in events)
            silicon = [event for event in events if event.verb is Verb.INVALIDATE and event.altitude == HARDWARE]
            assert step.price.invalidations == len(silicon)
            handed_out = [event for event in events if event.verb is Verb.ALLOC and event.altitude == HOST]
            assert step.price.ioasids == len(step.allocated) == len(handed_out)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_price_can_be_asked_for_at_any_moment_of_the_past(kind: str) -> None:
    """Also where a VM or a device is half made or half gone; asking changes nothing, and prices only grow."""
    played = play_on(Machine(iommu=kind))
    time = played.machine.timeline
    for step in played.did:
        before = price(played.machine, step.first, step.first)
        for at in range(step.first, step.last + 1):
            time.go(at)
            digest = time.digest()
            now = price(played.machine, step.first)
            assert time.digest() == digest
            assert now.traps >= before.traps
            before = now
    time.go(time.last)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """What the story says."""
    return [chapter.caption for chapter in play(COMPARE)]


def test_the_story_says_whose_ladder_it_is(captions: list[str]) -> None:
    """That of the machine it is played on; ladders of the others are other stories, which exist."""
    assert "The ladders below, and the number of steps at the end, are those of vtd." in captions[0]
    for kind in FAMILIES:
        assert (f"`pasidlab run guest-sva-{kind}`" in captions[0]) == (kind != "vtd")
        assert f"guest-sva-{kind}" in STORIES


def test_the_story_tells_its_prices_in_tables_and_its_tries_a_machine_a_paragraph(captions: list[str]) -> None:
    """Nothing wider than a page, and each answer whole."""
    assert [words.splitlines()[0] for words in captions if words.startswith("The price")] == [
        "The price: a process binds",
        "The price: in all",
    ]
    told = [words for words in captions if words.startswith("Tried: ")]
    assert [words.splitlines()[0] for words in told] == [f"Tried: {words}." for words in TRIES.values()]
    for words, what in zip(told, TRIES, strict=True):
        assert max(map(len, words.splitlines())) <= 110
        for kind in FAMILIES:
            answer = next(str(one) for one in try_on(kind) if one.what == what)
            assert f"{kind} {answer}" in " ".join(words.split())


def test_places_of_the_slider_are_linked_events(found: Comparison) -> None:
    """Event j of step k is shown on all machines; who is done with the step waits at its end."""
    assert found.moment(0) == Moment(-1, 0)
    assert found.ends[-1] == found.last == sum(found.lengths)
    place = 0
    for step, length in enumerate(found.lengths):
        for sub in range(1, length + 1):
            place += 1
            assert found.moment(place) == Moment(step, sub)
            for one in found.played:
                at, each = found.step_of(one, Moment(step, sub)), one.did[step]
                assert at == min(each.first + sub, each.last)
        assert {found.step_of(one, Moment(step, length)) == one.did[step].last for one in found.played} == {True}
    with pytest.raises(ValueError, match=r"between 0 and \d+, not -1"):
        found.moment(-1)
    with pytest.raises(ValueError, match="between 0 and"):
        found.moment(found.last + 1)


def test_every_machine_travels_with_the_slider(found: Comparison) -> None:
    """There and back; at the end nothing is lost."""
    digests = [one.machine.timeline.digest() for one in found.played]
    for place in (0, found.ends[3], found.ends[3] + 2, found.last):
        moment = found.go(place)
        assert [one.machine.timeline.now for one in found.played] == [
            found.step_of(one, moment) for one in found.played
        ]
    assert [one.machine.timeline.digest() for one in found.played] == digests


@pytest.mark.parametrize("kind", FAMILIES)
def test_everything_is_tried_on_every_kind(found: Comparison, kind: str) -> None:
    """In order, each with an answer."""
    assert list(tried(found, kind)) == list(TRIES)
    assert all(one.words for one in tried(found, kind).values())


@pytest.mark.parametrize("kind", FAMILIES)
def test_one_of_the_two_ways_is_refused_with_its_reason(found: Comparison, kind: str) -> None:
    """Whole tables where the host owns them, single PASIDs where the guest does; and where to read it."""
    answers = tried(found, kind)
    refused, done = ("one", "table") if kind in BOUND else ("table", "one")
    assert (answers[refused].errno, answers[done].errno) == ("EOPNOTSUPP", "")
    assert "T2" in answers[refused].words
    assert "docs/iommus.md" in answers[refused].words


@pytest.mark.parametrize("kind", BOUND)
def test_what_bind_cannot_do(found: Comparison, kind: str) -> None:
    """Interfaces, shared queues, policies: each refused by the model, with the page that explains it."""
    answers = tried(found, kind)
    for what in ("interfaces", "enqcmd", "policy"):
        assert answers[what].errno == "EOPNOTSUPP", what
        assert "docs/iommus.md" in answers[what].words, what
    assert answers["quota"].errno == ""
    assert answers["functions"].words == "1 and 1; 0 host PASIDs are out"


@pytest.mark.parametrize("kind", SHADOWED)
def test_what_shadow_can_do_and_what_it_costs(found: Comparison, kind: str) -> None:
    """Several VMs on one requester ID; but numbers are the host's, and limited."""
    answers = tried(found, kind)
    assert [answers[what].errno for what in ("interfaces", "enqcmd", "policy")] == ["", "", ""]
    assert answers["quota"].errno == "ENOSPC"
    assert answers["functions"].words == "1 and 2; 2 host PASIDs are out"


@pytest.mark.parametrize("kind", BOUND)
def test_the_words_of_a_refusal_are_those_that_a_person_gets(kind: str) -> None:
    """Not written down for the table."""
    m = Machine(iommu=kind)
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1")
    with pytest.raises(KernelError) as refused:
        m.assign_adi(dsa, vm)
    answers = {one.what: one for one in try_on(kind)}
    assert refused.value.reason == answers["interfaces"].words
