"""The way of a walk: which boxes it would pass from the first to the last, and which of its stops belongs to which box.

A walk has a shape: how many levels its PASID entry asks for. The boxes follow from the shape alone, never from the
outcome, so that nothing moves while one walk is stepped through, or when the next one of the same kind ends otherwise.
Boxes that the walk does not come to are there all the same: behind a fault, above what a cache has answered, below a
large page.

Keys: ``root``, ``context``, ``directory``, ``entry``; ``first:3`` is the first-level entry of level 3; ``second:3:4``
is the second-level entry of level 4 on the way to the first-level table of level 3, ``second:0:4`` that on the way to
the page; ``asked:3`` is the guest-physical address of the first-level entry of level 3, ``asked:0`` that of the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.iommu.vtd.faults import FaultReason as Reason
from pasidlab.hardware.iommu.vtd.rules import PT_SHIFT
from pasidlab.hardware.layouts.vtd import (
    CONTEXT_ENTRY,
    FL_ENTRY,
    PASID_DIR_ENTRY,
    PASID_ENTRY,
    PGTT,
    ROOT_ENTRY,
)

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Walk

__all__ = ["Shape", "WalkPath", "shape_of"]

_LOOKUP: Final = {ROOT_ENTRY: "root", CONTEXT_ENTRY: "context", PASID_DIR_ENTRY: "directory", PASID_ENTRY: "entry"}
_PS: Final = 1 << 7
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_NOT_READ: Final = frozenset(
    {Reason.RTA_1, Reason.RTA_2, Reason.RTA_3, Reason.RTA_4, Reason.SRT_1, Reason.SCT_1, Reason.SPD_1, Reason.SPT_1}
    | {Reason.SFS_1, Reason.SFS_4, Reason.SFS_5, Reason.SSS_1, Reason.SSS_4, Reason.SGN_1, Reason.SGN_5}
)
"""Faults that lie at the box behind the last stop: it could not be read, or no address led to it."""
_AT_RESULT: Final = frozenset({Reason.SGN_4, Reason.SGN_8})


class Shape(NamedTuple):
    """How deep a walk is: levels of the first and of the second level; 0 where there are none."""

    first: int
    second: int
    known: bool = True

    @property
    def nested(self) -> bool:
        """Whether each first-level table is found through the second level."""
        return bool(self.first and self.second)


def shape_of(walk: Walk) -> Shape:
    """The shape that the PASID entry decides; without one, that of a mere lookup."""
    for stop in walk.stops:
        if stop.layout is PASID_ENTRY:
            fields = stop.fields()
            pgtt = fields["PGTT"]
            first = (5 if fields["FLPM"] else 4) if pgtt in (PGTT.FIRST, PGTT.NESTED) else 0
            second = fields["AW"] + 2 if pgtt in (PGTT.SECOND, PGTT.NESTED) and fields["AW"] in (1, 2, 3) else 0
            return Shape(first, second) if fields["P"] else Shape(0, 0, known=False)
    return Shape(0, 0, known=False)


class WalkPath:
    """The boxes of a walk: ``order`` as they are passed, ``rows`` as they are drawn, and the box of each stop.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); pasid = app.bind(dsa)
    >>> path = WalkPath(m.translate(dsa.rid, pasid, app.buffer(1), caches=False))
    >>> path.rows[1]
    ('asked:0', 'first:4', 'first:3', 'first:2', 'first:1', 'result')
    >>> path.boxes
    ('root', 'context', 'directory', 'entry', 'first:4', 'first:3', 'first:2', 'first:1')
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.shape = shape_of(walk)
        self.rows = (("request", "root", "context", "directory", "entry"), *_rows(self.shape))
        self.order = tuple(key for row in self.rows for key in row)
        self.guest: dict[str, int] = {}
        self.boxes = self._boxes()

    def _boxes(self) -> tuple[str, ...]:
        """The box of each stop; on the way, the address that each row asks for."""
        found: list[str] = []
        row = self.shape.first if self.shape.nested else 0
        if not self.shape.nested:
            self.guest["asked:0"] = self.walk.request.address
        for stop in self.walk.stops:
            if stop.stage == "lookup":
                found.append(_LOOKUP.get(stop.layout, stop.name))
                if stop.layout is PASID_ENTRY and self.shape.nested:
                    self._ask(row, PASID_ENTRY["FLPTPTR"].get(stop.words))
            elif stop.stage == "first":
                found.append(f"first:{stop.level}")
                if stop.layout is FL_ENTRY:
                    row = 0 if stop.level == 1 or stop.words[0] & _PS else (stop.level or 1) - 1
                    if stop.words[0] & 1:
                        self._ask(row, stop.words[0] & _ADDRESS, stop.level or 1)
            elif stop.stage == "mark":
                found.append(found[-1] if found[-1].startswith("first:") else f"first:{row + 1}")
            else:
                found.append(f"second:{row}:{stop.level}")
        return tuple(found)

    def _ask(self, row: int, table: int, leaf: int = 1) -> None:
        """The guest-physical address that a row is about: an entry in a table, or at last the page."""
        if self.shape.nested:
            address = self.walk.request.address
            inside = (1 << PT_SHIFT[leaf]) - 1
            entry = table + (address >> PT_SHIFT[row] & 511) * 8 if row else table & ~inside | address & inside
            self.guest[f"asked:{row}"] = entry

    @property
    def culprit(self) -> str:
        """The box at which a fault lies; empty if the walk led to an address."""
        return "" if self.walk.fault is None else self.end

    @property
    def end(self) -> str:
        """The last box that the walk came to: from there it leads to the result."""
        fault = self.walk.fault
        reached = max((self.order.index(box) for box in self.boxes if box in self.order), default=0)
        if fault is None:
            through = not self.shape.first and not self.shape.second
            return self.order[-2] if through else self.order[reached]
        if fault.code in _AT_RESULT:
            return "result"
        return self.order[min(reached + 1, len(self.order) - 1)] if fault.code in _NOT_READ else self.order[reached]


def _rows(shape: Shape) -> list[tuple[str, ...]]:
    """The boxes behind the PASID entry, in rows."""
    second = {row: tuple(f"second:{row}:{level}" for level in _down(shape.second)) for row in range(shape.first + 1)}
    if shape.nested:
        tables = [(f"asked:{row}", *second[row], f"first:{row}") for row in _down(shape.first)]
        return [*tables, ("asked:0", *second[0], "result")]
    first = tuple(f"first:{level}" for level in _down(shape.first))
    return [("asked:0", *first, *second[0], "result")]


def _down(depth: int) -> range:
    return range(depth, 0, -1)
