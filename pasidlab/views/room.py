"""Room: what a picture remembers, so that nothing has to move.

A figure drawn of one step alone would lose the place of everything that is not there at that step. A ``Room`` keeps
the places: whatever a figure has shown once stays in its layout, hidden, and comes back to where it was. It only
grows; going back in time never shrinks it. So a new layout is made when something is seen for the first time, and
never otherwise. Whoever starts a new future forgets the old one with :meth:`Room.forget`.

Rejected: reserving places for what might come (two more VMs, each queue for each device). Graphviz keeps room for the
labels of arrows that are not there, and the picture was mostly gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from pasidlab.views.figure import Figure

__all__ = ["Room"]


class _Keyed(Protocol):
    @property
    def key(self) -> str:
        """The stable name of a part of a figure."""


_Part = TypeVar("_Part", bound=_Keyed)


class Room:
    """The memory of one picture.

    >>> from pasidlab.views.figure import Node
    >>> room = Room()
    >>> both = Figure("f", "F", (Node("a", ("A",)), Node("b", ("B",))))
    >>> [node.present for node in room.fit(both).nodes]
    [True, True]
    >>> [node.present for node in room.fit(Figure("f", "F", (Node("b", ("B",)),))).nodes]
    [False, True]
    """

    def __init__(self) -> None:
        self._figure: Figure | None = None
        self._seen: dict[str, set[tuple[int, ...]]] = {}
        self._scale = 0

    def forget(self) -> None:
        """Start afresh: the next figure is laid out for itself."""
        self._figure, self._scale = None, 0
        self._seen.clear()

    def recall(self, name: str, items: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """``items`` and all that were given under this name before, sorted.

        >>> room = Room()
        >>> room.recall("pasids", [(3,), (1,)]), room.recall("pasids", [(2,)])
        ([(1,), (3,)], [(1,), (2,), (3,)])
        """
        seen = self._seen.setdefault(name, set())
        seen.update(items)
        return sorted(seen)

    def rescale(self, scale: int) -> None:
        """A figure that folds more (or less) from now on is arranged afresh: its old places are of no use."""
        if scale != self._scale:
            self._figure, self._scale = None, scale

    def fit(self, figure: Figure) -> Figure:
        """``figure`` with hidden places for all that earlier figures have shown."""
        known = self._figure
        if known is not None:
            figure = replace(
                figure,
                clusters=_with_absent(known.clusters, figure.clusters, lambda cluster: replace(cluster, present=False)),
                nodes=_with_absent(known.nodes, figure.nodes, lambda node: replace(node, present=False)),
                edges=_with_absent(known.edges, figure.edges, lambda edge: replace(edge, present=False)),
            )
        self._figure = figure
        return figure


class _Hide(Protocol[_Part]):
    def __call__(self, part: _Part, /) -> _Part:
        """``part``, not present."""


def _with_absent(known: Sequence[_Part], now: Sequence[_Part], hide: _Hide[_Part]) -> tuple[_Part, ...]:
    """The parts of both: known ones keep their order, a new one comes behind the one that it follows in ``now``."""
    present = {part.key: part for part in now}
    order = [part.key for part in known]
    there = set(order)
    before = ""
    for key in present:
        if key not in there:
            order.insert(order.index(before) + 1 if before else 0, key)
            there.add(key)
        before = key
    old = {part.key: part for part in known}
    return tuple(present[key] if key in present else hide(old[key]) for key in order)
