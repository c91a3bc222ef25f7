"""The pane "Compare": one bar for all machines, the model's own counts, and nothing of the lab's machine."""

from __future__ import annotations

import asyncio

import pytest

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories.compare import compare_machines
from pasidlab.views import topology
from pasidlab.views.compare import Comparison, tags, tries, writers
from pasidlab.views.compare_words import STEPS, TRIES
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.compare import ComparePane, LinkedBar


def pane(lab: Lab) -> ComparePane:
    """The pane, brought to the front."""
    lab.show_picture("compare")
    shown = lab._stacks[0].shown
    assert isinstance(shown, ComparePane)
    return shown


def compared(lab: Lab) -> Comparison:
    """What the pane compares."""
    found = pane(lab).found
    assert found is not None
    return found


def test_nothing_is_played_before_the_pane_is_seen(lab: Lab) -> None:
    """A lab opens as fast as before."""
    (hidden,) = [one for one in lab._stacks[0].panes if isinstance(one, ComparePane)]
    assert hidden.found is None
    assert pane(lab) is hidden
    assert compared(lab).key == tuple(FAMILIES)


def test_at_first_it_shows_what_a_bind_has_done(lab: Lab) -> None:
    """Where the two ways can be told apart; the banner says which step that is."""
    bar = pane(lab).bar
    assert bar.place() == f"step {list(STEPS).index('bind') + 1} of {len(STEPS)}"
    assert bar.banner()[1] == "a process binds: done"
    assert pane(lab).figure.figure is not None
    assert lab.state()["errors"] == []


def test_every_move_moves_every_machine(lab: Lab) -> None:
    """By an event, by a step, to both ends, and by the slider."""
    bar, found = pane(lab).bar, compared(lab)
    moves = ("back-over", "forward", "forward", "back", "forward-over", "end", "start", "forward-over")
    for move in moves:
        bar.move(move)
        moment = found.moment(bar.now)
        assert [one.machine.timeline.now for one in found.played] == [
            found.step_of(one, moment) for one in found.played
        ]
    bar.receive({"type": "go", "step": found.ends[4] + 3}, [])
    assert bar.now == found.ends[4] + 3
    assert bar.place() == f"step 5 of {len(STEPS)}"
    assert bar.banner()[1].startswith("a second process binds: event 3 of ")


def test_the_tables_are_those_of_the_model(lab: Lab) -> None:
    """Each at the place of the bar."""
    shown, found = pane(lab), compared(lab)
    for place in (0, found.ends[3] + 2, found.ends[5], found.last):
        shown.bar.go_to(place)
        moment = found.moment(place)
        assert shown.tags.table == tags(found, moment)
        assert shown.writers.table == writers(found, moment.step)
    assert shown.tries.table == tries(found)
    assert [row.key for row in tries(found).rows] == list(TRIES)


def test_no_box_moves_and_what_changes_is_marked(lab: Lab) -> None:
    """One layout for all; a step marks the boxes in which something else stands."""
    shown, found = pane(lab), compared(lab)
    shapes = []
    for end in found.ends:
        shown.bar.go_to(end)
        assert shown.figure.figure is not None
        shapes.append(topology(shown.figure.figure))
    assert len(set(shapes)) == 1
    shown.bar.go_to(found.ends[3])
    shown.bar.move("forward-over")
    shown.bar.move("forward-over")
    assert shown.figure.figure is not None
    marked = {node.key for node in shown.figure.figure.nodes if node.changed}
    assert {f"{kind}:guest-table" for kind in FAMILIES} <= marked


def test_the_labs_machine_has_no_part_in_it(lab: Lab) -> None:
    """Calls on it, another one, and a new future change nothing here; and nothing here changes it."""
    shown, digest = pane(lab), lab.machine.timeline.digest()
    shown.bar.move("end")
    assert lab.machine.timeline.digest() == digest
    lab.show_picture("map")
    lab.press("create-vm")
    lab.new_machine("rlimit")
    assert pane(lab) is shown
    assert shown.bar.now == shown.bar.last


def test_a_bar_plays_by_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are too many to watch; a second press stops."""
    shown: list[int] = []
    monkeypatch.setattr(LinkedBar, "pace", 0.0)

    async def play() -> None:
        bar = LinkedBar(shown.append)
        bar.load([0, 4, 9])
        bar.play()
        for _ in range(5):
            await asyncio.sleep(0)
        bar.play()
        bar.play()
        bar.stop()

    asyncio.run(play())
    assert shown == [4, 9]


def test_the_comparison_of_the_pane_is_the_one_of_the_story(lab: Lab) -> None:
    """The same script, the same prices."""
    fresh = compare_machines()
    assert [one.did for one in compared(lab).played] == [one.did for one in fresh.played]
    assert compared(lab).tried == fresh.tried
