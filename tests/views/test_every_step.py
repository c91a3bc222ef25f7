"""Whatever step a person travels to, also in the middle of an operation, every picture can be drawn."""

from collections.abc import Iterator

import pytest

from pasidlab import Machine
from pasidlab.stories import STORIES, play
from pasidlab.views import table_text, text
from pasidlab.views.chains import chains
from pasidlab.views.holders import holders
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.occupancy import set_table


def pictures(machine: Machine) -> Iterator[str]:
    """Every picture of the machine, in words."""
    for figure in (machine_map, guest_to_host, life_cycle, chains):
        yield text(figure(machine))
    for table in (holders, set_table):
        yield table_text(table(machine))
    for handle in (machine, *machine.vms):
        yield str(handle._repr_mimebundle_())
    yield str(machine.check())


@pytest.mark.parametrize(
    "name", ["two-vms", "physical-function", "free-before-unbind", "vm-exit", "dev-ioasid", "quota-cgroup"]
)
def test_every_picture_can_be_drawn_at_every_step(name: str) -> None:
    """From the machine's first moment to the end of a story, forwards."""
    story = STORIES[name]
    machine = story.make()
    list(play(story, machine))
    for step in range(machine.timeline.floor, machine.timeline.last + 1):
        machine.timeline.go(step)
        assert all(pictures(machine))
