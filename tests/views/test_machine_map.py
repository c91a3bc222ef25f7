"""The map of a machine: what stands in it, that it folds, and that nothing moves without need."""

from __future__ import annotations

from pasidlab import Machine
from pasidlab.views import Figure, topology
from pasidlab.views.machine_map import machine_map
from pasidlab.views.room import Room
from tests.views.worlds import bound_vms, crowd


def labels(figure: Figure) -> dict[str, str]:
    """The labels of the arrows that are drawn."""
    return {edge.key: edge.label for edge in figure.edges if edge.present and edge.label}


def test_an_arrow_says_which_pasid_is_on_the_wire() -> None:
    """The guest's in front of the ADI, the host's behind it and behind the IOMMU."""
    machine = bound_vms()
    said = labels(machine_map(machine))
    for slot, vm in enumerate(machine.vms):
        host = vm.pasids[1]
        assert said[f"vm:{slot}:process:0>0"] == "PASID 1"
        assert said[f"vm:{slot}:device:0>dsa0:wq0"] == f"PASID {host}"
        assert said[f"iommu>vm:{slot}:memory"] == f"PASID {host}"


def test_a_function_that_is_assigned_as_a_whole_shows_its_queue() -> None:
    """Identity: the guest's number and the host's are the same on every stretch."""
    machine = Machine()
    vm = machine.create_vm("vm1", quota=8)
    function = machine.assign_pf(machine.plug_accelerator("dsa0"), vm)
    pasid = vm.spawn("app").bind(function)
    figure = machine_map(machine)
    assert set(labels(figure).values()) == {f"PASID {pasid}"}
    assert figure.node("vm:0:device:0").lines == ("dsa0", "whole function")


def test_a_native_process_leads_straight_to_a_queue() -> None:
    """Nothing mediates on the host."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    machine.spawn("editor").bind(dsa)
    assert labels(machine_map(machine))["host:process:0>dsa0:wq1"] == "PASID 1"


def test_eight_vms_with_64_pasids_fit_into_60_boxes() -> None:
    """The rest is folded, and the folded box says what is in it."""
    figure = machine_map(crowd())
    assert len(figure.nodes) <= 60
    assert figure.node("vm:0:process:0").lines == ("8 processes", "PASID 1-8")


def test_bind_unbind_and_travel_move_nothing() -> None:
    """From the first device on, each step of a VM's life has the same layout."""
    machine, room = Machine(), Room()
    dsa = machine.plug_accelerator("dsa0")
    vm = machine.create_vm("vm1", quota=4)
    before = topology(machine_map(machine, room))
    adi = machine.assign_adi(dsa, vm)
    app = vm.spawn("app")
    shapes = [topology(machine_map(machine, room))]
    for call in (app.bind, app.unbind):
        call(adi)
        shapes.append(topology(machine_map(machine, room)))
    machine.timeline.go(machine.timeline.floor)
    shapes.append(topology(machine_map(machine, room)))
    assert set(shapes) == {before}


def test_a_vm_that_is_gone_keeps_its_place_unseen() -> None:
    """Until the room is forgotten."""
    machine, room = bound_vms(), Room()
    machine_map(machine, room)
    machine.vm("vm1").crash()
    assert not machine_map(machine, room).node("vm:0:memory").present
    room.forget()
    assert "vm:0:memory" not in {node.key for node in machine_map(machine, room).nodes}
