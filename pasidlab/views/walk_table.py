"""Projection: a walk -> table, a row for each stop; one stop -> its bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views.bits import Bits
from pasidlab.views.fields import set_fields
from pasidlab.views.iommu_words import WALK
from pasidlab.views.table import Column, Line, Table
from pasidlab.views.unit_words import unit_words
from pasidlab.views.walk_graph import walk_title
from pasidlab.views.walk_path import shape_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["stop_bits", "walk_table"]

_COLUMNS: Final = (
    Column("stop", "stop", mono=True),
    Column("stage", "stage"),
    Column("structure", "structure"),
    Column("level", "level", mono=True),
    Column("address", "address", mono=True),
    Column("words", "words", mono=True, wrap=True),
    Column("fields", "fields that are not zero", wrap=True),
    Column("from", "from"),
)


def walk_table(walk: Walk, stale: Collection[int] = ()) -> Table:
    """Every stop of ``walk``, and how it ended. ``stale``: stops whose cache says something else than memory.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> table = walk_table(m.translate(dsa.rid, 9, 0x1000, caches=False))
    >>> [row.cells[2] for row in table.rows]
    ['root entry', 'context entry', 'PASID directory entry', 'PASID entry', 'fault 0x59']
    """
    rows = [_row(walk, at, at in stale) for at in range(len(walk.stops))]
    return Table("walk-stops", walk_title(walk), _COLUMNS, (*rows, _end(walk)))


def _row(walk: Walk, at: int, stale: bool) -> Line:
    stop = walk.stops[at]
    last = walk.fault is not None and at == len(walk.stops) - 1
    state = "pending" if stale else "fault" if last else "cached" if stop.cached else "live"
    origin = WALK["cache-stale" if stale else "cache"].format(cache=stop.cache) if stop.cached else WALK["memory"]
    cells = (
        str(at + 1),
        unit_words(walk.unit)[f"stage-{stop.stage}"],
        stop.name,
        "" if stop.level is None else str(stop.level),
        f"{stop.address:#x}",
        _hex(stop),
        set_fields(stop_bits(walk, at)),
        origin,
    )
    return Line(f"stop:{at}", cells, state)


def _hex(stop: Stop) -> str:
    """The words, highest first; zero words behind the last one that is not are left out."""
    words = list(stop.words)
    while len(words) > 1 and not words[-1]:
        words.pop()
    digits = stop.layout.word_bits // 4
    return " ".join(f"{word:0{digits}x}" for word in words)


def _end(walk: Walk) -> Line:
    fault, physical = walk.fault, unit_words(walk.unit)["host-physical"]
    if fault is None:
        return Line("end", ("", "", WALK["page"], "", f"{walk.address or 0:#x}", "", physical, ""), "live")
    name = WALK["fault"].format(code=f"{fault.code:#x}")
    return Line("end", ("", "", name, "", "", "", f"{fault.name}: {fault.meaning}", ""), "fault")


def stop_bits(walk: Walk, at: int) -> Bits:
    """One stop, bit by bit; which bits must be zero says the unit that walked."""
    stop, zero = walk.stops[at], None
    if walk.unit is not None:
        nested = shape_of(walk).nested
        zero = walk.unit.reading.must_be_zero(stop.layout, stop.words, stop.level or 0, nested=nested)
    level = WALK["level"].format(level=stop.level) if stop.level is not None else ""
    title = WALK["stop-title"].format(number=at + 1, count=len(walk.stops), name=stop.name, level=level)
    where = WALK["from"].format(cache=stop.cache) if stop.cached else WALK["memory"]
    note = WALK["stop-note"].format(address=f"{stop.address:#x}", where=where, source=stop.layout.note)
    return Bits(f"stop-{at + 1}", title, stop.layout, stop.words, note.rstrip(" ;"), zero)
