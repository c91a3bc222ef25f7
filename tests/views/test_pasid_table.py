"""The picture of a PASID table is read from memory: entries, pointers, and what was there before."""

from __future__ import annotations

from pasidlab.views import Table
from pasidlab.views.pasid_table import entry_table, pasid_table
from pasidlab.views.room import Room
from tests.views.worlds import bound_vms, crowd


def value(table: Table, field: str) -> str:
    """The value of a field as it is shown."""
    return next(row.cells[2] for row in table.rows if row.key == field)


def test_all_entries_of_a_vm_point_to_one_second_level_table() -> None:
    """Its default PASID and its nested ones."""
    machine = bound_vms()
    figure = pasid_table(machine, "dsa0")
    vm = machine.vm("vm1")
    default = vm.vmm.container.domain.default_pasid
    heads = {edge.tail: edge.head for edge in figure.edges if edge.label == "SLPTPTR"}
    assert heads[f"entry:{default}"] == heads[f"entry:{vm.pasids[1]}"] == "second:0"
    assert figure.node("second:0").lines[1] == "memory of vm1"
    assert sum(node.key.startswith("second:") for node in figure.nodes) == 2


def test_an_entry_says_whose_it_is() -> None:
    """RID_PASID, default PASID, guest's PASID."""
    machine = bound_vms(1)
    figure = pasid_table(machine, "dsa0")
    assert figure.node("entry:0").lines[2] == "requests without one"
    assert figure.node("entry:1").lines[2] == "default of vm1"
    assert figure.node("entry:2").lines[2] == "guest PASID 1 of vm1"


def test_an_entry_that_is_gone_keeps_its_place_with_p_0() -> None:
    """Its targets are hidden, and nothing moves."""
    machine, room = bound_vms(1), Room()
    pasid_table(machine, "dsa0", room)
    machine.vm("vm1").apps[0].unbind("adi0")
    figure = pasid_table(machine, "dsa0", room)
    assert (figure.node("entry:2").state, figure.node("entry:2").word) == ("off", "P=0")
    assert not figure.node("first:2").present
    assert figure.node("second:0").present


def test_a_full_table_is_folded() -> None:
    """At most 60 boxes; the folded one counts the rest."""
    figure = pasid_table(crowd(), "dsa0")
    assert len(figure.nodes) <= 60
    assert figure.node("more").lines == ("+24 more", "entries")


def test_the_fields_of_an_entry_are_the_words_in_memory() -> None:
    """Nested, present, and its FLPTPTR is the guest's page-table root."""
    machine = bound_vms(1)
    vm = machine.vm("vm1")
    table = entry_table(machine, "dsa0", vm.pasids[1])
    assert (value(table, "P"), value(table, "PGTT")) == ("0x1", "0x3")
    assert value(table, "FLPTPTR") == f"{vm.apps[0].process.mm.root:#x}"
