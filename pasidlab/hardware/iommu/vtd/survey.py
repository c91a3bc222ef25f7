"""What lies where: every table that a unit's requests can reach, found from RTADDR, and the structure at any address.

Not a thing of silicon: it is how a person with a debugger reads a dump, done by a program. All tables are walked as
the unit walks them (root, context, PASID directory, PASID tables, page tables of both levels), and each 4 KiB frame
remembers as what it was reached. Works on any memory: host-physical behind the silicon's unit, guest-physical behind
the emulated one of a guest.

Entries are taken as they stand, wrong ones too: a table that holds nonsense is shown as such. Tables that cannot be
read are left out, and so are what caches hold. Of several ways to one frame the first is kept for each kind of table
and level, so that a memory full of loops is walked in bounded time.

Invariants: nothing is written, nothing is recorded; a frame is read at most once for each kind of table and level.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.vtd.rules import ADDRESS, PT_SHIFT, VtdRules
from pasidlab.hardware.layouts.vtd import (
    CONTEXT_ENTRY,
    FL_ENTRY,
    PASID_DIR_ENTRY,
    PASID_ENTRY,
    PGTT,
    ROOT_ENTRY,
    RTADDR_REG,
    SL_ENTRY,
)

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.memory import Memory

__all__ = ["Mapped", "Structure", "Survey", "TableUse", "must_be_zero"]

_FRAME: Final = 4096
_WORDS: Final = _FRAME // 8
_POINTER: Final = ~0xFFF
_PS: Final = 1 << 7
_ALL: Final = (1 << 64) - 1
_SCALABLE: Final = 1


class TableUse(NamedTuple):
    """A frame as a part of a table. What does not apply is 0, or ``None``.

    ``rid`` and ``pasid`` are those of the first request that was seen to come by (for tables that list devices or
    PASIDs: of the frame's first entry). ``first`` is the index of the frame's first entry in a directory, or the
    lowest input address of a page table. ``guest`` is where a nested first-level table lies in the guest's memory;
    ``second`` the second level (root, depth) behind it.
    """

    name: str
    layout: Layout
    base: int
    rid: int = 0
    pasid: int | None = None
    did: int = 0
    level: int = 0
    first: int = 0
    guest: int | None = None
    second: tuple[int, int] | None = None


class Structure(NamedTuple):
    """One entry of a table: its number in its frame, where it is, its words, the bits that must be zero."""

    use: TableUse
    number: int
    address: int
    words: tuple[int, ...]
    reserved: int

    @property
    def input(self) -> int:
        """Of a page-table entry: the lowest address that is translated by it."""
        return self.use.first + (self.number << PT_SHIFT[self.use.level]) if self.use.level else 0


class Mapped(NamedTuple):
    """A page that a page-table entry leads to: by which ``entry``, and the ``input`` address of the byte asked for."""

    entry: Structure
    input: int


class Survey:
    """All tables behind one root pointer (RTADDR as the unit latched it).

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> survey = Survey(m.memory, m.unit.root_pointer, m.unit.rules)
    >>> at = m.kernel.iommu.tables[dsa.rid].address(0)
    >>> [(found.use.name, found.number, hex(found.use.rid)) for found in survey.at(at + 8)]
    [('PASID entry', 0, '0x6a08')]
    """

    def __init__(self, memory: Memory, root_pointer: int, rules: VtdRules) -> None:
        self._memory, self._rules = memory, rules
        self._uses: dict[int, dict[tuple[str, int], TableUse]] = {}
        self._roots: dict[tuple[int, int, int], tuple[int, int, tuple[int, ...]]] = {}
        if RTADDR_REG["TTM"].get((root_pointer,)) == _SCALABLE:
            self._root(root_pointer & _POINTER)
        for rid, pasid, words in self._roots.values():
            self._page_tables(rid, pasid, words)

    def at(self, address: int) -> list[Structure]:
        """The structures that the byte at ``address`` belongs to: most often none or one."""
        frame, offset = address & _POINTER, address & 0xFFF
        return [self._structure(use, offset // use.layout.size) for use in self.uses(frame)]

    def uses(self, address: int) -> list[TableUse]:
        """As what the frame around ``address`` was reached."""
        return list(self._uses.get(address >> 12, {}).values())

    def frames(self) -> list[int]:
        """The addresses of all frames in which tables lie, lowest first."""
        return [frame << 12 for frame in sorted(self._uses)]

    def entries(self, use: TableUse) -> list[Structure]:
        """Every entry of a frame."""
        return [self._structure(use, index) for index in range(_FRAME // use.layout.size)]

    def mapped(self, address: int) -> list[Mapped]:
        """The page-table entries whose page holds ``address``; through nested tables also from the guest's first
        level.
        """
        found: list[Mapped] = []
        for use in self._page_uses():
            if use.second is None:
                found += self._leaves_to(use, address)
        behind = {(known.entry.use.did, known.input) for known in found if known.entry.use.layout is SL_ENTRY}
        for use in self._page_uses():
            if use.second is not None:
                for did, guest in sorted(behind):
                    found += self._leaves_to(use, guest) if use.did == did else []
        return found

    # --- lookups ------------------------------------------------------------------------------------------------------

    def _root(self, table: int) -> None:
        words = self._enter(TableUse("root entry", ROOT_ENTRY, table))
        for half, low in enumerate(words):
            if low & 1:
                self._contexts(low & _POINTER, half << 7)

    def _contexts(self, table: int, rid: int) -> None:
        words = self._enter(TableUse("context entry", CONTEXT_ENTRY, table, rid))
        for at, low in enumerate(words[::4]):
            if low & 1:
                pages = max(1, (1 << CONTEXT_ENTRY["PDTS"].get((low,)) + 7) * 8 // _FRAME)
                for page in range(pages):
                    self._directory((low & _POINTER) + page * _FRAME, rid + at, page * _WORDS)

    def _directory(self, page: int, rid: int, first: int) -> None:
        for at, word in enumerate(
            self._enter(TableUse("PASID directory entry", PASID_DIR_ENTRY, page, rid, first=first))
        ):
            if word & 1:
                self._leaf(word & _POINTER, rid, (first + at) << 6)

    def _leaf(self, table: int, rid: int, pasid: int) -> None:
        words = self._enter(TableUse("PASID entry", PASID_ENTRY, table, rid, pasid))
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

    # --- page tables --------------------------------------------------------------------------------------------------

    def _page_tables(self, rid: int, pasid: int, words: tuple[int, ...]) -> None:
        """The tables that one PASID entry names."""
        pgtt, did = words[0] >> 6 & 7, PASID_ENTRY["DID"].get(words)
        depth = self._rules.depths.get(PASID_ENTRY["AW"].get(words), 0)
        second = (words[0] & _POINTER, depth) if pgtt in (PGTT.SECOND, PGTT.NESTED) and depth else None
        if second is not None:
            self._walk(TableUse("second-level entry", SL_ENTRY, second[0], rid, pasid, did, depth))
        if pgtt == PGTT.FIRST or (pgtt == PGTT.NESTED and second is not None):
            root, levels = words[2] & _POINTER, 5 if PASID_ENTRY["FLPM"].get(words) else 4
            use = TableUse("first-level entry", FL_ENTRY, root, rid, pasid, did, levels)
            self._walk(self._behind(use._replace(second=second), root) if second is not None else use)

    def _walk(self, use: TableUse | None) -> None:
        """A page table and all below it."""
        if use is None or (use.layout.name, use.level) in self._uses.get(use.base >> 12, {}):
            return
        present = 1 if use.layout is FL_ENTRY else 3
        for index, word in enumerate(self._enter(use)):
            if word & present and use.level > 1 and not word & _PS:
                first = use.first + (index << PT_SHIFT[use.level])
                below = use._replace(base=word & ADDRESS, level=use.level - 1, first=first)
                self._walk(below if use.second is None else self._behind(below, word & ADDRESS))

    def _behind(self, use: TableUse, guest: int) -> TableUse | None:
        """A nested table: named by a guest-physical address, it lies where the second level says."""
        base = self.through(use.second, guest) if use.second is not None else None
        return use._replace(base=base, guest=guest) if base is not None else None

    def through(self, second: tuple[int, int], guest: int) -> int | None:
        """Where a guest-physical address lies by a second level (root, depth); ``None`` if it is not mapped."""
        table, depth = second
        for level in range(depth, 0, -1):
            try:
                word = self._memory.load(table + (guest >> PT_SHIFT[level] & 511) * 8)
            except BusError:
                return None
            if not word & 3:
                return None
            if level == 1 or word & _PS:
                inside = (1 << PT_SHIFT[level]) - 1
                return word & ADDRESS & ~inside | guest & inside
            table = word & ADDRESS
        return None

    def _enter(self, use: TableUse) -> tuple[int, ...]:
        """Remember a frame, and give its words; none if it cannot be read, or was entered before in this role."""
        role = use.layout.name, use.level
        if role in self._uses.get(use.base >> 12, {}):
            return ()
        try:
            words = self._memory.load_words(use.base, _WORDS)
        except BusError:
            return ()
        self._uses.setdefault(use.base >> 12, {})[role] = use
        return words

    # --- answers ------------------------------------------------------------------------------------------------------

    def _structure(self, use: TableUse, index: int) -> Structure:
        at = use.base + index * use.layout.size
        words = self._memory.load_words(at, use.layout.word_count)
        reserved = must_be_zero(use.layout, words, self._rules, use.level, nested=use.second is not None)
        shown = use
        if use.layout is CONTEXT_ENTRY:
            shown = use._replace(rid=use.rid + index)
        elif use.layout is PASID_ENTRY:
            shown = use._replace(pasid=(use.pasid or 0) + index)
        return Structure(shown, index, at, words, reserved)

    def _page_uses(self) -> Iterator[TableUse]:
        for known in self._uses.values():
            yield from (use for use in known.values() if use.level)

    def _leaves_to(self, use: TableUse, address: int) -> Iterator[Mapped]:
        """The entries of one frame that name the page around ``address``."""
        present, shift = 1 if use.layout is FL_ENTRY else 3, PT_SHIFT[use.level]
        page = (address & ADDRESS) >> shift
        for index, word in enumerate(self._memory.load_words(use.base, _WORDS)):
            if (word & ADDRESS) >> shift == page and word & present and (use.level == 1 or word & _PS):
                entry = self._structure(use, index)
                yield Mapped(entry, entry.input | address & (1 << shift) - 1)


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
