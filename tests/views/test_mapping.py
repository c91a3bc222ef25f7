"""Guest PASID, KVM's entry, host IOASID: three columns that agree with memory at each moment of a PASID's life."""

from __future__ import annotations

from pasidlab import Machine
from pasidlab.views import topology
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.room import Room
from tests.views.worlds import bound_vms, crowd


def test_two_guests_with_the_same_number_lead_to_two_hosts() -> None:
    """Every arrow ends at its own IOASID."""
    machine = bound_vms()
    figure = guest_to_host(machine)
    ends = {edge.tail: edge.head for edge in figure.edges if edge.present}
    for slot, vm in enumerate(machine.vms):
        assert ends[f"guest:{slot}:1"] == f"kvm:{slot}:1"
        assert ends[f"kvm:{slot}:1"] == f"host:{vm.pasids[1]}"
        assert figure.node(f"host:{vm.pasids[1]}").lines[2] == f"vfio, iommu, kvm:{vm.name}"


def test_after_unbind_the_boxes_stay_and_say_that_they_are_free() -> None:
    """KVM's entry is not valid, the host's number is back in the pool, nothing moved."""
    machine, room = bound_vms(), Room()
    before = guest_to_host(machine, room)
    machine.vm("vm1").apps[0].unbind("adi0")
    after = guest_to_host(machine, room)
    assert topology(before) == topology(after)
    assert after.node("guest:0:1").lines == ("PASID 1", "not allocated")
    assert after.node("kvm:0:1").lines == ("1 → none", "not valid")
    assert after.node("host:2").lines[1] == "in the pool"
    assert after.node("kvm:1:1").state == "live"


def test_between_alloc_and_bind_the_number_is_allocated_but_not_translated() -> None:
    """A dashed arrow leads past KVM."""
    machine, room = bound_vms(1), Room()
    guest_to_host(machine, room)
    time = machine.timeline
    time.back_over()
    while not machine.vm("vm1").pasids:
        time.forward()
    figure = guest_to_host(machine, room)
    drawn = [edge for edge in figure.edges if edge.present]
    assert [(edge.label, edge.state) for edge in drawn] == [("allocated", "pending")]


def test_many_pairs_are_folded() -> None:
    """At most 60 boxes, and each VM is there with its first pair."""
    figure = guest_to_host(crowd())
    assert len(figure.nodes) <= 60
    assert figure.node("vm:0:more").lines == ("+7 more", "2-8 → 3-9")


def test_a_machine_without_vms_says_so() -> None:
    """No empty picture."""
    assert guest_to_host(Machine()).node("empty").lines[0] == "no VM yet"
