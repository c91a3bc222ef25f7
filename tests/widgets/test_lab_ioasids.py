"""The lab's pane of IOASIDs: four pictures, an ID chosen by clicking it, time travel, and what travels."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from bokeh.events import Tap

from pasidlab.kernel.ioasid.record import State
from pasidlab.views import layout
from pasidlab_widgets import GraphView, Lab, View
from pasidlab_widgets.lab.ioasids import IoasidsPane, KeepersPane
from pasidlab_widgets.lab.occupancy import SpacePane, dying_data, first_data, sets_data
from tests.views.worlds import crowd, freed_early
from tests.widgets.driver import entry, told

PICTURES = ("life", "keepers", "chains", "space")


@pytest.fixture
def dying() -> Iterator[Lab]:
    """A lab in which host PASID 3 of vm1 is free-pending."""
    lab = Lab(freed_early())
    lab.show_picture("ioasids")
    yield lab
    lab.close()


def pane(lab: Lab) -> IoasidsPane:
    """The pane of IOASIDs."""
    found = lab._stacks[0].panes[3]
    assert isinstance(found, IoasidsPane)
    return found


def picture(lab: Lab, name: str) -> View:
    """One of its pictures, brought to the front."""
    lab.show_picture(name)
    view = pane(lab).inner.shown.view
    assert isinstance(view, View)
    return view


def test_the_four_pictures_are_in_the_lab(dying: Lab) -> None:
    """Each can be brought to the front by name, and with it the pane that holds it."""
    for name in PICTURES:
        dying.show_picture("map")
        dying.show_picture(name)
        assert dying.state()["shown"] == ["ioasids", "flow"]
        assert pane(dying).inner.shown.name == name
    assert dying.state()["errors"] == []


def test_only_the_picture_that_can_be_seen_is_drawn() -> None:
    """The others when they are opened."""
    lab = Lab(freed_early())
    views = [known.view for known in pane(lab).inner.panes[:3]]
    assert [view.state["drawing"] for view in views if isinstance(view, View)] == [None] * 3
    assert picture(lab, "chains").state["drawing"] is not None
    assert [view.state["drawing"] is None for view in views if isinstance(view, View)] == [True, True, False]


@pytest.mark.parametrize(
    ("front", "key"), [("life", "ioasid:3"), ("mapping", "host:3"), ("holders", "ioasid:3"), ("keepers", "")]
)
def test_an_id_is_chosen_by_clicking_it_or_in_the_menu(dying: Lab, front: str, key: str) -> None:
    """In the life cycle, the mapping, the table of holders: its holders come to the front."""
    dying.show_picture(front)
    if key:
        shown = {known.name: known for stack in (*dying._stacks, pane(dying).inner) for known in stack.panes}
        view = shown[front].view
        assert isinstance(view, View)
        view._dispatch({"type": "pick", "key": key}, [])
    else:
        keepers_of(dying).menu.value = "3"
    assert pane(dying).inner.shown.name == "keepers"
    assert str(entry(picture(dying, "keepers"), "states", "ioasid:3")).startswith("s-pending")
    assert keepers_of(dying).menu.value == "3"
    assert picture(dying, "life").selected == "ioasid:3"


def keepers_of(lab: Lab) -> KeepersPane:
    """The pane of holders."""
    found = pane(lab).inner.panes[1]
    assert isinstance(found, KeepersPane)
    return found


def test_a_click_on_a_square_chooses_its_id(dying: Lab) -> None:
    """A click beside every square chooses nothing."""
    space = pane(dying).inner.panes[3]
    assert isinstance(space, SpacePane)
    dying.show_picture("space")
    for x, y, ioasid in ((9.2, -8.0, None), (3.1, 0.2, 3)):
        space.view._document.callbacks.trigger_event(tap(space, x, y))
        assert keepers_of(dying).ioasid == ioasid


def tap(space: SpacePane, x: float, y: float) -> Tap:
    """A click on the chart of the first numbers."""
    return Tap(space._plots[1], x=x, y=y)


def test_other_boxes_choose_nothing(dying: Lab) -> None:
    """A board, a folded rest."""
    view = picture(dying, "life")
    for key in ("state:idle", "more:active"):
        view._dispatch({"type": "pick", "key": key}, [])
    assert pane(dying).inner.shown.name == "life"


def test_the_chosen_id_stays_chosen_through_time(dying: Lab) -> None:
    """Before it came to be it is in the pool; its place is kept."""
    dying.pick_ioasid(3)
    dying._travel.move("start")
    view = picture(dying, "keepers")
    assert str(entry(view, "states", "ioasid:3")).startswith("s-off")
    assert keepers_of(dying).menu.labels == ["3 (not allocated)"]
    dying._travel.move("end")
    assert str(entry(view, "states", "ioasid:3")).startswith("s-pending")


def test_without_any_id_the_pictures_say_so() -> None:
    """No empty picture, no error."""
    lab = Lab()
    for name in PICTURES:
        lab.show_picture(name)
    assert "No IOASID is allocated" in str(picture(lab, "keepers").state["texts"])
    assert lab.state()["errors"] == []


def test_ids_move_between_states_when_time_moves(dying: Lab) -> None:
    """Only the token gets another place, on each of the four boards in its time; the drawing stays."""
    view = picture(dying, "life")
    assert isinstance(view, GraphView)
    time = dying.machine.timeline
    boards = {f"state:{state.value}" for state in State}
    places, moved = set(), set()
    for _ in range(len(time.events) - time.floor):
        dying._travel.move("back")
        assert view.figure is not None
        assert boards <= {node.key for node in view.figure.nodes}
        places.add(str(view.state["drawing"]))
        moved.add(str(entry(view, "seats", "ioasid:3")))
    assert len(places) == 1
    assert len(moved) == 4


def test_whoever_runs_is_brought_into_sight(dying: Lab) -> None:
    """And nobody when nothing is delivered."""
    view = picture(dying, "chains")
    seen = [str(view.state["sight"])]
    while "running" not in str(view.state["texts"]):
        dying._travel.move("back")
    seen.append(str(view.state["sight"]))
    assert seen == ["", "set:1:host.iommu.svm"]


def test_where_the_page_lays_out_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that moves needs no new layout: boards and arrows are the same."""
    answer = layout.answered
    monkeypatch.setattr(layout, "available", lambda: False)
    lab = Lab(freed_early())
    view = picture(lab, "life")
    plan = view.state["plan"]
    assert isinstance(plan, str)
    assert view.state["drawing"] is None
    view._dispatch({"type": "layout", "plan": plan, "answer": answer(plan)}, [])
    first = view.state["drawing"]
    assert first is not None
    dying = entry(view, "seats", "ioasid:3")
    lab.press("run-all")
    assert view.state["plan"] == plan
    assert view.state["drawing"] == first
    assert entry(view, "seats", "ioasid:3") != dying


@pytest.mark.parametrize("name", PICTURES)
def test_a_click_is_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 10 kB from the lab's picture, with 8 VMs and 64 PASIDs, for steps, calls and a new future."""
    lab = Lab(crowd())
    lab.pick_ioasid(2)
    lab.show_picture(name)
    view = pane(lab).inner.shown.view
    sent: list[int] = []
    monkeypatch.setattr(view, "send", lambda content, buffers=(): sent.append(_size(content, buffers)))
    lab.press("free-early")
    moves = ["back", "back", "back-over", "forward", "forward-over", "end"]
    for move in moves:
        lab._travel.move(move)
    lab.press("run-next")
    assert sent
    assert max(sent) < 10_000
    assert len(sent) <= len(moves) + 2


def _size(content: object, buffers: tuple[bytes, ...] | list[bytes]) -> int:
    return len(json.dumps(content)) + sum(map(len, buffers))


def test_freeing_early_by_a_click(two_vms: Lab) -> None:
    """The message says who still holds the number; running the work frees it."""
    two_vms.press("free-early")
    assert two_vms.message.title == "app gave guest PASID 1 back before it unbound"
    assert "IOASID 4 is free-pending, still held by iommu." in two_vms.message.sentences[0]
    assert "free-early" in told(two_vms, "resting")
    two_vms.press("run-all")
    assert 4 not in two_vms.machine.kernel.ioasid.ids
    assert two_vms.state()["errors"] == []


def test_a_late_unbind_does_not_say_that_the_number_is_back(two_vms: Lab) -> None:
    """The clean-up still waits."""
    two_vms.press("free-early")
    two_vms.press("unbind")
    assert two_vms.message.sentences[0].startswith("It had given PASID 1 back before")
    assert two_vms.machine.kernel.ioasid.ids[4].free_pending


def test_a_host_process_cannot_free_early(lab: Lab) -> None:
    """It has no virtual command; the button says why it rests."""
    lab.set(where="host")
    lab.press("spawn")
    lab.press("bind")
    assert "Only a guest" in str(told(lab, "resting")["free-early"])


def test_the_chart_tells_what_is_free_pending() -> None:
    """In the bar of its set, in its square, and in words."""
    machine = freed_early()
    data = sets_data(machine)
    assert data["label"][2] == "vm1: 1 of 8, 1 free-pending"
    assert (data["living"][2], data["taken"][2]) == (0.0, 1 / 8)
    assert dying_data(machine) == {"x": [3], "y": [0]}
    assert "guest PASID 1 of vm1, free-pending" in first_data(machine)["owner"]


def test_a_number_that_is_back_keeps_its_row_in_the_chart() -> None:
    """Not drawn, so that little travels; a new future starts afresh."""
    lab = Lab(freed_early())
    space = pane(lab).inner.panes[3]
    assert isinstance(space, SpacePane)
    lab.show_picture("space")
    lab.press("run-all")
    data = space._sources["first"].data
    assert list(data["number"]) == ["1", "2", "", "4"]
    assert list(data["x"]) == [1, 2, None, 4]
    space.forget()
    space.draw(lab.machine)
    assert list(space._sources["first"].data["number"]) == ["1", "2", "4"]


def test_the_chart_folds_sets_and_knows_sets_without_quota() -> None:
    """At most eight bars; an outline that is dashed has no end of its own."""
    machine = crowd()
    core = machine.kernel.ioasid
    for at in range(3):
        core.alloc(core.sets.alloc(f"free{at}", None, None), 100, 200, "tester")
    data = sets_data(machine)
    assert len(data["y"]) == 8
    assert data["label"][-1] == "+6 more sets: 27, no quota of its own"
    assert data["outline"][-1] == "dashed"
