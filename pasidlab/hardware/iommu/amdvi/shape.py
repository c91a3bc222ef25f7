"""A walk of an AMD IOMMU put into its shape: device table entry, GCR3 tables (through the host table with GCR3TRPMode),
then the levels of the guest table, each of them through the host table when there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.amdvi.caches import TLB_ENTRY, DteLine
from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS, CODED_SIZE, HOST_SHIFT, LEAF
from pasidlab.hardware.iommu.shape import PAGE, Shape, Tracer, Way, end_of
from pasidlab.hardware.layouts.amd import DTE, GCR3_ENTRY, V1_PTE, V2_PTE
from pasidlab.hardware.pcie import Access, RequestKind

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["looked_up", "marks", "way_of"]

_A, _D, _PSE = 1 << 5, 1 << 6, 1 << 7
_AHEAD: Final = frozenset(
    reason.name
    for reason in (
        *(Reason.DTE_UNREADABLE, Reason.DTE_OUTSIDE, Reason.GCR3_UNREADABLE, Reason.GUEST_UNREADABLE),
        *(Reason.HOST_UNREADABLE, Reason.GUEST_NOT_CANONICAL, Reason.HOST_BEYOND),
        *(Reason.INTERRUPT_READ, Reason.INTERRUPT_WRITE),
    )
)
"""Reasons that lie at the box behind the last stop: it could not be read, or no address led to it."""


def marks(layout: Layout) -> int:
    """The bits that the unit itself sets in an entry: accessed and dirty."""
    return layout["A"].mask | layout["D"].mask if layout in (V1_PTE, V2_PTE) else 0


def looked_up(line: DteLine, pasid: int | None, unit: AmdRegisters) -> int | None:
    """The PASID whose guest table serves a request; ``None``: the host table alone does."""
    if pasid is None and line.guest and line.giov and unit.lookup().guest and unit.identity.giosup:
        return 0
    return pasid


def way_of(walk: Walk, unit: AmdRegisters) -> Way:
    """The boxes of a walk."""
    made = _Way(walk, unit)
    for stop in walk.stops:
        made.add(stop)
    shape, boxes = made.shape, tuple(made.trace.boxes)
    return Way(shape, boxes, made.trace.asked, _end(walk, made, boxes))


def _end(walk: Walk, made: _Way, boxes: tuple[str, ...]) -> str:
    shape, fault = made.shape, walk.fault
    if fault is None:
        return end_of(shape, boxes) if shape.first or shape.second else f"asked:{PAGE}"
    marking = bool(walk.stops) and walk.stops[-1].stage == "mark"
    if fault.reason in _AHEAD and not marking:
        return made.trace.next
    if fault.reason == Reason.BEYOND.name and not shape.first and not shape.second:
        return f"asked:{PAGE}"
    return boxes[-1] if marking else end_of(shape, boxes)


class _Way:
    """The boxes while they are found."""

    def __init__(self, walk: Walk, unit: AmdRegisters) -> None:
        self.walk, self.unit, self.address = walk, unit, walk.request.address
        found = next((stop for stop in walk.stops if stop.layout is DTE), None)
        self.line = DteLine.of(found.words, found.address) if found is not None else None
        self.pasid = looked_up(self.line, walk.request.pasid, unit) if self.line is not None else None
        self.shape = self._shape()
        self.trace = Tracer(self.shape, self.address)
        self._unmarked: list[tuple[str, int]] = []

    def _shape(self) -> Shape:
        """What the device table entry decides."""
        line, request = self.line, self.walk.request
        if line is None:
            return Shape(("dte",), known=False)
        if not line.valid or request.kind is RequestKind.TRANSLATED:
            return Shape(("dte",))
        if not line.translated or not self.unit.rules.is_encodable(line.words):
            return Shape(("dte",), known=False)
        second, lookup = tuple(range(line.mode, 0, -1)), self.unit.lookup()
        if self.pasid is None:
            return Shape(("dte",), (), (), second)
        if not (line.guest and lookup.guest):
            return Shape(("dte", "gcr3-1"), known=False)
        steps = tuple(f"gcr3-{level}" for level in range(line.glx + 1, 0, -1))
        behind = steps if lookup.guest_tables and line.mode else ()
        return Shape(("dte", *steps), behind, tuple(range(line.levels, 0, -1)), second)

    def add(self, stop: Stop) -> None:
        """The box of the next stop; on the way, the address that its row asks for."""
        if stop.stage == "lookup":
            self._lookup(stop)
        elif stop.stage == "mark":
            self._mark(stop)
        elif stop.layout is TLB_ENTRY:
            left = _level_of_size(TLB_ENTRY["SIZE"].get(stop.words))
            self._first_or_second(stop, left)
        elif stop.stage == "first":
            self._first(stop)
        else:
            below = stop.words[0] >> 9 & 7
            self.trace.second(stop.level or 1, leaf=below in (LEAF, CODED_SIZE), below=below)

    def _first_or_second(self, stop: Stop, left: int) -> None:
        """A TLB answered."""
        if stop.stage == "first":
            self.trace.first(min(left, len(self.shape.first) or 1), leaf=True)
        else:
            self.trace.second(min(left, len(self.shape.second) or 1), leaf=True)

    def _lookup(self, stop: Stop) -> None:
        line, pasid = self.line, self.pasid or 0
        if stop.layout is DTE:
            self.trace.lookup("dte")
            if line is not None and self.shape.behind:
                self.trace.ask(line.gcr3 + (pasid >> 9 * line.glx & 511) * GCR3_ENTRY.size)
            return
        level = stop.level or 1
        self.trace.lookup(f"gcr3-{level}")
        table = stop.words[0] & ADDRESS
        if not stop.words[0] & 1:
            return
        if level > 1 and self.shape.behind:
            self.trace.ask(table + (pasid >> 9 * (level - 2) & 511) * GCR3_ENTRY.size)
        elif level == 1:
            self._ask_entry(table, len(self.shape.first))

    def _ask_entry(self, table: int, level: int) -> None:
        """The guest-physical address of an entry of the guest table."""
        self.trace.ask(table + (self.address >> HOST_SHIFT[level] & 511) * V2_PTE.size)

    def _first(self, stop: Stop) -> None:
        level, word = stop.level or 1, stop.words[0]
        leaf = level == 1 or bool(word & _PSE)
        self.trace.first(level, leaf=leaf)
        write = self.walk.request.access in (Access.WRITE, Access.ATOMIC)
        if not stop.cached and ~word & (_A | (_D if leaf and write else 0)):
            self._unmarked.append((f"first:{level}", level))
        if leaf:
            inside = (1 << HOST_SHIFT[level]) - 1
            self.trace.ask(word & ADDRESS & ~inside | self.address & inside)
        elif word & 1:
            self._ask_entry(word & ADDRESS, level - 1)

    def _mark(self, stop: Stop) -> None:
        """The host table is asked, entry by entry, whether the unit may write to it: each answer ends one question."""
        box = self._unmarked[0][0] if self._unmarked else self.trace.boxes[-1]
        self.trace.again(box)
        answered = stop.layout is TLB_ENTRY or stop.words[0] >> 9 & 7 in (LEAF, CODED_SIZE)
        if answered and self._unmarked:
            self._unmarked.pop(0)


def _level_of_size(size: int) -> int:
    """The level whose entries name pages of ``1 << size`` bytes, or the next smaller one.

    >>> [_level_of_size(size) for size in (12, 16, 21, 30)]
    [1, 1, 2, 3]
    """
    return max(level for level, shift in enumerate(HOST_SHIFT[1:], 1) if shift <= max(size, HOST_SHIFT[1]))
