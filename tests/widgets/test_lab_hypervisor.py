"""Be the hypervisor, in the lab: hold, decide, and read what the guest was told and what it believes now."""

from __future__ import annotations

import pytest

from pasidlab_widgets import Lab
from tests.widgets.driver import shown, told


def held() -> Lab:
    """A lab with a VM whose process is about to bind, traps held."""
    lab = Lab()
    lab.press("create-vm")
    lab.press("assign-adi")
    lab.set(where="vm1")
    lab.press("spawn")
    lab.show_picture("hypervisor")
    lab.press("hold")
    return lab


def words(lab: Lab) -> str:
    """What the pane says."""
    return str(lab._hypervisor._said.value)


def test_without_a_trap_the_buttons_rest_and_say_why() -> None:
    """The switch can be pressed; nothing else."""
    lab = Lab()
    assert {"serve", "refuse", "alter", "forget"} <= told(lab, "resting").keys()
    assert "hold" not in told(lab, "resting")
    lab.press("hold")
    assert lab.message.lines == ("m.hold_traps()",)
    assert told(lab, "labels")["hold"] == "Let traps pass"


def test_a_bind_waits_at_each_of_its_traps_and_is_done_when_all_are_served() -> None:
    """The banner says so, the pictures stand at the trap, the lines are those that repeat it."""
    lab = held()
    lab.press("bind")
    assert lab.message.title == "vm1 waits at a trap: virtual command, allocate a PASID"
    assert lab._travel.banner()[1] == "A call waits at a trap."
    assert lab.machine.vm("vm1").pasids == {}
    assert "no PASID is available" in words(lab)
    lab.press("serve")
    assert lab.machine.vm("vm1").pasids == {1: 2}
    assert lab.message.lines == ('m.decide("serve", number=0)',)
    while lab.machine.traps:
        lab.press("serve")
    assert lab.message.title.endswith(" is done")
    assert lab.machine.vm("vm1").app("app").pasid == 1
    assert "What vm1 believes of its PASIDs is what the host has." in words(lab)
    assert lab.state()["errors"] == []


def test_a_refused_flush_is_believed_to_have_been_done() -> None:
    """The pane says what the guest was told, and what it is wrong about from now on."""
    lab = held()
    lab.press("bind")
    lab.press("serve")
    lab.press("refuse")
    assert lab.message.sentences == ("Refused. vm1 was told: nothing; it believes that it was done.",)
    while lab.machine.traps:
        lab.press("serve")
    assert "vm1 believes PASID 1 is bound on adi0; the CPU has no translation for it" in words(lab)


def test_a_refused_virtual_command_is_the_guests_refusal() -> None:
    """Its bind fails as by a used-up quota; the answer of the call is shown as one."""
    lab = held()
    lab.press("bind")
    lab.press("refuse")
    assert lab.message.title == "Refused: -ENOSPC"
    assert "vm1 was told: no PASID is available." in lab.message.sentences[-1]
    assert lab.machine.traps == []
    assert lab.message.lines[0] == 'm.decide("refuse", number=0)'


def test_an_altered_number_is_read_from_the_field() -> None:
    """Decimal or hexadecimal; what is no number is refused and decides nothing."""
    lab = held()
    lab.press("bind")
    lab.set(alter_to="a lot")
    lab.press("alter")
    assert lab.message.title == "Refused: -EINVAL"
    assert len(lab.machine.traps) == 1
    lab.set(alter_to="0x4d")
    lab.press("alter")
    assert 'm.decide("alter", 77, 0)' in lab.message.lines
    assert "vm1 believes that it owns PASID 77" in words(lab)


def test_traps_of_two_vms_are_decided_in_any_order() -> None:
    """A row is picked by a click, or in the menu; the other call goes on waiting. The line shown is the decision's."""
    lab = held()
    lab.press("hold")
    lab.set(vm_name="vm2")
    lab.press("create-vm")
    lab.set(vm="vm2", where="vm2")
    lab.press("assign-adi")
    lab.press("spawn")
    lab.press("hold")
    for vm in ("vm1", "vm2"):
        lab.set(process=f"{vm}/app")
        lab.press("bind")
    view = shown(lab, 0)
    assert view.state["order"] == ["trap:0", "trap:1"]
    assert told(lab, "chosen")["trap"] == "1"
    view._dispatch({"type": "pick", "key": "trap:0"}, [])
    assert told(lab, "chosen")["trap"] == "0"
    lab.press("serve")
    assert lab.message.lines == ('m.decide("serve", number=0)',)
    assert lab.machine.vm("vm1").pasids
    assert not lab.machine.vm("vm2").pasids


def test_a_call_is_given_up() -> None:
    """It has not happened, and the list is empty."""
    lab = held()
    lab.press("bind")
    lab.press("forget")
    assert lab.message.title == "The call was given up"
    assert lab.machine.traps == []
    assert lab.machine.vm("vm1").app("app").pasid is None


def test_letting_traps_pass_forgets_what_waited_and_another_machine_starts_afresh() -> None:
    """Neither is an error."""
    lab = held()
    lab.press("bind")
    lab.press("hold")
    assert lab.machine.traps == []
    lab.press("bind")
    assert lab.machine.vm("vm1").app("app").pasid == 1
    lab.press("hold")
    lab.press("unbind")
    lab.new_machine()
    assert lab.machine.traps == []
    assert told(lab, "labels").get("hold") != "Let traps pass"
    assert lab.state()["errors"] == []


@pytest.mark.parametrize("button", ["serve", "refuse"])
def test_a_decision_is_one_revision(button: str) -> None:
    """However many steps it goes back and forth."""
    lab = held()
    lab.press("bind")
    revision = lab.revision
    lab.press(button)
    assert lab.revision == revision + 1


@pytest.mark.parametrize(("queue", "command"), [("shared", "DRAIN_PASID"), ("dedicated", "ENABLE_WQ")])
def test_what_is_said_of_a_device_command_is_true_of_each(queue: str, command: str) -> None:
    """A drain names a PASID, which is converted; ENABLE_WQ converts what stands in a dedicated queue's register."""
    lab = Lab()
    lab.press("create-vm")
    lab.set(queue=queue)
    lab.press("assign-adi")
    lab.set(where="vm1")
    lab.press("spawn")
    if queue == "shared":
        lab.press("bind")
    lab.show_picture("hypervisor")
    lab.press("hold")
    lab.press("unbind" if queue == "shared" else "bind")
    while command not in words(lab):
        lab.press("serve")
    assert "A PASID that it names is converted to the host" in words(lab)
    assert "ENABLE_WQ converts the one in the register of a dedicated queue." in words(lab)


def test_a_decision_of_a_trap_elsewhere_shows_its_own_line() -> None:
    """The pictures stand behind another call; the call of the trap would only be held again if it were repeated."""
    lab = held()
    lab.press("bind")
    lab.press("hold")
    lab.press("bind")
    lab.set(vm_name="vm2")
    lab.press("create-vm")
    lab.set(vm="vm2", where="vm2")
    lab.press("assign-adi")
    lab.press("spawn")
    lab.set(process="vm2/app")
    lab.press("bind")
    lab.press("hold")
    for vm in ("vm1", "vm2"):
        lab.set(process=f"{vm}/app")
        lab.press("unbind")
    lab.set(trap=str(lab.machine.traps[0].number))
    first, second = (one.number for one in lab.machine.traps)
    while first in {one.number for one in lab.machine.traps}:
        lab.press("serve")
    lab.press("serve")
    assert [one.number for one in lab.machine.traps] == [second]
    assert lab.message.lines == (f'm.decide("serve", number={second})',)
