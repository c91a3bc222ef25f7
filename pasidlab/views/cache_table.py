"""Projection: what the caches of the IOMMU and of the devices hold, and whether the tables still say the same.

The comparison is that of the invariants (:mod:`pasidlab.invariants.caches`). Of very many lines those that agree are
counted, not shown; a line that is stale is always shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.invariants.caches import cache_lines
from pasidlab.views.bits import Bits
from pasidlab.views.fields import set_fields
from pasidlab.views.iommu_words import CACHES
from pasidlab.views.numbers import counted
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.invariants.caches import CacheLine
    from pasidlab.machine import Machine

__all__ = ["cache_rows", "cache_table"]

_MOST: Final = 80
_COLUMNS: Final = (
    Column("cache", "cache"),
    Column("tag", "tag"),
    Column("state", "tables"),
    Column("said", "what they say now", wrap=True),
    Column("at", "from / leads to", mono=True),
    Column("fields", "what it holds", wrap=True),
)


def cache_rows(machine: Machine) -> dict[str, CacheLine]:
    """Every cached line by the key of its row; a tag that is there twice is numbered."""
    found: dict[str, CacheLine] = {}
    for line in cache_lines(machine):
        key = f"{line.cache}: {line.tag}"
        while key in found:
            key += "'"
        found[key] = line
    return found


def cache_table(machine: Machine) -> Table:
    """The caches at the present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); table = cache_table(m)
    >>> table.title, table.empty
    ('What the caches hold: 0 lines, none is stale', 'The IOMMU has kept nothing yet: let a device work.')
    """
    rows = cache_rows(machine)
    stale = sum(bool(line.said) for line in rows.values())
    room = max(0, _MOST - stale)
    agreeing = [key for key, line in rows.items() if not line.said][:room]
    shown = [key for key, line in rows.items() if line.said or key in set(agreeing)]
    lines = [_line(key, rows[key]) for key in shown]
    if len(shown) < len(rows):
        more = CACHES["more"].format(count=counted(len(rows) - len(shown), "line"))
        lines.append(Line("more", (more, "", CACHES["agrees"], "", "", ""), "idle"))
    title = CACHES["title"].format(count=counted(len(rows), "line"), stale=_how_many(stale))
    return Table("caches", title, _COLUMNS, tuple(lines), CACHES["empty"])


def _how_many(stale: int) -> str:
    return CACHES["stale-one" if stale == 1 else "stale-many"].format(count=stale) if stale else CACHES["stale-none"]


def _line(key: str, line: CacheLine) -> Line:
    held = set_fields(Bits("line", key, line.layout, line.words)) if line.layout is not None else ""
    state, word = ("live", "agrees") if not line.said else ("fault", "orphan") if line.orphan else ("pending", "stale")
    return Line(key, (line.cache, line.tag, CACHES[word], line.said, f"{line.at:#x}", held), state)
