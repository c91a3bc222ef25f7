"""The life-cycle tables of the documents (facts 2): the reference count that the model shows after each step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pasidlab import Machine
from pasidlab.stories import STORIES, play
from pasidlab.timeline import Verb
from pasidlab.views.life import life, life_steps
from pasidlab.views.table import table_text

NORMAL = [
    ("ioasid", "alloc", 1),  # 2
    ("vfio", "ioctl", 1),  # 3
    ("iommu", "write-entry", 1),  # 4
    ("ioasid", "get", 2),
    ("ioasid", "notify", 2),  # 5
    ("kvm", "handle", 2),  # 6
    ("ioasid", "get", 3),
    ("kvm", "write-entry", 3),  # 7
    ("ioasid", "get", 4),  # 9
    ("accelerator", "program", 4),  # 10
    ("root complex", "dma", 4),  # 11
    ("accelerator", "program", 4),  # 12: cleared, drained, put
    ("ioasid", "put", 3),
    ("vfio", "ioctl", 3),  # 13
    ("iommu", "clear-entry", 3),  # 14
    ("ioasid", "notify", 3),  # 15
    ("kvm", "clear-entry", 3),  # 16
    ("ioasid", "put", 2),
    ("ioasid", "put", 1),  # 17a
    ("ioasid", "free", 1),  # 18a
    ("ioasid", "put", 0),
    ("ioasid", "reclaim", 0),
]
"""Table 2.1 with the order 17a, 18a. KVM takes its reference before it writes the entry, as row 6 comes before 7."""

FREE_BEFORE_UNBIND = [
    ("ioasid", "free", 4),  # 1
    ("ioasid", "notify", 4),  # 2
    ("kvm", "clear-entry", 4),  # 3
    ("ioasid", "put", 3),
    ("vdcm", "queue-work", 3),  # 4
    ("iommu", "queue-work", 3),  # 5
    ("ioasid", "put", 2),  # 6
    ("vdcm", "run-work", 2),  # 7
    ("ioasid", "put", 1),
    ("iommu", "run-work", 1),  # 8
    ("iommu", "clear-entry", 1),
    ("ioasid", "put", 0),
    ("ioasid", "reclaim", 0),
]
"""Table 2.2 as documented."""

NATIVE = [
    ("ioasid", "alloc", 1),
    ("iommu", "write-entry", 1),
    ("ioasid", "get", 2),
    ("iommu", "bind", 2),
    ("root complex", "dma", 2),
    ("iommu", "clear-entry", 2),
    ("ioasid", "put", 1),
    ("ioasid", "free", 1),
    ("ioasid", "put", 0),
    ("ioasid", "reclaim", 0),
]
"""Table 2.3, with the references that the other tables count."""

PROCESS_EXIT = [
    ("iommu", "clear-entry", 2),  # A
    ("ioasid", "put", 1),
    ("accelerator", "drain", 1),  # B
    ("ioasid", "free", 1),  # C
    ("ioasid", "put", 0),
    ("ioasid", "reclaim", 0),
]
"""Table 2.4; A' concerns no PASID and is tested beside the kernel."""

VM_EXIT = [
    ("kvm", "clear-entry", 4),
    ("ioasid", "put", 3),
    ("accelerator", "program", 3),
    ("ioasid", "put", 2),
    ("iommu", "clear-entry", 2),
    ("ioasid", "put", 1),
    ("ioasid", "free", 1),
    ("ioasid", "put", 0),
    ("ioasid", "reclaim", 0),
]
"""Table 2.5: the files close, KVM's first."""

TABLES = [
    ("guest-life", 2, NORMAL),
    ("free-before-unbind", 2, FREE_BEFORE_UNBIND),
    ("native", 1, NATIVE),
    ("process-exit", 1, PROCESS_EXIT),
    ("vm-exit", 2, VM_EXIT),
]


def told(name: str, ioasid: int) -> tuple[Machine, list[tuple[str, str, int]]]:
    """The machine after a story, and who did what to a PASID with how many references after it."""
    machine = Machine()
    list(play(STORIES[name], machine))
    steps = life_steps(machine.timeline.events, ioasid)
    return machine, [(step.event.actor, str(step.event.verb), step.refs) for step in steps]


@pytest.mark.parametrize(("name", "ioasid", "table"), TABLES, ids=[row[0] for row in TABLES])
def test_the_steps_of_the_table_happen_in_its_order_with_its_references(
    name: str, ioasid: int, table: list[tuple[str, str, int]]
) -> None:
    """Each row of the document's table is found behind the one before it; steps between them are details."""
    _, steps = told(name, ioasid)
    rest = iter(steps)
    assert [row for row in table if row in rest] == table


@pytest.mark.parametrize(("name", "ioasid", "table"), TABLES, ids=[row[0] for row in TABLES])
def test_the_last_step_leaves_no_reference(name: str, ioasid: int, table: list[tuple[str, str, int]]) -> None:
    """Reclaimed, and counted at every step from the one of the allocator."""
    machine, steps = told(name, ioasid)
    counts = [refs for _, _, refs in steps]
    assert (counts[0], counts[-1]) == (1, 0)
    assert all(abs(one - other) <= 1 for one, other in pairwise(counts))
    assert machine.kernel.ioasid.refs(ioasid) == 0


@pytest.mark.parametrize(("name", "ioasid", "table"), TABLES, ids=[row[0] for row in TABLES])
def test_every_event_about_the_number_carries_the_count(
    name: str, ioasid: int, table: list[tuple[str, str, int]]
) -> None:
    """What the core, the IOMMU driver, KVM and the mediated device tell has the references in it."""
    machine, _ = told(name, ioasid)
    users = {Verb.NOTIFY, Verb.HANDLE, Verb.WRITE_ENTRY, Verb.CLEAR_ENTRY, Verb.QUEUE_WORK, Verb.RUN_WORK, Verb.FREE}
    steps = life_steps(machine.timeline.events, ioasid)
    silent = [str(step.event) for step in steps if step.event.verb in users and step.event.fact("refs") != step.refs]
    assert silent == []


def test_a_life_is_the_last_one_of_its_number() -> None:
    """A number that was reclaimed and handed out again starts afresh."""
    machine = Machine()
    dsa, app = machine.plug_accelerator("dsa0"), machine.spawn("app")
    for _ in range(2):
        number = app.bind(dsa)
        again = machine.timeline.now
        app.unbind(dsa)
    steps = life_steps(machine.timeline.events, number)
    assert steps[0].event.verb is Verb.ALLOC
    assert again - 10 < steps[0].event.number < again
    assert table_text(life(machine, number)).count("allocates IOASID 1") == 1


def test_a_number_without_a_life_says_so() -> None:
    """Nothing is invented."""
    assert "IOASID 7 has never been allocated." in table_text(life(Machine(), 7))
