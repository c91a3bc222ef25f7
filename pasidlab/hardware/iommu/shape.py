"""The shape of a walk, for people who look at it: which places it could pass, and at which of them each stop is.

Not a thing of silicon. A walk has *boxes*: one for each structure that it could read. They follow from what the tables
ask for (how many levels, what is found through the second level), never from the outcome, so that nothing moves while
a walk is stepped through, or when the next one of the same kind ends otherwise. Boxes that the walk does not come to
are there all the same: behind a fault, above what a cache has answered, below a large page.

Keys of boxes: the names of the lookup steps (VT-d: ``root``, ``context``, ``directory``, ``entry``; SMMUv3: ``l1std``,
``ste``, ``l1cd``, ``cd``; AMD: ``dte``, ``gcr3-3`` to ``gcr3-1``). ``first:3`` is the first-level entry with three
levels to go (1: the last one, whatever the architecture calls it); ``second:3:4`` is the second-level entry with four
levels to go on the way to ``first:3``, ``second:cd:4`` that on the way to the lookup step ``cd``, ``second:0:4`` that
on the way to the page; ``asked:3`` is the guest-physical address of ``first:3``, ``asked:0`` that of the page.

Each vendor has a ``shape.py`` that makes a :class:`Way` of a walk; pictures and texts know only this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PAGE", "UNKNOWN", "Shape", "Tracer", "Way", "end_of"]

PAGE: Final = "0"
"""The row of a nested walk that finds the page."""


class Shape(NamedTuple):
    """Which boxes there are: the steps of the ``lookup``, of which ``behind`` are found through the second level, and
    the numbers of the levels of ``first`` and ``second``, from the root down. ``known``: the tables said so.

    >>> Shape(("ste", "cd"), ("cd",), (2, 3), (3,)).rows[1:]
    (('asked:cd', 'second:cd:1', 'cd'), ('asked:2', 'second:2:1', 'first:2'), ('asked:1', 'second:1:1', 'first:1'), \
('asked:0', 'second:0:1', 'result'))
    """

    lookup: tuple[str, ...]
    behind: tuple[str, ...] = ()
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    known: bool = True

    @property
    def nested(self) -> bool:
        """Whether something is found through the second level: a row for each of it."""
        return bool(self.second and (self.first or self.behind))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The boxes as they are drawn, and, one row after the other, as they are passed."""
        ahead = ("request", *(step for step in self.lookup if step not in self.behind))
        first = _down("first", self.first)
        if not self.nested:
            return ahead, (f"asked:{PAGE}", *first, *_down(f"second:{PAGE}", self.second), "result")
        targets = [*self.behind, *first]
        found = [(f"asked:{row}", *_down(f"second:{row}", self.second), box) for box in targets for row in [_row(box)]]
        return ahead, *found, (f"asked:{PAGE}", *_down(f"second:{PAGE}", self.second), "result")

    def label(self, key: str) -> int:
        """The number that the architecture gives to the level of a ``first`` or ``second`` box.

        >>> Shape(("ste", "cd"), (), (0, 1, 2, 3)).label("first:4")
        0
        """
        levels = self.first if key.startswith("first:") else self.second
        return levels[len(levels) - int(key.rpartition(":")[2])]

    def below(self, row: str) -> str:
        """The row behind one of a nested walk."""
        order = [line[0].partition(":")[2] for line in self.rows[1:]]
        return order[min(order.index(row) + 1, len(order) - 1)] if row in order else order[0]


def _down(kind: str, levels: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{kind}:{left}" for left in range(len(levels), 0, -1))


def _row(box: str) -> str:
    """The name of the row in which a box is found."""
    return box.removeprefix("first:")


class Way(NamedTuple):
    """A walk put into its shape: the box of each stop, the address that each row asks for (by ``asked:`` key), and the
    last box that the walk came to: of a walk that was blocked, that is where the fault lies.
    """

    shape: Shape
    boxes: tuple[str, ...]
    asked: Mapping[str, int]
    end: str


UNKNOWN: Final = Shape((), known=False)
"""The shape of a walk of which nothing is known."""


def end_of(shape: Shape, boxes: tuple[str, ...], behind: bool = False) -> str:
    """The box at the last stop; ``behind``: the one after it, which could not be read, or to which nothing led.

    >>> shape = Shape(("ste", "cd"))
    >>> end_of(shape, ("ste",)), end_of(shape, ("ste",), behind=True), end_of(shape, ())
    ('ste', 'cd', 'request')
    """
    order = [box for row in shape.rows for box in row]
    reached = max((order.index(box) for box in boxes if box in order), default=0)
    return order[min(reached + 1, len(order) - 1)] if behind else order[reached]


class Tracer:
    """The boxes of a walk while its stops are told one by one; ``next`` is the box that would come after the last one.

    ``row`` is what is being looked for through the second level: a lookup step, how many levels of the first level are
    to go, or the page.

    >>> made = Tracer(Shape(("ste", "cd"), ("cd",), (3,), (2, 3)), 0x1000)
    >>> made.lookup("ste"); made.second(2, leaf=True); made.boxes, made.next
    (['ste', 'second:cd:2'], 'cd')
    """

    def __init__(self, shape: Shape, address: int) -> None:
        self.shape = shape
        self.boxes: list[str] = []
        self._rows = {row[0].partition(":")[2]: row for row in shape.rows[1:]}
        self._order = [box for row in shape.rows for box in row]
        self.row = next(iter(self._rows))
        self.next = self._order[1]
        self.asked: dict[str, int] = {} if shape.nested else {f"asked:{PAGE}": address}

    def ask(self, address: int) -> None:
        """The guest-physical address that the row is about."""
        if self.shape.nested:
            self.asked[f"asked:{self.row}"] = address

    def lookup(self, key: str) -> None:
        """A lookup step was read, or a cache had it."""
        self.boxes.append(key)
        self.row = self.shape.below(key) if key in self.shape.behind else self.row
        self.next = self._after(key)

    def first(self, left: int, *, leaf: bool) -> None:
        """An entry of the first level."""
        box = f"first:{left}"
        self.boxes.append(box)
        if self.shape.nested:
            self.row = PAGE if leaf else str(left - 1)
        self.next = self._rows[self.row][0 if self.shape.nested else -1] if leaf else self._after(box)

    def second(self, left: int, *, leaf: bool, below: int = 0) -> None:
        """An entry of the second level; ``below`` is how many levels its table leaves to go, if some are skipped."""
        self.boxes.append(f"second:{self.row}:{left}")
        self.next = self._rows[self.row][-1] if leaf else f"second:{self.row}:{below or left - 1}"

    def again(self, box: str) -> None:
        """A question about an entry that was read before."""
        self.boxes.append(box)

    def _after(self, box: str) -> str:
        at = self._order.index(box) if box in self._order else 0
        return self._order[min(at + 1, len(self._order) - 1)]
