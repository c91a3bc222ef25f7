"""Tables that guests own: the picture of what binds them, and the table of PASIDs that requests meet."""

from __future__ import annotations

import random

import pytest

from pasidlab import Machine
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views import text, topology
from pasidlab.views.cells import cells_text
from pasidlab.views.directory import directory
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.memory_map import MemoryMap
from pasidlab.views.pasid_table import entry_bits, pasid_table
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.room import Room
from pasidlab.views.table import table_text
from pasidlab.views.tables import present_in, table_of
from pasidlab.views.users import kept, users
from pasidlab.views.wire_figure import on_the_wire
from tests.views.worlds import whole_function

BINDING = [family.name for family in FAMILIES.values() if family.binds_tables]
pytestmark = pytest.mark.parametrize("iommu", BINDING)


def test_one_line_stands_for_the_whole_table(iommu: str) -> None:
    """PASIDs lead to the guest's table, the host's entry stands for all of it, and leads to the second level."""
    figure = guest_to_host(whole_function(iommu))
    ways = [(edge.tail, edge.head) for edge in figure.edges if edge.present]
    assert sorted(ways) == [
        ("entry:dsa0", "second:0"),
        ("pasid:0:dsa0:2", "table:0:dsa0"),
        ("table:0:dsa0", "entry:dsa0"),
    ]
    assert figure.node("entry:dsa0").word == "table bound"
    assert "One line for a whole table" in text(figure)


def test_a_pasid_that_is_gone_keeps_its_place_and_nothing_moves(iommu: str) -> None:
    """Forwards and backwards in time."""
    machine, room = whole_function(iommu), Room()
    last = machine.timeline.last
    for step in range(machine.timeline.floor, last + 1):
        machine.timeline.go(step)
        figure = guest_to_host(machine, room)
    shape = topology(figure)
    assert figure.node("pasid:0:dsa0:1").state != "live"
    for step in range(machine.timeline.floor, last + 1, 17):
        machine.timeline.go(step)
        assert topology(guest_to_host(machine, room)) == shape


def test_without_a_device_the_picture_says_so(iommu: str) -> None:
    """No VM, a VM without a device."""
    machine = Machine(iommu=iommu)
    assert guest_to_host(machine).node("empty").lines == ("no VM yet", "create one")
    machine.create_vm("vm1")
    assert guest_to_host(machine).node("vm:0:none").lines == ("no whole device", "assign a PF")


def test_very_many_pasids_are_folded(iommu: str) -> None:
    """At most about 60 boxes; the rest is counted."""
    machine = Machine(iommu=iommu)
    given = [machine.plug_accelerator(f"dsa{at}", shared=0, dedicated=8) for at in range(4)]
    for at, device in enumerate(given):
        vm = machine.create_vm(f"vm{at}")
        function = machine.assign_pf(device, vm)
        for number in range(8):
            vm.spawn(f"app{number}").bind(function)
    figure = guest_to_host(machine)
    assert len(figure.nodes) <= 60
    assert figure.node("pasid:0:dsa0:more").lines[0] == "+5 more"


def test_the_table_in_force_is_the_guests(iommu: str) -> None:
    """Its addresses are guest-physical; the device that the host kept has the host's."""
    machine = whole_function(iommu)
    given, kept_one = table_of(machine, "dsa0"), table_of(machine, "dsa1")
    assert given is not None
    assert kept_one is not None
    assert (given.vm, list(present_in(given))) == ("vm1", [2])
    assert (kept_one.vm, list(present_in(kept_one))) == ("", [1])
    figure = pasid_table(machine, "dsa0")
    assert figure.title.endswith(", vm1's own")
    assert figure.node("entry:2").lines[2] == "second of vm1"
    assert figure.node("first:2").lines[1] == "guest-physical"
    assert figure.node("second:0").lines[1] == "memory of vm1"
    assert ", vm1's own" in directory(machine, "dsa0").title
    assert "in the memory of vm1" in entry_bits(machine, "dsa0", 2).note


def test_every_stop_of_a_nested_walk_has_a_name_in_memory(iommu: str) -> None:
    """Also the tables in the guest's memory, with the process whose they are."""
    machine = whole_function(iommu)
    app = machine.vm("vm1").app("second")
    walk = machine.translate(machine.device("dsa0").rid, app.pasid, app.buffer(b"x"), caches=False)
    known = MemoryMap(machine)
    names = [known.word(stop.address).name for stop in walk.stops]
    assert not [name for name in names if name.startswith("the word at")]
    assert any("of PASID 2 (vm1: second)" in name for name in names)
    assert walk.address is not None
    assert "vm1: second, PASID 2" in " ".join(known.owners(walk.address))
    guests = MemoryMap(machine, "vm1")
    found = table_of(machine, "dsa0")
    at = found.table.address(2) if found is not None else None
    assert at is not None
    assert guests.word(at).name.endswith(" 2 of 00:03.0 (dsa0)")


def test_the_iommu_is_the_only_user_on_the_host_of_such_a_number(iommu: str) -> None:
    """No IOASID, no entry of KVM: the entry is the guest's own, and the queue's register has the guest's number."""
    machine = whole_function(iommu)
    vm = machine.vm("vm1")
    assert {one.user for one in kept(machine, vm, 2)} == {"iommu", "device"}
    assert "in the guest at" in table_text(users(machine, vm, 2))


@pytest.mark.parametrize("seed", range(4))
def test_pictures_bear_a_guest_that_writes_garbage_into_its_tables(iommu: str, seed: int) -> None:
    """Into its device entry, its table of PASIDs, its page tables."""
    dice, machine = random.Random(seed), whole_function(iommu)
    vm = machine.vm("vm1")
    frames = MemoryMap(machine, "vm1").survey.frames()
    for _ in range(200):
        at = dice.choice(frames) + 8 * dice.randrange(512)
        vm.vmm.memory.store(at, dice.choice((dice.getrandbits(64), dice.choice(frames) | dice.getrandbits(12), 0)))
    figures = [guest_to_host(machine), pasid_table(machine, "dsa0"), machine_map(machine)]
    figures.append(on_the_wire(machine, vm.app("second")))
    assert all(text(figure) for figure in figures)
    assert cells_text(directory(machine, "dsa0"))
    assert MemoryMap(machine, "vm1").survey.frames() is not None
    assert MemoryMap(machine).survey.frames()


def test_a_long_name_stays_in_its_box(iommu: str) -> None:
    """Boxes are as wide as they were; the text twin has the whole name."""
    machine = Machine(iommu=iommu)
    name = "a-very-long-name-of-a-vm"
    machine.assign_pf(machine.plug_accelerator("dsa0"), machine.create_vm(name))
    other = Machine(iommu=iommu)
    other.assign_pf(other.plug_accelerator("dsa0"), other.create_vm("v"))
    assert [node.width for node in topology(guest_to_host(machine)).nodes] == [
        node.width for node in topology(guest_to_host(other)).nodes
    ]
    assert f"memory of {name}" in text(guest_to_host(machine))


def test_a_shared_queue_that_nobody_can_use_says_why(iommu: str) -> None:
    """Without ENQCMD; a dedicated one says what it always says."""
    machine = whole_function(iommu)
    note = work_queue(machine, "dsa1", 0).note
    assert note is not None
    assert machine.cpu.architecture.why_no_enqueue in note
    assert work_queue(machine, "dsa1", 2).note != note
