"""What lies where: every table that a unit's requests can reach, found from its root pointer, and the structure at any
address.

Not a thing of silicon: it is how a person with a debugger reads a dump, done by a program. All tables are walked as the
unit walks them, and each 4 KiB frame remembers as what it was reached. Works on any memory: host-physical behind the
silicon's unit, guest-physical behind the emulated one of a guest. Here is what the three units have in common; how the
tables are found says each vendor's ``survey.py``.

Entries are taken as they stand, wrong ones too: a table that holds nonsense is shown as such. Tables that cannot be
read are left out, and so are what caches hold. Of several ways to one frame the first is kept for each kind of table
and level, so that a memory full of loops is walked in bounded time.

Invariants: nothing is written, nothing is recorded; a frame is read at most once for each kind of table and level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.memory import Memory

__all__ = ["FRAME", "FRAME_WORDS", "Mapped", "Queue", "QueueSlot", "Second", "Step", "Structure", "Survey", "TableUse"]

FRAME: Final = 4096
FRAME_WORDS: Final = FRAME // 8
_POINTER: Final = -FRAME

Second = tuple[int, ...]
"""A second level as its vendor names it: the root, then what says how it is walked."""


class TableUse(NamedTuple):
    """A frame as a part of a table. What does not apply is 0, or ``None``.

    ``stage``: ``lookup``, ``first`` or ``second``. ``rid`` and ``pasid`` are those of the first request that was seen
    to come by (for tables that list devices or PASIDs: of the frame's first entry); ``did`` the tag of its
    translations. ``first`` is the index of the frame's first entry in a table of PASIDs, each of which stands for
    ``span`` PASIDs, or the lowest input address of a page table, whose entries stand for ``1 << shift`` bytes each.
    ``size`` is how many entries the whole table has. ``guest`` is where the frame lies in the guest's memory, if it was
    found through a second level; ``second`` is that level, or, of a table of the second level, the one it belongs to.
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
    second: Second | None = None
    stage: str = "lookup"
    shift: int = 0
    span: int = 1
    size: int = FRAME_WORDS

    @property
    def nested(self) -> bool:
        """Whether it was found through a second level."""
        return self.second is not None and self.stage != "second"


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
        return self.use.first + (self.number << self.use.shift) if self.use.shift else 0


class Mapped(NamedTuple):
    """A page that a page-table entry leads to: by which ``entry``, and the ``input`` address of the byte asked for."""

    entry: Structure
    input: int


class Step(NamedTuple):
    """Where a page-table entry leads: to the table of ``level``, whose entries stand for ``1 << shift`` bytes each; or,
    without a level, to a page of ``1 << shift`` bytes.
    """

    address: int
    shift: int
    level: int | None = None


class QueueSlot(NamedTuple):
    """An entry of one of the queues between software and unit: its ``number``, whether it is ``"next"`` to be written
    or ``"done"`` (empty where nobody can say), and ``what`` it says, as far as that has words.
    """

    queue: str
    noun: str
    number: int
    when: str
    what: str
    address: int
    layout: Layout
    words: tuple[int, ...]
    reserved: int


class Survey(ABC):
    """All tables of one unit at the present step."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._uses: dict[int, dict[tuple[str, int], TableUse]] = {}

    def at(self, address: int) -> list[Structure]:
        """The structures that the byte at ``address`` belongs to: most often none or one."""
        frame, offset = address & _POINTER, address % FRAME
        return [self._structure(use, offset // use.layout.size) for use in self.uses(frame)]

    def uses(self, address: int) -> list[TableUse]:
        """As what the frame around ``address`` was reached."""
        return list(self._uses.get(address >> 12, {}).values())

    def frames(self) -> list[int]:
        """The addresses of all frames in which tables lie, lowest first."""
        return [frame << 12 for frame in sorted(self._uses)]

    def entries(self, use: TableUse) -> list[Structure]:
        """Every entry of a frame."""
        return [self._structure(use, index) for index in range(FRAME // use.layout.size)]

    def mapped(self, address: int) -> list[Mapped]:
        """The page-table entries whose page holds ``address``; through nested tables also from the guest's first
        level.
        """
        found: list[Mapped] = []
        for use in self._page_uses():
            if not use.nested:
                found += self._leaves_to(use, address)
        behind = {(known.entry.use.second, known.input) for known in found if known.entry.use.stage == "second"}
        for use in self._page_uses():
            if use.nested:
                for guest in sorted(guest for second, guest in behind if second == use.second):
                    found += self._leaves_to(use, guest)
        return found

    def through(self, second: Second | None, guest: int) -> int | None:
        """Where a guest-physical address lies by a second level; ``None`` if it is not mapped."""
        use = self.top_of(second) if second is not None else None
        while use is not None:
            index = guest >> use.shift & FRAME_WORDS - 1 if use.size == FRAME_WORDS else guest >> use.shift
            step = self._step_at(use, index)
            if step is None:
                return None
            if step.level is None:
                inside = (1 << step.shift) - 1
                return step.address & ~inside | guest & inside
            use = use._replace(base=step.address, level=step.level, shift=step.shift, size=FRAME_WORDS)
        return None

    def _step_at(self, use: TableUse, index: int) -> Step | None:
        if index >= use.size:
            return None
        try:
            return self.step(use, self._memory.load(use.base + index * 8))
        except BusError:
            return None

    # --- what each vendor knows ---------------------------------------------------------------------------------------

    @abstractmethod
    def step(self, use: TableUse, word: int) -> Step | None:
        """Where an entry of a page table leads; ``None``: it is not present."""

    @abstractmethod
    def must_be_zero(self, use: TableUse, words: tuple[int, ...]) -> int:
        """The bits of an entry that the unit demands to be zero."""

    @abstractmethod
    def top_of(self, second: Second) -> TableUse | None:
        """The top table of a second level; ``None``: the unit could not walk it."""

    def leads_to(self, use: TableUse, words: tuple[int, ...], key: str) -> tuple[int, Second | None] | None:
        """The address that a field of an entry holds, and the second level through which it leads; ``None``: none."""
        field = next((field for field in use.layout if field.name == key and field.shift), None)
        address = field.get(words) if field is not None else 0
        return (address, use.second if use.nested else None) if address else None

    # --- finding ------------------------------------------------------------------------------------------------------

    def walk_second(self, second: Second | None, rid: int, pasid: int | None, did: int) -> None:
        """A second level, and all its tables."""
        use = self.top_of(second) if second is not None else None
        if use is not None:
            self.walk(use._replace(rid=rid, pasid=pasid, did=did))

    def walk(self, use: TableUse | None) -> None:
        """A page table and all below it; one that is nested is named by ``base`` as the guest names it."""
        if use is None:
            return
        for part in range(max(1, use.size // FRAME_WORDS)):
            first = use.first + (part * FRAME_WORDS << use.shift)
            self._walk_frame(self.placed(use._replace(base=use.base + part * FRAME, first=first)))

    def _walk_frame(self, use: TableUse | None) -> None:
        if use is None:
            return
        for index, word in enumerate(self.enter(use)[: use.size]):
            step = self.step(use, word)
            if step is not None and step.level is not None:
                first = use.first + (index << use.shift)
                below = use._replace(base=step.address, level=step.level, shift=step.shift, first=first)
                self._walk_frame(self.placed(below._replace(size=FRAME_WORDS)))

    def placed(self, use: TableUse) -> TableUse | None:
        """A nested table lies where the second level says; any other one where it says itself."""
        if not use.nested:
            return use
        base = self.through(use.second, use.base)
        return use._replace(base=base, guest=use.base) if base is not None else None

    def enter(self, use: TableUse) -> tuple[int, ...]:
        """Remember a frame, and give its words; none if it cannot be read, or was entered before in this role."""
        role, frame = (use.layout.name, use.level), use.base >> 12
        if role in self._uses.get(frame, {}):
            return ()
        try:
            words = self._memory.load_words(use.base & _POINTER, FRAME_WORDS)
        except BusError:
            return ()
        self._uses.setdefault(frame, {})[role] = use._replace(base=use.base & _POINTER)
        return words

    # --- answers ------------------------------------------------------------------------------------------------------

    def _structure(self, use: TableUse, index: int) -> Structure:
        at = use.base + index * use.layout.size
        words = self._memory.load_words(at, use.layout.word_count)
        return Structure(self.named(use, index), index, at, words, self.must_be_zero(use, words))

    def named(self, use: TableUse, index: int) -> TableUse:
        """A frame's use with the requester ID and the PASID of one of its entries."""
        return use

    def _page_uses(self) -> Iterator[TableUse]:
        for known in self._uses.values():
            yield from (use for use in known.values() if use.shift)

    def _leaves_to(self, use: TableUse, address: int) -> Iterator[Mapped]:
        """The entries of one frame that name the page around ``address``."""
        for index, word in enumerate(self._memory.load_words(use.base, FRAME_WORDS)):
            step = self.step(use, word) if word else None
            if step is not None and step.level is None and step.address >> step.shift == address >> step.shift:
                entry = self._structure(use, index)
                yield Mapped(entry, entry.input | address & (1 << use.shift) - 1)


class Queue(NamedTuple):
    """A queue between software and unit: ``entries`` of the size of ``layout`` from ``base`` on, of which number
    ``next`` will be written next. ``read``: what an entry is, and what it says.
    """

    name: str
    noun: str
    base: int
    entries: int
    layout: Layout
    next: int
    read: Callable[[tuple[int, ...]], tuple[Layout, str]]

    def slot(self, memory: Memory, address: int) -> QueueSlot | None:
        """The entry to which the byte at ``address`` belongs."""
        number, size = (address - self.base) // self.layout.size, self.layout.size
        if not self.base or not 0 <= number < self.entries:
            return None
        at = self.base + number * size
        try:
            words = memory.load_words(at, self.layout.word_count)
        except BusError:
            return None
        layout, what = self.read(words) if any(words) else (self.layout, "never written")
        when = "" if not any(words) else "next" if number == self.next else "done"
        return QueueSlot(self.name, self.noun, number, when, what, at, layout, words, layout.reserved_mask)
