"""Ladders of operations: lanes as a request travels, causes as depth, words that name the VM."""

from __future__ import annotations

from pasidlab.timeline import Event, Verb
from pasidlab.views import ladder_text
from pasidlab.views.flow import flow_of_operation
from pasidlab.views.words import sentence
from tests.views.worlds import bound_vms


def test_a_bind_goes_down_through_the_hypervisor_and_notifies_kvm() -> None:
    """Guest kernel, VMM, VFIO, IOASID core, then KVM; the interface, which has a shared queue, is not concerned."""
    machine = bound_vms(1)
    ladder = flow_of_operation(machine.timeline)
    labels = [lane.label for lane in ladder.lanes]
    assert labels[:5] == ["you", "kernel", "VMM", "VFIO", "IOASID core"]
    handled = [row.head for row in ladder.rows if row.text == "handles BIND of IOASID 2"]
    assert handled == ["host/KVM", "host/VDCM"]
    assert ladder.present == ladder.rows[-1].key


def test_the_text_twin_names_the_vm_of_a_lane() -> None:
    """Two guests' kernels could not be told apart otherwise."""
    assert "vm1 kernel" in ladder_text(flow_of_operation(bound_vms(1).timeline))


def test_steps_after_the_present_are_the_future() -> None:
    """The whole operation is shown, wherever in it the present is."""
    machine = bound_vms(1)
    whole = flow_of_operation(machine.timeline)
    machine.timeline.back(5)
    earlier = flow_of_operation(machine.timeline)
    assert earlier.rows == whole.rows
    assert earlier.present == whole.rows[-6].key


def test_every_verb_has_its_sentence() -> None:
    """So that a ladder can show any event."""
    for verb in Verb:
        assert sentence(Event(1, 0, None, "host", "kernel", verb, "something", 1, 2))
