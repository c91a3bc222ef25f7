"""The lab with PFs and ADIs: the policy of a VM, what is on the wire, and the queue that VMs share."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest

from pasidlab_widgets import Lab
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab.hypervisor_words import NUMBERS
from tests.widgets.driver import add_vm, bound_lab, shown, told


def mixture(policy: str) -> Lab:
    """By clicks: a VM of a policy with a PF and an ADI, and a process."""
    lab = Lab()
    lab.press("plug")
    lab.set(numbers=policy)
    lab.press("create-vm")
    lab.set(device="dsa0")
    lab.press("assign-pf")
    lab.set(device="dsa1")
    lab.press("assign-adi")
    lab.set(where="vm1")
    lab.press("spawn")
    return lab


def figure_text(lab: Lab, key: str) -> tuple[str, ...]:
    """The lines of a box of the picture above."""
    view = shown(lab, 0)
    assert isinstance(view, GraphView)
    assert view.figure is not None
    return view.figure.node(key).lines


@pytest.mark.parametrize("policy", list(NUMBERS))
def test_each_policy_can_be_chosen_and_says_what_it_costs(policy: str) -> None:
    """The recorded line names it; nothing is named where the first device decides."""
    lab = Lab()
    lab.set(numbers=policy)
    panel: Any = lab._panels[1]
    assert NUMBERS[policy][1] in unescape(panel._allowed.value)
    lab.press("create-vm")
    assert lab.machine.vm("vm1").vmm.policy == (policy or None)
    assert ("policy=" in lab.message.lines[0]) is bool(policy)


def test_one_process_has_two_numbers_on_the_wire() -> None:
    """The message of the bind says it, and the picture shows both."""
    lab = mixture("unenforced")
    add_vm(lab, "vm2")
    lab.set(process="vm1/app", opened="dsa0")
    lab.press("bind")
    assert lab.message.sentences[0].startswith("dsa0 has its entry under the guest's number 1")
    lab.set(opened="adi0")
    lab.press("bind")
    lab.show_picture("wire")
    host = lab.machine.vm("vm1").pasids[1]
    assert figure_text(lab, "wire:1")[0] == f"PASID {host}"
    assert figure_text(lab, "conflict")[0] == "What is wrong here"


def test_the_words_about_a_function_are_those_of_its_policy() -> None:
    """Under identity the guest sees the host's numbers, else its own go on the wire."""
    said = {}
    for policy in ("identity", "refuse"):
        lab = Lab()
        lab.set(numbers=policy)
        lab.press("create-vm")
        lab.press("assign-pf")
        said[policy] = lab.message.sentences[0]
    assert "this guest sees the host's numbers" in said["identity"]
    assert "the guest's own numbers go on the wire" in said["refuse"]


def test_the_process_of_the_wire_is_chosen_in_its_own_menu() -> None:
    """Without any process the pane says what to do."""
    lab = Lab()
    lab.show_picture("wire")
    assert "Start a process first" in figure_text(lab, "none")[0]
    lab = bound_lab()
    lab.show_picture("wire")
    lab.set(wire_process="vm2/app")
    assert figure_text(lab, "process")[2] == "in vm2"


def test_waiting_work_is_chosen_and_run_one_by_one() -> None:
    """In any order; the queue's picture loses that descriptor."""
    lab = bound_lab()
    lab.show_picture("queue")
    for vm in ("vm1", "vm2"):
        lab.set(process=f"{vm}/app")
        lab.press("submit")
    assert figure_text(lab, "slot:0")[1].startswith(f"host {lab.machine.vm('vm1').pasids[1]} ")
    second = lab.machine.pending[1].number
    lab.set(work=str(second))
    lab.press("run-step")
    assert lab.message.lines == (f"m.run({second})",)
    assert figure_text(lab, "slot:0")[1].startswith(f"host {lab.machine.vm('vm1').pasids[1]} ")
    assert figure_text(lab, "slot:1")[1] == "empty"
    lab.press("run-all")
    assert "run-step" in told(lab, "resting")


def test_the_queue_is_chosen_by_device_and_number() -> None:
    """Each has a mode; another machine starts with the first again."""
    lab = bound_lab()
    lab.show_picture("queue")
    lab.set(queue_device="dsa0", queue_number="2")
    assert figure_text(lab, "queue")[0] == "wq2 dedicated"
    lab.new_machine()
    assert lab.state()["errors"] == []
