"""The lab without a browser: every control makes its call, rests with a reason, and what it does can be read."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.message import Message
from pasidlab_widgets.lab.words import BUTTONS
from tests.widgets.driver import told


def test_a_new_lab_has_one_accelerator_and_shows_it(lab: Lab) -> None:
    """Nothing needs to be prepared before the first click."""
    assert list(lab.machine.accelerators.keys()) == ["dsa0"]
    assert lab.state()["shown"] == ["map", "flow"]
    assert lab.message.title == "A machine with one accelerator is ready"
    assert lab.state()["errors"] == []


def test_a_lab_takes_an_existing_machine() -> None:
    """It shows that machine as it is, and adds nothing to its history."""
    machine = Machine()
    steps = machine.timeline.last
    lab = Lab(machine)
    assert lab.machine is machine
    assert machine.timeline.last == steps
    lab.press("plug")
    assert lab.message.title == "dsa0 is plugged in"


def test_each_button_says_why_it_rests(lab: Lab) -> None:
    """Without a VM there is nothing to assign, without a process nothing to bind, and the button says so."""
    assert told(lab, "resting")["assign-adi"] == "Create a VM first."
    assert told(lab, "resting")["bind"] == "Start a process first."
    with pytest.raises(ValueError, match=r"Create a VM first\."):
        lab.press("crash")
    with pytest.raises(KeyError):
        lab.press("no such button")


def test_two_guests_get_pasid_1_with_different_host_pasids(two_vms: Lab) -> None:
    """The message names both numbers."""
    vm1, vm2 = two_vms.machine.vms
    assert vm1.pasids.keys() == vm2.pasids.keys() == {1}
    assert vm1.pasids[1] != vm2.pasids[1]
    assert two_vms.message.title == f"app in vm2 is bound: guest PASID 1, host PASID {vm2.pasids[1]}"


def test_copy_reads_the_bytes_back_from_memory(two_vms: Lab) -> None:
    """Three calls, one click, one refresh; the message shows what is in memory now."""
    revision = two_vms.revision
    two_vms.set(text="größer than <b>")
    two_vms.press("copy")
    assert two_vms.message.title == "Copied 17 bytes"
    assert "'größer than <b>'" in two_vms.message.sentences[0]
    assert len(two_vms.message.lines) == 3
    assert two_vms.revision == revision + 1


def test_submitted_work_waits_until_it_is_run(two_vms: Lab) -> None:
    """The control panel lists what waits."""
    two_vms.press("submit")
    assert "run-next" not in told(two_vms, "resting")
    two_vms.press("run-next")
    assert two_vms.message.sentences == ("1 piece of waiting work, 0 left.",)
    assert "run-next" in told(two_vms, "resting")


def test_unbind_kill_crash_and_check_tell_what_came_back(two_vms: Lab) -> None:
    """The ends of a PASID's life."""
    two_vms.press("unbind")
    assert "back in the pool" in two_vms.message.sentences[0]
    two_vms.press("kill")
    assert two_vms.message.title == "app has ended"
    two_vms.set(vm="vm1")
    two_vms.press("crash")
    assert two_vms.message.sentences == (
        "Its file descriptors were closed; what it held is back: 1 PASID and 1 device.",
    )
    two_vms.press("check")
    assert two_vms.message.title == "All 14 invariants hold"


def test_a_native_process_and_a_whole_function(lab: Lab) -> None:
    """The host binds by itself; a function in use cannot be given away, a free one can."""
    lab.set(where="host", process_name="editor")
    lab.press("spawn")
    lab.press("bind")
    assert lab.message.title == "editor is bound: PASID 1"
    lab.press("create-vm")
    lab.press("assign-pf")
    assert lab.message.title == "Refused: -EBUSY"
    lab.press("plug")
    lab.set(device="dsa1")
    lab.press("assign-pf")
    assert lab.message.title == "dsa1 belongs to vm1 as a whole"


def test_a_dedicated_queue_can_be_assigned(lab: Lab) -> None:
    """The queue menu decides."""
    lab.press("create-vm")
    lab.set(queue="dedicated")
    lab.press("assign-adi")
    assert lab.message.sentences[0].startswith("A dedicated queue of dsa0")


def test_menus_offer_what_makes_sense_now(two_vms: Lab) -> None:
    """A menu keeps its choice while that exists."""
    assert told(two_vms, "chosen")["process"] == "vm2/app"
    two_vms.press("kill")
    assert told(two_vms, "menus")["process"] == ["vm1: app"]
    assert told(two_vms, "chosen")["process"] == "vm1/app"


def test_every_button_is_in_the_catalogue_with_a_hint() -> None:
    """No control without words."""
    assert all(label and hint.endswith(".") for label, hint in BUTTONS.values())


def test_a_defect_of_the_kit_is_shown_with_its_traceback(lab: Lab) -> None:
    """An exception in a callback never vanishes."""

    def broken(_: Machine) -> Message:
        raise ZeroDivisionError("a defect")

    lab.act(broken)
    assert lab.state()["errors"] == ["ZeroDivisionError: a defect"]
    assert lab.message.kind == "broken"
