"""What travels and what is shown: one revision a click, one message a widget, hidden pictures later, still pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pasidlab import Machine
from pasidlab_widgets import Lab, View
from pasidlab_widgets.lab.script import script
from tests.widgets.driver import entry, shown


def count_messages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """From now on: how many messages each widget of the lab sends."""
    sent: dict[str, int] = {}

    def spy(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def send(*args: object, **kwargs: object) -> object:
            sent[name] = sent.get(name, 0) + 1
            return original(*args, **kwargs)

        return send

    for at, widget in enumerate([lab, *_inside(lab)]):
        monkeypatch.setattr(widget, "_send", spy(f"{at} {type(widget).__name__}", widget._send))
    return sent


def _inside(widget: Lab) -> list[Lab]:
    """Every widget in a box."""
    found: list[Lab] = []
    for child in getattr(widget, "children", ()):
        found += [child, *_inside(child)]
    return found


@pytest.mark.parametrize("button", ["create-vm", "spawn", "copy", "unbind", "crash", "kill"])
def test_a_click_is_one_revision_and_at_most_one_message_a_widget(
    two_vms: Lab, button: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many changes a call makes."""
    revision = two_vms.revision
    sent = count_messages(two_vms, monkeypatch)
    two_vms.press(button)
    assert two_vms.revision == revision + 1
    assert sent
    assert {name: count for name, count in sent.items() if count > 1} == {}


def test_a_hidden_picture_is_drawn_when_it_is_opened(two_vms: Lab) -> None:
    """And not before."""
    table = two_vms._stacks[0].panes[2].view
    assert isinstance(table, View)
    assert table.state["drawing"] is None
    two_vms.show_picture("table")
    assert entry(table, "states", "entry:4") == "s-live"


def test_a_picked_entry_shows_its_bits(two_vms: Lab) -> None:
    """Field by field, in the pane below, and it follows."""
    two_vms.show_picture("table")
    host = two_vms.machine.vm("vm2").pasids[1]
    two_vms.pick_entry(host)
    assert two_vms.state()["shown"] == ["table", "entry"]
    assert cells(two_vms, "P")[2] == "0x1"
    assert cells(two_vms, "PGTT")[2] == "0x3"
    two_vms.press("unbind")
    assert cells(two_vms, "P")[2] == "0x0"


def cells(lab: Lab, key: str) -> list[str]:
    """A row of the table below."""
    row = entry(shown(lab, 1), "rows", key)
    assert isinstance(row, list)
    found: list[str] = row[1]
    return found


def test_the_script_repeats_the_session(two_vms: Lab) -> None:
    """It runs from top to bottom, refused calls are comments, and it ends in the same state."""
    two_vms.press("copy")
    text = script(two_vms.machine.timeline)
    space: dict[str, Machine] = {}
    exec(text, space)
    assert space["m"].timeline.digest() == two_vms.machine.timeline.digest()
    two_vms.set(mistake="name-empty")
    two_vms.press("mistake")
    assert script(two_vms.machine.timeline).splitlines()[-1].startswith('# m.create_vm("")  # refused, -EINVAL')


def test_a_still_lab_is_a_picture_and_text(two_vms: Lab) -> None:
    """For pages on which no widget can live; the widget itself comes first."""
    bundle = two_vms._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "<svg" in str(bundle["text/html"])
    assert "process app" in str(bundle["text/plain"])
