"""A walk of an SMMU put into its shape: stream table, context descriptors (through stage 2 when there is one), then the
levels of stage 1, each of them through stage 2 again.

Levels are counted from the last one up: level 3 is the box ``first:1``, level 0 is ``first:4``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.shape import PAGE, Shape, Tracer, Way, end_of
from pasidlab.hardware.iommu.smmuv3.caches import CdLine, SteLine
from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.hardware.iommu.smmuv3.rules import LEAF_LEVEL, SmmuRules, Stage
from pasidlab.hardware.iommu.smmuv3.tables import context_number
from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC, S1_ENTRY, S2_ENTRY, STE, STREAM_TABLE_DESC
from pasidlab.hardware.pcie import RequestKind

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Stop, Walk
    from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters

__all__ = ["Tables", "way_of"]

_BOXES: Final = {STREAM_TABLE_DESC: "l1std", STE: "ste", CD_TABLE_DESC: "l1cd", CD: "cd"}
_NOT_READ: Final = frozenset({SmmuEvent.F_STE_FETCH, SmmuEvent.F_CD_FETCH, SmmuEvent.F_WALK_EABT})
_MAY_LIE_AHEAD: Final = frozenset({SmmuEvent.F_TRANSLATION, SmmuEvent.F_ADDR_SIZE})
"""Events of an entry, or of an address that no table reaches."""
_SPLIT: Final = 2
_HALVES: Final = 55
"""The address bit that chooses between TTB0 and TTB1."""


class Tables:
    """What the entries on the way of a walk say: stream table entry, context descriptor, the tables of both stages."""

    def __init__(self, walk: Walk, rules: SmmuRules) -> None:
        self.request, self.rules = walk.request, rules
        self.ste: SteLine | None = None
        self.cd: CdLine | None = None
        for stop in walk.stops:
            if stop.layout is STE:
                self.ste = SteLine.of(stop.words, stop.address, rules)
            elif stop.layout is CD and self.ste is not None:
                self.cd = CdLine.of(stop.words, stop.address, 0, self.ste, rules)

    @property
    def number(self) -> int | None:
        """The context descriptor that serves the request; ``None``: none does, or it is refused."""
        if self.ste is None or self.ste.bad or self.request.kind is RequestKind.TRANSLATED:
            return None
        found = context_number(self.ste, self.request.pasid)
        return found if isinstance(found, int) else None

    @property
    def first(self) -> Stage | None:
        """The table of stage 1 for the half in which the address lies."""
        if self.cd is None or self.cd.bad:
            return None
        return self.cd.upper if self.request.address >> _HALVES & 1 else self.cd.lower

    @property
    def second(self) -> Stage | None:
        """The table of stage 2, if the request meets it."""
        ste = self.ste
        if ste is None or ste.bad or (self.request.kind is RequestKind.TRANSLATED and ste.eats != _SPLIT):
            return None
        return ste.second

    def shape(self, two_level: bool) -> Shape:
        """The boxes that follow from all that; ``two_level``: the stream table is."""
        ahead, ste = ("l1std", "ste") if two_level else ("ste",), self.ste
        refused = ste is not None and self.number is None and self.request.pasid is not None
        if ste is None or ste.bad or not ste.config or (refused and self.request.kind is not RequestKind.TRANSLATED):
            return Shape((*ahead, "cd"), known=False)
        second = _levels(self.second)
        if self.number is None:
            disabled = ste.stage1 and ste.cdmax and not ste.dss
            return Shape(ahead, (), (), second, known=not disabled)
        steps = ("l1cd", "cd") if ste.split else ("cd",)
        known = self.first is not None
        return Shape((*ahead, *steps), steps if second else (), _levels(self.first), second, known)

    def place(self, step: str, stop: Stop | None = None) -> int:
        """Where a lookup step is read (an intermediate address): ``stop`` is the entry that names it, if one does."""
        ste, number = self.ste, self.number or 0
        if ste is None:
            return 0
        if step == "l1cd":
            return (ste.context & -(8 << max(3, ste.cdmax - ste.split))) + (number >> ste.split) * 8
        if stop is None or stop.layout is not CD_TABLE_DESC:
            return (ste.context & -(CD.size << ste.cdmax)) + number * CD.size
        leaf = CD_TABLE_DESC["L2Ptr"].get(stop.words) & -(CD.size << ste.split)
        return leaf + (number & (1 << ste.split) - 1) * CD.size


def _levels(stage: Stage | None) -> tuple[int, ...]:
    return tuple(range(stage.level, LEAF_LEVEL + 1)) if stage is not None else ()


def way_of(walk: Walk, unit: SmmuRegisters) -> Way:
    """The boxes of a walk."""
    tables = Tables(walk, unit.rules)
    made = _Way(tables, bool(unit.stream_table.split))
    for stop in walk.stops:
        made.add(stop)
    boxes = tuple(made.trace.boxes)
    return Way(made.shape, boxes, made.trace.asked, _end(walk, made, boxes))


def _end(walk: Walk, made: _Way, boxes: tuple[str, ...]) -> str:
    shape, fault = made.shape, walk.fault
    if fault is None:
        return end_of(shape, boxes) if shape.first or shape.second else f"asked:{PAGE}"
    if fault.code in _NOT_READ or (fault.code in _MAY_LIE_AHEAD and made.goes_on):
        return made.trace.next
    if fault.code == SmmuEvent.C_BAD_STREAMID and not boxes:
        return made.trace.next
    return end_of(shape, boxes)


class _Way:
    """The boxes while they are found; ``goes_on``: nothing in the last entry stops the walk."""

    def __init__(self, tables: Tables, two_level: bool) -> None:
        self.tables, self.shape = tables, tables.shape(two_level)
        self.trace = Tracer(self.shape, tables.request.address)
        self.goes_on = True

    def add(self, stop: Stop) -> None:
        """The box of the next stop; on the way, the address that its row asks for."""
        left = LEAF_LEVEL + 1 - (stop.level if stop.level is not None else LEAF_LEVEL)
        if stop.stage == "lookup":
            self._lookup(stop)
        elif stop.stage == "first":
            self._first(stop, min(left, len(self.shape.first) or left))
        else:
            self._second(stop, min(left, len(self.shape.second) or left))

    def _lookup(self, stop: Stop) -> None:
        self.trace.lookup(_BOXES[stop.layout])
        if stop.layout is CD:
            stage = self.tables.first
            if stage is not None:
                self._ask_entry(stage, stage.root, stage.level)
        elif self.shape.behind and stop.layout in (STE, CD_TABLE_DESC) and stop.words[0] & 1:
            self.trace.ask(self.tables.place(self.trace.row, stop))

    def _first(self, stop: Stop, left: int) -> None:
        stage, level = self.tables.first, LEAF_LEVEL + 1 - left
        if stop.layout is not S1_ENTRY or stage is None:
            self.trace.first(left, leaf=True)
            return
        word, output = stop.words[0], stage.output(stop.words[0])
        leaf = level == LEAF_LEVEL or not word & 2
        self.trace.first(left, leaf=leaf)
        self.goes_on = bool(word & 1) and output < stage.limit and (leaf or level < LEAF_LEVEL)
        if not word & 1:
            return
        if leaf:
            inside = (1 << stage.shift(level)) - 1
            self.trace.ask(output & ~inside | self.tables.request.address & inside)
        else:
            self._ask_entry(stage, output, level + 1)

    def _ask_entry(self, stage: Stage, table: int, level: int) -> None:
        """The address of an entry of stage 1."""
        number = (self.tables.request.address & (1 << stage.bits) - 1) >> stage.shift(level)
        if level > stage.level:
            number &= (1 << stage.granule - 3) - 1
        self.trace.ask(table + 8 * number)

    def _second(self, stop: Stop, left: int) -> None:
        stage, level = self.tables.second, LEAF_LEVEL + 1 - left
        word = stop.words[0]
        leaf = stop.layout is not S2_ENTRY or level == LEAF_LEVEL or not word & 2
        self.trace.second(left, leaf=leaf)
        if stop.layout is S2_ENTRY and stage is not None:
            sound = bool(word & 1) and stage.output(word) < stage.limit
            self.goes_on = sound and (
                bool(word & 2) if level == LEAF_LEVEL else bool(word & 2) or level in stage.blocks
            )
