"""What lies where, found from DEV_TAB: device table, GCR3 tables, guest and host page tables; and the entries of
command buffer, event log and PPR log. See :mod:`pasidlab.hardware.iommu.survey` for what is common to all units.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.amdvi.caches import DteLine
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.invalidation import decode_command
from pasidlab.hardware.iommu.amdvi.page_queue import decode_page_request
from pasidlab.hardware.iommu.amdvi.register_file import CMD_BUF, CMD_TAIL, EVT_BUF, EVT_TAIL, PPR_LOG, PPR_TAIL
from pasidlab.hardware.iommu.amdvi.rules import ADDRESS, CODED_SIZE, HOST_SHIFT, LEAF, AmdRules, leaf_shift
from pasidlab.hardware.iommu.amdvi.tables import Lookup
from pasidlab.hardware.iommu.survey import FRAME, Queue, Second, Step, Survey, TableUse
from pasidlab.hardware.layouts.amd import (
    BUFFER_REG,
    DEVICE_TABLE_REG,
    DTE,
    GCR3_ENTRY,
    V1_PTE,
    V2_PTE,
    gcr3_fields,
    gcr3_root,
)
from pasidlab.hardware.layouts.amd_queue import CMD_COMPLETION_WAIT, EVENT, PPR_ENTRY

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters

__all__ = ["AmdSurvey", "must_be_zero", "queues"]

_PSE: Final = 1 << 7
_NAMES_TABLES: Final = DTE["Mode"].mask | DTE["GV"].mask
"""Without these bits of its first word a device table entry leads nowhere."""
_NO_LEAF: Final = 4
"""From this level of a guest table on no entry may name a page."""
_ROOT_FIELDS: Final = ("GCR3_A", "GCR3_B", "GCR3_C")


class AmdSurvey(Survey):
    """All tables behind one device table.

    >>> from pasidlab import Machine
    >>> m = Machine(iommu="amdvi"); dsa = m.plug_accelerator("dsa0")
    >>> found = m.unit.reading.survey().at(m.kernel.iommu.device_entry(dsa.rid) + 8)
    >>> [(one.use.name, hex(one.use.rid)) for one in found]
    [('device table entry', '0x6a08')]
    """

    def __init__(self, lookup: Lookup) -> None:
        super().__init__(lookup.memory)
        self._lookup, self._rules = lookup, lookup.rules
        base, inside = lookup.table & ADDRESS, FRAME // DTE.size
        for page in range(DEVICE_TABLE_REG["Size"].get((lookup.table,)) + 1 if base else 0):
            first = page * inside
            words = self.enter(TableUse("device table entry", DTE, base + page * FRAME, first))
            for number, word in enumerate(words[:: DTE.word_count]):
                if word & 3 == 3 and word & _NAMES_TABLES:
                    at = base + (first + number) * DTE.size
                    self._device(DteLine.of(self._memory.load_words(at, DTE.word_count), at), first + number)

    def named(self, use: TableUse, index: int) -> TableUse:
        """A device table lists devices, the lowest GCR3 table PASIDs."""
        if use.layout is DTE:
            return use._replace(rid=use.rid + index)
        lowest = use.layout is GCR3_ENTRY and use.level == 1
        return use._replace(pasid=(use.pasid or 0) + index) if lowest else use

    def _device(self, line: DteLine, rid: int) -> None:
        """The tables that one device table entry names."""
        second = _key(line)
        self.walk_second(second, rid, None, line.did)
        if line.guest and line.glx < 3:
            behind = second if self._lookup.guest_tables else None
            self._gcr3(
                line, TableUse("GCR3 entry", GCR3_ENTRY, line.gcr3, rid, 0, line.did, line.glx + 1, 0, None, behind)
            )

    def _gcr3(self, line: DteLine, use: TableUse) -> None:
        """A table of GCR3 entries and all below it."""
        spanned = use._replace(span=1 << 9 * (use.level - 1))
        placed = self.placed(spanned)
        for number, word in enumerate(self.enter(placed) if placed is not None else ()):
            if not word & 1:
                continue
            pasid = (use.first + number) * spanned.span
            if use.level > 1:
                level = use.level - 1
                below = use._replace(base=word & ADDRESS, level=level, first=(use.first + number) << 9, pasid=pasid)
                self._gcr3(line, below)
            else:
                root, levels = word & ADDRESS, line.levels
                found = TableUse("guest entry", V2_PTE, root, use.rid, pasid, line.did, levels, second=_key(line))
                self.walk(found._replace(stage="first", shift=HOST_SHIFT[levels]))

    # --- page tables --------------------------------------------------------------------------------------------------

    def top_of(self, second: Second) -> TableUse:
        """The table that HostRoot names."""
        root, mode = second
        use = TableUse("host entry", V1_PTE, root, level=mode, second=second, stage="second")
        return use._replace(shift=HOST_SHIFT[mode])

    def step(self, use: TableUse, word: int) -> Step | None:
        """A host entry names the level below itself, a guest entry is a page by PSE, or at level 1."""
        if not word & 1:
            return None
        if use.layout is V2_PTE:
            if use.level == 1 or word & _PSE:
                return Step(word & ADDRESS & -(1 << use.shift), use.shift)
            return Step(word & ADDRESS, HOST_SHIFT[use.level - 1], use.level - 1)
        below = word >> 9 & 7
        if below in (LEAF, CODED_SIZE):
            shift = leaf_shift(word, use.level)
            return Step(word & ADDRESS & -(1 << shift), shift) if shift is not None else None
        return Step(word & ADDRESS, HOST_SHIFT[below], below) if below < use.level else None

    def must_be_zero(self, use: TableUse, words: tuple[int, ...]) -> int:
        """By the unit's rules."""
        return must_be_zero(use.layout, words, self._rules, use.level, nested=use.nested)

    def leads_to(self, use: TableUse, words: tuple[int, ...], key: str) -> tuple[int, Second | None] | None:
        """The root of the GCR3 table lies in three fields, each of which leads there."""
        if use.layout is DTE and key in _ROOT_FIELDS and gcr3_root(words):
            line = DteLine.of(words)
            return line.gcr3, _key(line) if self._lookup.guest_tables else None
        return super().leads_to(use, words, key)


def _key(line: DteLine) -> Second | None:
    return (line.root, line.mode) if 0 < line.mode < CODED_SIZE else None


def must_be_zero(
    layout: Layout, words: tuple[int, ...], rules: AmdRules, level: int = 0, *, nested: bool = False
) -> int:
    """The bits of a structure that the unit with these ``rules`` demands to be zero, as one mask over all its words.

    >>> from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
    >>> hex(must_be_zero(V2_PTE, (0x5081,), AmdRules(AmdIdentity()), level=4))
    '0xf000000000080'
    """
    if layout is DTE:
        roots = rules.wide | DTE.join(DTE.encode(**gcr3_fields(rules.wide)))
        return DTE.join(rules.dte) | roots if words[0] & 1 else 0
    if layout is GCR3_ENTRY:
        return rules.gcr3 & ~(rules.wide if nested else 0)
    if layout is V1_PTE:
        return rules.host
    if layout is not V2_PTE:
        return layout.reserved_mask
    large = _PSE if level >= _NO_LEAF else rules.guest_leaf[level] if words[0] & _PSE else 0
    return large | (0 if nested else rules.wide)


# --- queues -----------------------------------------------------------------------------------------------------------


def queues(unit: AmdRegisters) -> list[Queue]:
    """Command buffer, event log, PPR log."""
    rows = (
        ("command buffer", "command", CMD_BUF, CMD_TAIL, CMD_COMPLETION_WAIT, partial(_command, unit)),
        ("event log", "entry", EVT_BUF, EVT_TAIL, EVENT, _event),
        ("PPR log", "entry", PPR_LOG, PPR_TAIL, PPR_ENTRY, _page_request),
    )
    found = []
    for name, noun, base, tail, layout, read in rows:
        register = (unit.registers[base],)
        address, entries = BUFFER_REG["Base"].get(register), 1 << BUFFER_REG["Length"].get(register)
        if address:
            following = unit.registers[tail] // layout.size % entries
            found.append(Queue(name, noun, address, entries, layout, following, read))
    return found


def _command(unit: AmdRegisters, words: tuple[int, ...]) -> tuple[Layout, str]:
    decoded = decode_command(words, unit.identity)
    return (decoded.layout, str(decoded)) if decoded is not None else (CMD_COMPLETION_WAIT, "not one (illegal)")


def _event(words: tuple[int, ...]) -> tuple[Layout, str]:
    return EVENT, str(EventRecord.of(words))


def _page_request(words: tuple[int, ...]) -> tuple[Layout, str]:
    return PPR_ENTRY, str(decode_page_request(words))
