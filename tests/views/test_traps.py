"""What a guest believes of its PASIDs after its hypervisor refused or altered something, and the list of traps."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice
from pasidlab.views.traps_beliefs import beliefs, trap_table


def guest(queue: str = "shared") -> tuple[Machine, App, AssignedDevice]:
    """A VM with an interface and a process."""
    machine = Machine()
    vm = machine.create_vm("vm1")
    adi = machine.assign_adi(machine.plug_accelerator("dsa0"), vm, queue=queue)
    return machine, vm.spawn("app"), adi


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_a_guest_whose_traps_are_served_is_right(queue: str) -> None:
    """Before a bind, bound, and after the unbind."""
    machine, app, adi = guest(queue)
    vm = machine.vm("vm1")
    assert beliefs(machine, vm) == []
    app.bind(adi)
    assert beliefs(machine, vm) == []
    app.unbind(adi)
    assert beliefs(machine, vm) == []


def test_a_number_that_nobody_stands_behind() -> None:
    """Altered, the virtual command hands out 77; the guest uses it in good faith."""
    machine, app, adi = guest()
    with machine.hypervisor("alter 77"):
        app.bind(adi)
    said = beliefs(machine, machine.vm("vm1"))
    assert said[0] == "vm1 believes that it owns PASID 77; the host has nothing behind it."
    assert "ENQCMD is never accepted" in said[1]


def test_an_unbind_of_which_the_host_was_not_told_leaves_an_entry() -> None:
    """The flush is how the host would have heard of it; at the guest's next trap the two differ."""
    machine, app, adi = guest()
    app.bind(adi)
    machine.hold_traps()
    with pytest.raises(KernelError):
        app.unbind(adi)
    machine.decide("serve")
    machine.decide("refuse")
    assert beliefs(machine, machine.vm("vm1")) == [
        "vm1 believes nobody uses PASID 1 on adi0; the host still has an entry for it."
    ]


def test_a_pasid_that_was_not_taken_back() -> None:
    """Every trap of the unbind refused: the host keeps what the guest has forgotten."""
    machine, app, adi = guest()
    app.bind(adi)
    host = machine.vm("vm1").pasids[1]
    with machine.hypervisor(*["refuse"] * 8):
        app.unbind(adi)
    said = beliefs(machine, machine.vm("vm1"))
    assert f"vm1 has given PASID 1 back, it believes; the host still keeps IOASID {host} for it." in said


def test_a_register_that_kept_its_value_leads_elsewhere() -> None:
    """A dedicated queue without the process's number works for the whole memory of the VM."""
    machine, app, adi = guest("dedicated")
    with machine.hypervisor("serve", "serve", "serve", "refuse"):
        app.bind(adi)
    assert beliefs(machine, machine.vm("vm1")) == [
        "vm1 believes PASID 1 is bound on adi0; there it reaches the memory of all of vm1."
    ]


def test_the_list_tells_who_waits_for_what() -> None:
    """The trap at which the timeline stands is marked; answers so far are told."""
    machine, app, adi = guest()
    machine.hold_traps()
    with pytest.raises(KernelError):
        app.bind(adi)
    machine.decide("serve")
    (row,) = trap_table(machine).rows
    assert row.state == "now"
    assert row.cells[:2] == ("vm1", "invalidation")
    assert row.cells[4] == "serve"
    assert "bind" in row.cells[5]
