"""The stories of T2, T4 and T11 on every machine, and that they would notice if the world were another one."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories import STORIES, StoryBroken, play
from pasidlab.stories.guest_sva import GUEST_SVA, guest_steps
from pasidlab.stories.table_owner import TABLE_OWNER, entry_of, in_guest_memory
from pasidlab.stories.whole_table import WHOLE_TABLE
from pasidlab.timeline import Event, Verb

BOUND = [name for name, family in FAMILIES.items() if family.binds_tables]


def events(name: str) -> list[Event]:
    """All events of a story."""
    return [event for chapter in play(STORIES[name]) for event in chapter.events]


def test_there_is_a_story_for_every_kind() -> None:
    """T2 and T4 for each, T11 for those whose tables are bound as a whole."""
    assert [story.make().iommu for story in TABLE_OWNER] == list(FAMILIES)
    assert [story.make().iommu for story in GUEST_SVA] == list(FAMILIES)
    assert [story.make().iommu for story in WHOLE_TABLE] == BOUND


def test_the_guest_takes_the_same_steps_on_every_machine() -> None:
    """T4: the very same, whatever is trapped."""
    steps = {kind: guest_steps(events(f"guest-sva-{kind}"), "vm1") for kind in FAMILIES}
    assert len({tuple(one) for one in steps.values()}) == 1
    assert Verb.WRITE_ENTRY in next(iter(steps.values()))


@pytest.mark.parametrize("kind", BOUND)
def test_no_ioasid_of_the_host_is_ever_taken_where_tables_are_bound(kind: str) -> None:
    """T11: six processes in two VMs, and the host's allocator is not asked."""
    taken = [event for event in events(f"whole-table-{kind}") if event.actor == "ioasid" and event.altitude == "host"]
    assert Verb.ALLOC not in {event.verb for event in taken}
    assert Verb.SET_ALLOC in {event.verb for event in taken}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_entry_lies_with_its_owner(kind: str) -> None:
    """T2: asked of the unit, looked up in memory."""
    m = Machine(iommu=kind)
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", quota=4)
    function = m.assign_pf(dsa, vm)
    pasid = vm.spawn("app").bind(function, queue="dedicated")
    entry = entry_of(m, dsa.rid, pasid)
    assert in_guest_memory(vm, entry.address) is (kind in BOUND)
    assert (entry.guest_address is not None) is (kind in BOUND)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_story_of_another_machine_breaks(kind: str) -> None:
    """What is told of shadow is not true of bind, and the other way round: the stories do not hold by themselves."""
    m = Machine(iommu=kind)
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", quota=4)
    m.assign_pf(dsa, vm)
    with pytest.raises(StoryBroken, match="one entry for PASID 1"):
        entry_of(m, dsa.rid, 1)
