"""What lies where, found from RTADDR: root, context, PASID directory, PASID tables, page tables of both levels; and the
slots of the queues. See :mod:`pasidlab.hardware.iommu.survey` for what is common to all units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.bits import Field, Layout
from pasidlab.hardware.iommu.survey import FRAME, FRAME_WORDS, QueueSlot, Second, Step, Survey, TableUse
from pasidlab.hardware.iommu.vtd.invalidation import QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.register_file import IQA, IQT, PQA
from pasidlab.hardware.iommu.vtd.rules import ADDRESS, PT_SHIFT, VtdRules
from pasidlab.hardware.layouts.vtd import (
    CONTEXT_ENTRY,
    FL_ENTRY,
    IQA_REG,
    PASID_DIR_ENTRY,
    PASID_ENTRY,
    PGTT,
    ROOT_ENTRY,
    RTADDR_REG,
    SL_ENTRY,
)
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
    from pasidlab.hardware.memory import Memory

__all__ = ["VtdSurvey", "must_be_zero", "queue_slots"]

_POINTER: Final = ~0xFFF
_PS: Final = 1 << 7
_ALL: Final = (1 << 64) - 1
_SCALABLE: Final = 1
_DIRECTORY_SPAN: Final = 64


class VtdSurvey(Survey):
    """All tables behind one root pointer (RTADDR as the unit latched it).

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> survey = VtdSurvey(m.memory, m.unit.root_pointer, m.unit.rules)
    >>> at = m.kernel.iommu.tables[dsa.rid].address(0)
    >>> [(found.use.name, found.number, hex(found.use.rid)) for found in survey.at(at + 8)]
    [('PASID entry', 0, '0x6a08')]
    """

    def __init__(self, memory: Memory, root_pointer: int, rules: VtdRules) -> None:
        super().__init__(memory)
        self._rules = rules
        self._roots: dict[tuple[int, int, int], tuple[int, int, tuple[int, ...]]] = {}
        if RTADDR_REG["TTM"].get((root_pointer,)) == _SCALABLE:
            self._root(root_pointer & _POINTER)
        for rid, pasid, words in self._roots.values():
            self._page_tables(rid, pasid, words)

    # --- lookups ------------------------------------------------------------------------------------------------------

    def _root(self, table: int) -> None:
        words = self.enter(TableUse("root entry", ROOT_ENTRY, table))
        for half, low in enumerate(words):
            if low & 1:
                self._contexts(low & _POINTER, half << 7)

    def _contexts(self, table: int, rid: int) -> None:
        words = self.enter(TableUse("context entry", CONTEXT_ENTRY, table, rid))
        for at, low in enumerate(words[::4]):
            if low & 1:
                pages = max(1, (1 << CONTEXT_ENTRY["PDTS"].get((low,)) + 7) * 8 // FRAME)
                for page in range(pages):
                    self._directory((low & _POINTER) + page * FRAME, rid + at, page * FRAME_WORDS)

    def _directory(self, page: int, rid: int, first: int) -> None:
        use = TableUse("PASID directory entry", PASID_DIR_ENTRY, page, rid, first=first, span=_DIRECTORY_SPAN)
        for at, word in enumerate(self.enter(use)):
            if word & 1:
                self._leaf(word & _POINTER, rid, (first + at) << 6)

    def _leaf(self, table: int, rid: int, pasid: int) -> None:
        words = self.enter(TableUse("PASID entry", PASID_ENTRY, table, rid, pasid, first=pasid))
        for at, low in enumerate(words[::8]):
            if low & 1:
                pgtt, third = low >> 6 & 7, words[8 * at + 2]
                key = (
                    pgtt,
                    low & _POINTER if pgtt != PGTT.FIRST else 0,
                    third & _POINTER if pgtt != PGTT.SECOND else 0,
                )
                if key not in self._roots:
                    self._roots[key] = rid, pasid + at, words[8 * at : 8 * at + 8]

    def named(self, use: TableUse, index: int) -> TableUse:
        """A context table lists devices, a PASID table PASIDs."""
        if use.layout is CONTEXT_ENTRY:
            return use._replace(rid=use.rid + index)
        return use._replace(pasid=(use.pasid or 0) + index) if use.layout is PASID_ENTRY else use

    # --- page tables --------------------------------------------------------------------------------------------------

    def _page_tables(self, rid: int, pasid: int, words: tuple[int, ...]) -> None:
        """The tables that one PASID entry names."""
        pgtt, did = words[0] >> 6 & 7, PASID_ENTRY["DID"].get(words)
        second = self._second(words)
        self.walk_second(second, rid, pasid, did)
        if pgtt == PGTT.FIRST or (pgtt == PGTT.NESTED and second is not None):
            root, levels = words[2] & _POINTER, 5 if PASID_ENTRY["FLPM"].get(words) else 4
            use = TableUse("first-level entry", FL_ENTRY, root, rid, pasid, did, levels, second=second, stage="first")
            self.walk(use._replace(shift=PT_SHIFT[levels]))

    def _second(self, words: tuple[int, ...]) -> Second | None:
        """Root and depth of the second level that a PASID entry names."""
        depth = self._rules.depths.get(PASID_ENTRY["AW"].get(words), 0)
        used = words[0] >> 6 & 7 in (PGTT.SECOND, PGTT.NESTED)
        return (words[0] & _POINTER, depth) if used and depth else None

    def top_of(self, second: Second) -> TableUse:
        """The table that SLPTPTR names."""
        root, depth = second
        use = TableUse("second-level entry", SL_ENTRY, root, level=depth, second=second, stage="second")
        return use._replace(shift=PT_SHIFT[depth])

    def step(self, use: TableUse, word: int) -> Step | None:
        """Present by P, or by R or W; a leaf by PS, or at level 1."""
        if not word & (1 if use.layout is FL_ENTRY else 3):
            return None
        if use.level == 1 or word & _PS:
            return Step(word & ADDRESS, use.shift)
        return Step(word & ADDRESS, PT_SHIFT[use.level - 1], use.level - 1)

    def must_be_zero(self, use: TableUse, words: tuple[int, ...]) -> int:
        """By the unit's rules."""
        return must_be_zero(use.layout, words, self._rules, use.level, nested=use.nested)

    def leads_to(self, use: TableUse, words: tuple[int, ...], key: str) -> tuple[int, Second | None] | None:
        """A nested first level is named by a guest-physical address."""
        found = super().leads_to(use, words, key)
        if found is None or use.layout is not PASID_ENTRY or key != "FLPTPTR":
            return found
        return found[0], self._second(words) if words[0] >> 6 & 7 == PGTT.NESTED else None


# --- queues -----------------------------------------------------------------------------------------------------------


def queue_slots(unit: VtdRegisters, address: int) -> Iterator[QueueSlot]:
    """Descriptors of the invalidation queue, records of the page request queue."""
    registers, memory = unit.registers, unit.memory
    base, size = registers[IQA] & _POINTER, FRAME << (registers[IQA] & 7)
    if base and base <= address < base + size:
        width = 32 if IQA_REG["DW"].get((registers[IQA],)) else 16
        number = (address - base) // width
        words = memory.load_words(base + number * width, width // 8)
        yield _descriptor(words, number, base + number * width, is_next=number == registers[IQT] // width)
    base, size = registers[PQA] & _POINTER, FRAME << (registers[PQA] & 7)
    if base and base <= address < base + size:
        number = (address - base) // PAGE_REQUEST.size
        at, zero = base + number * PAGE_REQUEST.size, PAGE_REQUEST.reserved_mask
        words = memory.load_words(at, PAGE_REQUEST.word_count)
        yield QueueSlot("page request queue", "record", number, "", "", at, PAGE_REQUEST, words, zero)


def _descriptor(words: tuple[int, ...], number: int, at: int, *, is_next: bool) -> QueueSlot:
    queue, noun, decoded = "invalidation queue", "descriptor", decode_descriptor(words)
    if isinstance(decoded, QueueError):
        layout = Layout(noun, 8 * len(words), (Field("TYPE", 0, 3, "descriptor type"),), "")
        what = f"not one ({decoded.name})" if any(words) else "never written"
        return QueueSlot(queue, noun, number, "", what, at, layout, words, 0)
    when = "next" if is_next else "done"
    zero = decoded.layout.reserved_mask
    return QueueSlot(queue, noun, number, when, str(decoded), at, decoded.layout, decoded.words, zero)


# --- bits that must be zero -------------------------------------------------------------------------------------------


def must_be_zero(
    layout: Layout, words: tuple[int, ...], rules: VtdRules, level: int = 0, *, nested: bool = False
) -> int:
    """The bits of a structure that the unit with these ``rules`` demands to be zero, as one mask over all its words.

    >>> from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
    >>> hex(must_be_zero(FL_ENTRY, (0x5001,), VtdRules(VtdIdentity()), level=3))
    '0xf000000000000'
    """
    masks = {ROOT_ENTRY.name: rules.root, CONTEXT_ENTRY.name: rules.context, PASID_DIR_ENTRY.name: (rules.directory,)}
    if layout.name in masks:
        return layout.join(masks[layout.name])
    if layout is PASID_ENTRY:
        return _of_pasid_entry(words, rules)
    if layout is not FL_ENTRY and layout is not SL_ENTRY:
        return layout.reserved_mask
    return _of_paging_entry(layout, words[0], rules, level, nested) if level else 0


def _of_paging_entry(layout: Layout, word: int, rules: VtdRules, level: int, nested: bool) -> int:
    """Another mask for an entry that names a table than for a leaf; where no leaf may be, PS must be zero."""
    masks: tuple[tuple[int, ...], tuple[int, ...]] = rules.first_table, rules.first_leaf
    if layout is SL_ENTRY:
        masks = rules.second_table, rules.second_leaf
    elif nested:
        masks = rules.nested_table, rules.nested_leaf
    mask = masks[level == 1 or bool(word & _PS)][level]
    return masks[0][level] | _PS if mask == _ALL else mask


def _of_pasid_entry(words: tuple[int, ...], rules: VtdRules) -> int:
    """Its own reserved bits, and address bits above the width in the pointers that its translation type uses."""
    mask, pgtt = PASID_ENTRY.join(rules.entry), words[0] >> 6 & 7
    if pgtt in (PGTT.SECOND, PGTT.NESTED):
        mask |= PASID_ENTRY["SLPTPTR"].mask & ~(rules.haw_limit - 1)
    if pgtt in (PGTT.FIRST, PGTT.NESTED):
        limit = rules.haw_limit if pgtt == PGTT.FIRST else rules.mgaw_limit
        mask |= PASID_ENTRY["FLPTPTR"].mask & ~((limit - 1) << 128)
    return mask
