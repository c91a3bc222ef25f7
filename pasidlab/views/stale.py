"""Which stops of a walk came from a cache that says something else than memory does now.

A cached entry is compared with the words in memory at its place; accessed and dirty bits do not count, since the unit
sets them after it has read the entry. A translation from the IOTLB is compared with what a walk through the tables
alone would answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.vtd.caches import IOTLB_ENTRY
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import FL_ENTRY, SL_ENTRY
from pasidlab.views.walk_table import usual_rules

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Stop, Walk
    from pasidlab.hardware.memory import Memory

__all__ = ["rules_of", "stale_stops"]

_MARKS: Final = {
    FL_ENTRY.name: FL_ENTRY["A"].mask | FL_ENTRY["D"].mask | FL_ENTRY["EA"].mask,
    SL_ENTRY.name: SL_ENTRY["A"].mask | SL_ENTRY["D"].mask,
}


def rules_of(walk: Walk) -> VtdRules:
    """What the unit that walked demands of its tables; of a walk without a unit, what a usual one does."""
    return walk.unit.rules if isinstance(walk.unit, VtdUnit) else usual_rules()


def stale_stops(walk: Walk) -> frozenset[int]:
    """The numbers (from 0) of the stops whose cache is out of date.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); stale_stops(m.translate(dsa.rid, 9))
    frozenset()
    """
    cached = [at for at, stop in enumerate(walk.stops) if stop.cached]
    if not cached or not isinstance(walk.unit, VtdUnit):
        return frozenset()
    memory = walk.unit.memory
    return frozenset(at for at in cached if _differs(walk, walk.stops[at], memory))


def _differs(walk: Walk, stop: Stop, memory: Memory) -> bool:
    if stop.layout is IOTLB_ENTRY:
        return _answers_otherwise(walk)
    try:
        now = memory.load_words(stop.address, stop.layout.word_count)
    except BusError:
        return True
    ignored = _MARKS.get(stop.layout.name, 0)
    return bool((stop.layout.join(now) ^ stop.layout.join(stop.words)) & ~ignored)


def _answers_otherwise(walk: Walk) -> bool:
    """Whether the tables alone would lead somewhere else."""
    if walk.unit is None:
        return False
    fresh = walk.unit.walk(walk.request, caches=False)
    codes = [found.fault.code if found.fault is not None else None for found in (walk, fresh)]
    return fresh.address != walk.address or codes[0] != codes[1]
