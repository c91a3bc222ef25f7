"""The journal: the one door through which the modelled world changes.

Every change is one record ``(cells, key, old, new)``: an attribute of a :class:`~pasidlab.timeline.state.Part`, an item
of a :class:`~pasidlab.timeline.state.Table` or a word of memory. From that single list come undo, redo, "what changed
in this step", and the digest of the state.

Prior art: write-ahead logs, and the undo lists of RaftScope and of model checkers. Rejected: copying the state at each
step (costs memory in proportion to the world), and event sourcing (handlers would exist twice, once to act and once to
replay).

The journal keeps two lists. ``log`` is the past, oldest first; ``undone`` is the future, nearest last. Going back moves
records from one to the other, so that writers always append to ``log`` and need not know where time stands. Both lists
are flat, four slots a record (and ``undone`` is written backwards): a tuple kept for each record would need 80 bytes
instead of 32, and the garbage collector would look at each of them again and again, which at a million records costs
more than all the rest of writing one.

Invariants: applying ``undone`` in order after ``log`` gives the latest state; the digest depends on the present values
of the cells alone, never on the way that led there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Final, Protocol, cast, final

from pasidlab.timeline.encoding import cell_hash

__all__ = ["ABSENT", "Absent", "Cells", "Change", "Journal", "Log"]

_SLOTS = 4
"""How many slots of a flat list a change takes."""


@final
class Absent:
    """The value of a cell that does not exist; its only instance is :data:`ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


class Cells(Protocol):
    """Something with journaled cells: a part, a table, a memory."""

    @property
    def path(self) -> str: ...

    def restore(self, key: Hashable, value: object) -> None:
        """Set a cell to ``value`` (delete it for :data:`ABSENT`) without recording anything."""


Change = tuple[Cells, Hashable, object, object]
_Backwards = tuple[object, object, Hashable, Cells]


class Log:
    """Changes, oldest first, in one flat list.

    ``append`` is the list's ``extend``: it takes one change, a tuple that does not outlive the call.

    >>> from pasidlab.timeline import Table, Timeline
    >>> log = Log(); log.append((Table[str, int](Timeline(), "demo"), "key", ABSENT, 1))
    >>> len(log), list(log)
    (1, [(<Table demo: 0 items>, 'key', ABSENT, 1)])
    """

    __slots__ = ("append", "flat")

    def __init__(self) -> None:
        self.flat: list[object] = []
        self.append: Callable[[Change], None] = self.flat.extend

    def __len__(self) -> int:
        return len(self.flat) // _SLOTS

    def __iter__(self) -> Iterator[Change]:
        return _changes(self.flat)

    def between(self, start: int, end: int | None = None) -> Iterator[Change]:
        """The changes from number ``start`` to before number ``end`` (default: all that follow)."""
        return _changes(self.flat[_SLOTS * start : None if end is None else _SLOTS * end])


def _changes(flat: list[object]) -> Iterator[Change]:
    """Four slots at a time."""
    slots = iter(flat)
    return cast("Iterator[Change]", zip(slots, slots, slots, slots, strict=True))


class Journal:
    """All changes so far, the undone ones, and the digest of the state they lead to."""

    __slots__ = ("_branch", "_digest", "_digested", "log", "undone")

    def __init__(self) -> None:
        self.log = Log()
        self.undone: list[object] = []
        self._branch = 0
        self._digest = 0
        self._digested = 0

    @property
    def position(self) -> int:
        """How many changes lie in the past."""
        return len(self.log)

    def changes(self, start: int, end: int | None = None) -> list[Change]:
        """The records from position ``start`` to ``end`` (default: the present), oldest first."""
        return list(self.log.between(start, end))

    def seek(self, position: int) -> None:
        """Undo or redo until exactly ``position`` changes lie in the past."""
        last = len(self.log) + len(self.undone) // _SLOTS
        if not 0 <= position <= last:
            raise ValueError(f"position must be between 0 and {last}, not {position}")
        if position < len(self.log):
            self._undo(position)
        else:
            self._redo(position)

    def _undo(self, position: int) -> None:
        if position < self._digested:
            self._digest ^= _delta(self.log.between(position, self._digested))
            self._digested = position
        undo = self.log.flat[_SLOTS * position :]
        undo.reverse()
        for _, old, key, cells in cast("Iterator[_Backwards]", _changes(undo)):
            cells.restore(key, old)
        self.undone += undo
        del self.log.flat[_SLOTS * position :]
        self._branch = position

    def _redo(self, position: int) -> None:
        count = position - len(self.log)
        if not count:
            return
        if len(self.log) != self._branch:
            raise ValueError("the future cannot be redone: the past was changed since it was undone")
        redo = self.undone[-_SLOTS * count :]
        redo.reverse()
        for cells, key, _, new in _changes(redo):
            cells.restore(key, new)
        self.log.flat += redo
        del self.undone[-_SLOTS * count :]
        self._branch = len(self.log)

    def bury(self, *roots: str) -> None:
        """Delete every cell of the parts at these paths and below: what dies with its owner is not retired one by one.

        Equal paths of the dead and of their successors would otherwise meet in one digest, where they could cancel out.
        """
        prefixes = tuple(f"{root}." for root in roots)
        newest: dict[tuple[int, Hashable], Change] = {}
        for change in self.log:
            path = change[0].path
            if path in roots or path.startswith(prefixes):
                newest[id(change[0]), change[1]] = change
        for cells, key, _, value in newest.values():
            if value is not ABSENT:
                cells.restore(key, ABSENT)
                self.log.append((cells, key, value, ABSENT))

    def forget_future(self) -> None:
        """Drop the undone changes: the past has taken another turn."""
        self.undone.clear()

    def digest(self) -> str:
        """A 128-bit fingerprint of all cells, as hexadecimal text; equal states have equal digests.

        Incremental: only the changes since the last call are looked at. The digest of a world is the exclusive or of
        one hash a cell, so it does not depend on the order of the changes.
        """
        self._digest ^= _delta(self.log.between(self._digested))
        self._digested = len(self.log)
        return f"{self._digest:032x}"


def _delta(changes: Iterator[Change]) -> int:
    """What takes the digest from before ``changes`` to after them (and back: exclusive or is its own inverse)."""
    net: dict[tuple[int, Hashable], list[object]] = {}
    owners: dict[int, Cells] = {}
    for cells, key, old, new in changes:
        known = net.get((id(cells), key))
        if known is None:
            net[id(cells), key] = [old, new]
            owners[id(cells)] = cells
        else:
            known[1] = new
    delta = 0
    for (owner, key), (old, new) in net.items():
        if old is new:
            continue
        path = owners[owner].path
        for value in (old, new):
            if value is not ABSENT:
                delta ^= cell_hash(path, key, value)
    return delta
