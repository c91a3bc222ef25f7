"""The whole 20-bit space, held by a thousand sets at once."""

import pytest

from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.timeline import Agenda, Part, Timeline

SETS = 1000


def core_with_sets():
    """A core whose capacity is promised to the last number, to a thousand processes."""
    time = Timeline()
    core = IoasidCore(time, "ioasid", "host", Agenda(time))
    small, larger = divmod(PASID_LIMIT, SETS)
    quotas = [small + (at < larger) for at in range(SETS)]
    sets = [core.sets.alloc(f"vm{at}", Part(time, f"mm[{at}]"), quota) for at, quota in enumerate(quotas)]
    return core, sets


def refused(core, the_set):
    """Why a set gets no more."""
    with pytest.raises(IoasidRefused) as refusal:
        core.alloc(the_set, 0, PASID_LIMIT - 1, "vfio")
    return str(refusal.value)


@pytest.mark.slow
def test_a_thousand_sets_hold_the_whole_space():
    """Every number is out once and every set is full; a number that returns can be had by its set only; sets can go.

    With its events and its journal this world takes more than 1 GB.
    """
    core, sets = core_with_sets()
    assert core.capacity.available == 0
    for the_set in sets:
        while not the_set.full:
            core.alloc(the_set, 0, PASID_LIMIT - 1, "vfio")
    assert len(core.ids) == PASID_LIMIT
    assert {number for the_set in sets for number in the_set.ids} == set(range(PASID_LIMIT))
    middle, other = sets[SETS // 2], sets[7]
    number = middle.ids.keys()[100]
    assert "quota" in refused(core, middle)
    core.free(middle, number)
    assert "quota" in refused(core, other)
    assert core.alloc(middle, 0, PASID_LIMIT - 1, "vfio") == number
    quota = other.quota
    core.free_all(other)
    core.sets.free(other)
    assert (len(core.ids), len(core.sets), core.capacity.available) == (PASID_LIMIT - quota, SETS - 1, quota)


def test_the_last_set_is_promised_what_is_left_and_no_more():
    """The quotas of a thousand sets add up to the whole: not one number is left for another."""
    core, sets = core_with_sets()
    assert sum(the_set.quota for the_set in sets) == PASID_LIMIT
    with pytest.raises(Exception, match="ENOSPC"):
        core.sets.alloc("late", None, 1)
    core.sets.free(sets[3])
    assert core.sets.alloc("late", None, 1).quota == 1
