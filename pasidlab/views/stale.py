"""Which stops of a walk came from a cache that says something else than memory does now.

A cached entry is compared with the words in memory at its place; bits that the unit itself sets (accessed, dirty) do
not count, since it sets them after it has read the entry. A whole translation is compared with what a walk through the
tables alone would answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import BusError

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import IommuUnit, Stop, Walk

__all__ = ["stale_stops"]


def stale_stops(walk: Walk) -> frozenset[int]:
    """The numbers (from 0) of the stops whose cache is out of date.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); stale_stops(m.translate(dsa.rid, 9))
    frozenset()
    """
    unit, cached = walk.unit, [at for at, stop in enumerate(walk.stops) if stop.cached]
    if unit is None:
        return frozenset()
    return frozenset(at for at in cached if _differs(walk, walk.stops[at], unit))


def _differs(walk: Walk, stop: Stop, unit: IommuUnit) -> bool:
    if stop.in_tlb:
        return _answers_otherwise(walk, unit)
    try:
        now = unit.reading.memory.load_words(stop.address, stop.layout.word_count)
    except BusError:
        return True
    ignored = unit.reading.marks(stop.layout)
    return bool((stop.layout.join(now) ^ stop.layout.join(stop.words)) & ~ignored)


def _answers_otherwise(walk: Walk, unit: IommuUnit) -> bool:
    """Whether the tables alone would lead somewhere else."""
    fresh = unit.walk(walk.request, caches=False)
    codes = [found.fault.code if found.fault is not None else None for found in (walk, fresh)]
    return fresh.address != walk.address or codes[0] != codes[1]
