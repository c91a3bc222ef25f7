"""Whatever step a person travels to, also in the middle of an operation, every picture can be drawn."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pasidlab import Machine
from pasidlab.handles import PhysicalFunction
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories import STORIES, play
from pasidlab.views import Figure, Topology, table_text, text, topology
from pasidlab.views.bits import bits_text
from pasidlab.views.cache_table import cache_table
from pasidlab.views.cells import cells_text
from pasidlab.views.chains import chains
from pasidlab.views.directory import directory
from pasidlab.views.explain import explain
from pasidlab.views.holders import holders
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.memory_map import MemoryMap
from pasidlab.views.memory_view import frame_of
from pasidlab.views.occupancy import set_table
from pasidlab.views.pasid_table import entry_bits, pasid_table
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.room import Room
from pasidlab.views.stale import stale_stops
from pasidlab.views.traps_beliefs import beliefs, trap_table
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_table import walk_table
from pasidlab.views.wire_figure import on_the_wire
from tests.views.worlds import whole_function


def pictures(machine: Machine) -> Iterator[str]:
    """Every picture of the machine, in words."""
    for figure in (machine_map, guest_to_host, life_cycle, chains):
        yield text(figure(machine))
    for table in (holders, set_table, cache_table):
        yield table_text(table(machine))
    for device in machine.accelerators.values():
        yield from of_device(machine, device.path, device.rid)
    for app in [*(app for vm in machine.vms for app in vm.apps), *(machine.app(one.name) for one in machine.natives)]:
        yield text(on_the_wire(machine, app))
    yield table_text(trap_table(machine))
    yield str([beliefs(machine, vm) for vm in machine.vms])
    known = MemoryMap(machine)
    for at in (machine.unit.reading.root, *machine.unit.reading.queues.values()):
        yield table_text(frame_of(known, at))
    for handle in (machine, *machine.vms):
        yield str(handle._repr_mimebundle_())
    yield str(machine.check())


def of_device(machine: Machine, name: str, rid: int) -> Iterator[str]:
    """The pictures of one device's tables, and of walks of its requests."""
    yield text(pasid_table(machine, name))
    yield cells_text(directory(machine, name))
    yield bits_text(entry_bits(machine, name, 1))
    yield text(work_queue(machine, name, 0))
    for pasid in (None, 1, 3):
        walk = machine.translate(rid, pasid, 0x7F00_0000_2000)
        yield text(walk_graph(walk, 3, stale_stops(walk)))
        yield table_text(walk_table(walk))
        yield str(explain(walk))


@pytest.mark.parametrize(
    "name",
    ["two-vms", "physical-function", "free-before-unbind", "vm-exit", "dev-ioasid", "quota-cgroup"],
)
def test_every_picture_can_be_drawn_at_every_step(name: str) -> None:
    """From the machine's first moment to the end of a story, forwards."""
    story = STORIES[name]
    machine = story.make()
    list(play(story, machine))
    for step in range(machine.timeline.floor, machine.timeline.last + 1):
        machine.timeline.go(step)
        assert all(pictures(machine))


@pytest.mark.parametrize("iommu", FAMILIES)
def test_every_picture_can_be_drawn_at_every_step_on_each_iommu(iommu: str) -> None:
    """A VM with a whole function, native SVA beside it, faults, and a VM that crashes in the end; no box moves."""
    machine = whole_function(iommu)
    machine.dma(PhysicalFunction(machine, "dsa1"), 9, 0x1000)
    machine.vm("vm1").crash()
    rooms = {figure: Room() for figure in (machine_map, guest_to_host, partial(pasid_table, device="dsa0"))}
    steps = range(machine.timeline.floor, machine.timeline.last + 1)
    for step in steps:
        machine.timeline.go(step)
        assert all(pictures(machine))
        shapes = _shapes(machine, rooms)
    for step in (steps[0], steps[len(steps) // 4], steps[len(steps) // 2]):
        machine.timeline.go(step)
        assert _shapes(machine, rooms).items() <= shapes.items()


def _shapes(machine: Machine, rooms: dict[Callable[..., Figure], Room]) -> dict[object, Topology]:
    """How figures are laid out; that of a device's table only while there is the device."""
    there = "dsa0" in machine.functions
    drawn = {figure: room for figure, room in rooms.items() if there or not isinstance(figure, partial)}
    return {figure: topology(figure(machine, room=room)) for figure, room in drawn.items()}
