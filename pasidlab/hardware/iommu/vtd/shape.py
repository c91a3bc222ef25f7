"""A walk of a VT-d unit put into its shape: lookup of the PASID entry, then the levels that this entry asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.shape import PAGE, Shape, Way, end_of
from pasidlab.hardware.iommu.vtd.faults import FaultReason as Reason
from pasidlab.hardware.iommu.vtd.rules import PT_SHIFT
from pasidlab.hardware.layouts.vtd import (
    CONTEXT_ENTRY,
    FL_ENTRY,
    PASID_DIR_ENTRY,
    PASID_ENTRY,
    PGTT,
    ROOT_ENTRY,
    SL_ENTRY,
)

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["marks", "shape_of", "way_of"]

_LOOKUP: Final = {ROOT_ENTRY: "root", CONTEXT_ENTRY: "context", PASID_DIR_ENTRY: "directory", PASID_ENTRY: "entry"}
_STEPS: Final = tuple(_LOOKUP.values())
_PS: Final = 1 << 7
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_NOT_READ: Final = frozenset(
    {Reason.RTA_1, Reason.RTA_2, Reason.RTA_3, Reason.RTA_4, Reason.SRT_1, Reason.SCT_1, Reason.SPD_1, Reason.SPT_1}
    | {Reason.SFS_1, Reason.SFS_4, Reason.SFS_5, Reason.SSS_1, Reason.SSS_4, Reason.SGN_1, Reason.SGN_5}
)
"""Faults that lie at the box behind the last stop: it could not be read, or no address led to it."""
_AT_RESULT: Final = frozenset({Reason.SGN_4, Reason.SGN_8})
_MARKS: Final = {
    FL_ENTRY.name: FL_ENTRY["A"].mask | FL_ENTRY["D"].mask | FL_ENTRY["EA"].mask,
    SL_ENTRY.name: SL_ENTRY["A"].mask | SL_ENTRY["D"].mask,
}


def marks(layout: Layout) -> int:
    """The bits that the unit itself sets in an entry: accessed and dirty."""
    return _MARKS.get(layout.name, 0)


def shape_of(walk: Walk) -> Shape:
    """The shape that the PASID entry decides; without one, that of a mere lookup."""
    for stop in walk.stops:
        if stop.layout is PASID_ENTRY:
            fields = stop.fields()
            pgtt = fields["PGTT"]
            first = (5 if fields["FLPM"] else 4) if pgtt in (PGTT.FIRST, PGTT.NESTED) else 0
            second = fields["AW"] + 2 if pgtt in (PGTT.SECOND, PGTT.NESTED) and fields["AW"] in (1, 2, 3) else 0
            return Shape(_STEPS, (), _down(first), _down(second)) if fields["P"] else Shape(_STEPS, known=False)
    return Shape(_STEPS, known=False)


def _down(depth: int) -> tuple[int, ...]:
    return tuple(range(depth, 0, -1))


def way_of(walk: Walk) -> Way:
    """The boxes of a walk."""
    made = _Way(walk, shape_of(walk))
    for stop in walk.stops:
        made.add(stop)
    boxes = tuple(made.boxes)
    return Way(made.shape, boxes, made.asked, _end(walk, made.shape, boxes))


def _end(walk: Walk, shape: Shape, boxes: tuple[str, ...]) -> str:
    fault = walk.fault
    if fault is None:
        through = not shape.first and not shape.second
        return f"asked:{PAGE}" if through else end_of(shape, boxes)
    return "result" if fault.code in _AT_RESULT else end_of(shape, boxes, fault.code in _NOT_READ)


class _Way:
    """The boxes while they are found; ``row`` is how many levels of the first level are to go."""

    def __init__(self, walk: Walk, shape: Shape) -> None:
        self.shape, self.address = shape, walk.request.address
        self.row = len(shape.first) if shape.nested else 0
        self.boxes: list[str] = []
        self.asked: dict[str, int] = {} if shape.nested else {f"asked:{PAGE}": self.address}

    def add(self, stop: Stop) -> None:
        """The box of the next stop; on the way, the address that its row asks for."""
        if stop.stage == "lookup":
            self.boxes.append(_LOOKUP.get(stop.layout, stop.name))
            if stop.layout is PASID_ENTRY:
                self._ask(PASID_ENTRY["FLPTPTR"].get(stop.words))
        elif stop.stage == "first":
            self.boxes.append(f"first:{stop.level}")
            if stop.layout is FL_ENTRY:
                self._below(stop)
        elif stop.stage == "mark":
            last = self.boxes[-1]
            self.boxes.append(last if last.startswith("first:") else f"first:{self.row + 1}")
        else:
            self.boxes.append(f"second:{self.row}:{stop.level}")

    def _below(self, stop: Stop) -> None:
        level, word = stop.level or 1, stop.words[0]
        self.row = 0 if level == 1 or word & _PS else level - 1
        if word & 1:
            self._ask(word & _ADDRESS, level)

    def _ask(self, table: int, leaf: int = 1) -> None:
        """The guest-physical address that the row is about: an entry in a table, or at last the page."""
        if self.shape.nested:
            inside = (1 << PT_SHIFT[leaf]) - 1
            entry = table + (self.address >> PT_SHIFT[self.row] & 511) * 8
            page = table & ~inside | self.address & inside
            self.asked[f"asked:{self.row}"] = entry if self.row else page
