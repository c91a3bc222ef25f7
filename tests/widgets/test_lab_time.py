"""Time travel in the lab, new futures, and calls that are made in cells."""

from __future__ import annotations

import asyncio

import pytest

from pasidlab import Machine
from pasidlab.views.flow import flow_of_operation
from pasidlab_widgets import Lab
from tests.widgets.driver import entry, shown


def test_the_bar_travels_by_step_and_by_operation(two_vms: Lab) -> None:
    """Each move is one refresh; the buttons that lead nowhere rest."""
    time, bar = two_vms.machine.timeline, two_vms._travel
    end = time.now
    for name, expected in (("back", end - 1), ("back-over", time.operations[-1].first), ("start", time.floor)):
        revision = two_vms.revision
        bar.receive({"type": "move", "name": name}, [])
        assert time.now == expected
        assert two_vms.revision == revision + 1
    assert bar.state["resting"] == dict.fromkeys(("start", "back-over", "back"), "This is the first step.")
    bar.receive({"type": "go", "step": end - 2}, [])
    assert time.now == end - 2
    assert bar.state["banner"] == (
        "is-past",
        f"You are in the past: step {end - 2} of {end}.",
        "This is the middle of the newest call: acting now completes it first.",
    )
    bar.receive({"type": "go", "step": time.operations[-1].first}, [])
    steps = end - time.now
    assert bar.state["banner"][2] == f"Acting now starts a new future and drops the {steps} later steps."
    bar.move("end")
    assert time.now == end
    assert bar.state["resting"] == dict.fromkeys(("play", "forward", "forward-over", "end"), "This is the newest step.")


def test_pictures_follow_in_time(two_vms: Lab) -> None:
    """KVM's entry of vm2 is gone before its bind, and the boxes stay where they are."""
    two_vms.show_picture("mapping")
    view = shown(two_vms, 0)
    drawing = view.state["drawing"]
    two_vms._travel.move("back-over")
    assert str(entry(view, "states", "kvm:1:1")).startswith("s-off")
    assert str(entry(view, "states", "kvm:0:1")).startswith("s-live")
    assert view.state["drawing"] == drawing


def test_acting_in_the_past_starts_a_new_future(two_vms: Lab) -> None:
    """The later steps are dropped, and the message says how many."""
    time = two_vms.machine.timeline
    time_was = time.last
    two_vms._travel.move("back-over")
    dropped = time_was - time.now
    two_vms.press("create-vm")
    assert two_vms.message.sentences[-1] == f"{dropped} later steps dropped: this is a new future."
    assert time.now == time.last
    assert [vm.name for vm in two_vms.machine.vms] == ["vm1", "vm2", "vm3"]


def test_play_goes_to_the_newest_step(two_vms: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refresh a step."""
    monkeypatch.setattr("pasidlab_widgets.lab.travel.TravelBar.pace", 0)
    two_vms._travel.move("back-over")
    time, revision = two_vms.machine.timeline, two_vms.revision
    steps = time.last - time.now

    async def play() -> None:
        two_vms._travel.play()
        while time.now < time.last:
            await asyncio.sleep(0)

    asyncio.run(play())
    assert two_vms.revision == revision + steps


def test_a_row_of_the_flow_and_a_line_lead_to_their_step(two_vms: Lab) -> None:
    """Clicking a row travels to the step, clicking a line to the end of its call."""
    time = two_vms.machine.timeline
    operation = time.operations[-1]
    shown(two_vms, 1)._dispatch({"type": "pick", "key": str(operation.first + 3)}, [])
    assert time.now == operation.first + 4
    two_vms.show_picture("lines")
    shown(two_vms, 1)._dispatch({"type": "pick", "key": f"line:{operation.first}"}, [])
    assert time.now == operation.first


def test_calls_in_cells_are_noticed_once_they_are_over(lab: Lab) -> None:
    """Outside a notebook nobody tells the lab, so a look does; what was shown already is not shown again."""
    assert lab._watch is not None
    lab.machine.create_vm("vm9")
    revision = lab.revision
    lab._watch.look()
    assert lab.revision == revision + 1
    assert lab.message.lines == ('m.create_vm("vm9")',)
    lab._watch.look()
    assert lab.revision == revision + 1


def test_watching_and_closing_change_nothing(lab: Lab) -> None:
    """A machine with a lab has the same history as one without; a closed lab is left alone."""
    bare = Machine()
    bare.plug_accelerator("dsa0")
    assert [str(event) for event in bare.timeline.events] == [str(event) for event in lab.machine.timeline.events]
    lab.close()
    lab.machine.create_vm("vm1")
    assert flow_of_operation(lab.machine.timeline).title == 'm.create_vm("vm1")'
