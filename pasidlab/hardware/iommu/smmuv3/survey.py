"""What lies where, found from STRTAB_BASE: stream table, context descriptor tables, page tables of both stages; and the
entries of the three queues. See :mod:`pasidlab.hardware.iommu.survey` for what is common to all units.

Tables are taken to begin at a frame, as every kernel here allocates them. Left out: page tables of 16 and 64 KiB, and
of a linear table of context descriptors all beyond the first 2^16.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.smmuv3.caches import CdLine, SteLine
from pasidlab.hardware.iommu.smmuv3.fault_log import layout_of
from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.hardware.iommu.smmuv3.invalidation import Command, decode_command
from pasidlab.hardware.iommu.smmuv3.page_queue import decode_page_request
from pasidlab.hardware.iommu.smmuv3.register_file import (
    CMDQ_BASE,
    CMDQ_PROD,
    EVTQ_BASE,
    EVTQ_PROD,
    PRIQ_BASE,
    PRIQ_PROD,
)
from pasidlab.hardware.iommu.smmuv3.ring import Ring
from pasidlab.hardware.iommu.smmuv3.rules import LEAF_LEVEL, SmmuRules, Stage
from pasidlab.hardware.iommu.smmuv3.tables import StreamTable
from pasidlab.hardware.iommu.survey import FRAME, Queue, Second, Step, Survey, TableUse
from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC, S1_ENTRY, S2_ENTRY, STE, STREAM_TABLE_DESC
from pasidlab.hardware.layouts.smmu_queue import CMD_SYNC, EVENT, PRI_ENTRY

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters
    from pasidlab.hardware.memory import Memory

__all__ = ["SmmuSurvey", "must_be_zero", "queues"]

_GRANULE: Final = 12
_MOST: Final = 16
_BLOCK_LEVELS: Final = (1, 2)
_WORD: Final = (1 << 64) - 1


class SmmuSurvey(Survey):
    """All tables behind one stream table.

    >>> from pasidlab import Machine
    >>> m = Machine(iommu="smmuv3"); dsa = m.plug_accelerator("dsa0")
    >>> found = m.unit.reading.survey().at(m.kernel.iommu.device_entry(dsa.rid) + 8)
    >>> [(one.use.name, hex(one.use.rid)) for one in found]
    [('stream table entry', '0x6a08')]
    """

    def __init__(self, memory: Memory, streams: StreamTable, rules: SmmuRules) -> None:
        super().__init__(memory)
        self._rules = rules
        base, bits, split = streams
        if not split:
            self._streams(base, 0, 1 << bits)
            return
        use = TableUse("stream table descriptor", STREAM_TABLE_DESC, base, span=1 << split)
        for number, word in self._words(use, 1 << bits - split):
            span = STREAM_TABLE_DESC["span"].get((word,))
            if 0 < span <= split + 1:
                self._streams(STREAM_TABLE_DESC["L2Ptr"].get((word,)), number << split, 1 << span - 1)

    # --- lookups ------------------------------------------------------------------------------------------------------

    def _words(self, use: TableUse, count: int) -> Iterator[tuple[int, int]]:
        """The first words of the entries of a table that are not zero, by their number."""
        size, inside = use.layout.word_count, FRAME // use.layout.size
        for first in range(0, count, inside):
            part = self.named(use, first)._replace(base=use.base + first * use.layout.size, first=use.first + first)
            placed = self.placed(part)
            words = self.enter(placed) if placed is not None else ()
            yield from ((first + at, word) for at, word in enumerate(words[::size][: count - first]) if word)

    def named(self, use: TableUse, index: int) -> TableUse:
        """A stream table lists devices, a table of context descriptors PASIDs."""
        if use.layout in (STE, STREAM_TABLE_DESC):
            return use._replace(rid=use.rid + index * use.span)
        return use._replace(pasid=(use.pasid or 0) + index) if use.layout is CD else use

    def _streams(self, base: int, sid: int, count: int) -> None:
        for number, word in self._words(TableUse("stream table entry", STE, base, sid), count):
            if word & 1:
                at = base + number * STE.size
                self._stream(SteLine.of(self._memory.load_words(at, STE.word_count), at, self._rules), sid + number)

    def _stream(self, ste: SteLine, sid: int) -> None:
        """The tables that one stream table entry names."""
        second = _key(ste.second)
        self.walk_second(second, sid, None, ste.vmid)
        if not ste.stage1 or ste.bad or (ste.second is not None and second is None):
            return
        if not ste.split:
            self._contexts(ste, sid, ste.context, 0, 1 << min(ste.cdmax, _MOST))
            return
        use = TableUse("context descriptor table entry", CD_TABLE_DESC, ste.context, sid, span=1 << ste.split)
        count = 1 << max(0, ste.cdmax - ste.split)
        for number, word in self._words(use._replace(second=second), count):
            if word & 1:
                leaf = CD_TABLE_DESC["L2Ptr"].get((word,))
                self._contexts(ste, sid, leaf, number << ste.split, 1 << ste.split)

    def _contexts(self, ste: SteLine, sid: int, base: int, pasid: int, count: int) -> None:
        second = _key(ste.second)
        use = TableUse("context descriptor", CD, base, sid, pasid, ste.vmid, first=pasid, second=second)
        for number, word in self._words(use, count):
            named = base + number * CD.size
            at = named if second is None else self.through(second, named)
            if word >> 31 & 1 and at is not None:
                words = self._memory.load_words(at, CD.word_count)
                self._context(ste, CdLine.of(words, at, named, ste, self._rules), sid, pasid + number)

    def _context(self, ste: SteLine, cd: CdLine, sid: int, pasid: int) -> None:
        """The page tables of both halves."""
        for stage, first in ((cd.lower, 0), (cd.upper, -1)):
            if stage is not None and stage.granule == _GRANULE:
                start = first << stage.bits & _WORD
                use = TableUse("stage-1 entry", S1_ENTRY, stage.root, sid, pasid, ste.vmid, stage.level, start)
                shift = stage.shift(stage.level)
                nested = use._replace(second=_key(ste.second), stage="first", shift=shift)
                self.walk(nested._replace(size=1 << stage.bits - shift))

    # --- page tables --------------------------------------------------------------------------------------------------

    def top_of(self, second: Second) -> TableUse:
        """The table that S2TTB names; up to 16 tables may lie side by side there."""
        root, level, bits = second
        shift = _GRANULE + (LEAF_LEVEL - level) * 9
        use = TableUse("stage-2 entry", S2_ENTRY, root, level=level, second=second, stage="second", shift=shift)
        return use._replace(size=1 << bits - shift)

    def step(self, use: TableUse, word: int) -> Step | None:
        """Valid by bit 0; a table by bit 1, which is a page at the last level."""
        output = word & 0xFFFF_FFFF_F000
        if not word & 1:
            return None
        if use.level == LEAF_LEVEL:
            return Step(output, use.shift) if word & 2 else None
        if word & 2:
            return Step(output, use.shift - 9, use.level + 1)
        return Step(output & -(1 << use.shift), use.shift) if use.level in _BLOCK_LEVELS else None

    def must_be_zero(self, use: TableUse, words: tuple[int, ...]) -> int:
        """The unit ignores bits that no field owns."""
        return must_be_zero(use.layout)

    def leads_to(self, use: TableUse, words: tuple[int, ...], key: str) -> tuple[int, Second | None] | None:
        """In a nested entry the table of context descriptors is named by an intermediate address."""
        found = super().leads_to(use, words, key)
        if found is None or use.layout is not STE or key != "S1ContextPtr":
            return found
        return found[0], _key(SteLine.of(words, use.base, self._rules).second)


def _key(stage: Stage | None) -> Second | None:
    return (stage.root, stage.level, stage.bits) if stage is not None and stage.granule == _GRANULE else None


def must_be_zero(layout: Layout) -> int:
    """Tables may have anything in bits that no field owns (RES0, ignored); what this model made itself has zero."""
    return 0 if layout in (STE, STREAM_TABLE_DESC, CD, CD_TABLE_DESC, S1_ENTRY, S2_ENTRY) else layout.reserved_mask


# --- queues -----------------------------------------------------------------------------------------------------------


def queues(unit: SmmuRegisters) -> list[Queue]:
    """Command queue, event queue, PRI queue."""
    identity = unit.identity
    rows = (
        ("command queue", "command", CMDQ_BASE, CMDQ_PROD, CMD_SYNC, identity.cmdqs, partial(_command, unit)),
        ("event queue", "record", EVTQ_BASE, EVTQ_PROD, EVENT, identity.evtqs, _event),
        ("PRI queue", "record", PRIQ_BASE, PRIQ_PROD, PRI_ENTRY, identity.priqs, _page_request),
    )
    found = []
    for name, noun, base, prod, layout, most, read in rows:
        if unit.registers.get64(base):
            ring = Ring(unit.registers, unit.memory, base, prod, prod, layout, most)
            following = ring.write_index % (1 << ring.bits)
            found.append(Queue(name, noun, ring.address(0), 1 << ring.bits, layout, following, read))
    return found


def _command(unit: SmmuRegisters, words: tuple[int, ...]) -> tuple[Layout, str]:
    decoded = decode_command(words, unit.identity)
    return (decoded.layout, str(decoded)) if isinstance(decoded, Command) else (CMD_SYNC, "not one (CERROR_ILL)")


def _event(words: tuple[int, ...]) -> tuple[Layout, str]:
    number = words[0] & 0xFF
    known = number in set(SmmuEvent)
    return layout_of(number), SmmuEvent.of(number).name if known else f"event {number:#04x}"


def _page_request(words: tuple[int, ...]) -> tuple[Layout, str]:
    return PRI_ENTRY, str(decode_page_request(words))
