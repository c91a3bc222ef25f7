"""Room: what a picture remembers, so that nothing has to move.

A figure drawn of one step alone would lose the place of everything that is not there at that step. A ``Room`` keeps
the places: whatever a figure has shown once stays in its layout, hidden, and comes back to where it was. It only
grows; going back in time never shrinks it. So a new layout is made when something is seen for the first time, and
never otherwise. Whoever starts a new future forgets the old one with :meth:`Room.forget`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from pasidlab.views.figure import Cluster, Edge, Figure, Node

__all__ = ["Room"]


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


_Part = TypeVar("_Part", bound=_Keyed)
_Item = TypeVar("_Item", int, tuple[int, int], tuple[int, int, int])


class Room:
    """The memory of one picture.

    >>> room = Room()
    >>> both = Figure("f", "F", (Node("a", ("A",)), Node("b", ("B",))))
    >>> [node.present for node in room.fit(both).nodes]
    [True, True]
    >>> [node.present for node in room.fit(Figure("f", "F", (Node("b", ("B",)),))).nodes]
    [False, True]
    """

    def __init__(self) -> None:
        self._clusters: dict[str, Cluster] = {}
        self._nodes: dict[str, Node] = {}
        self._edges: dict[str, Edge] = {}
        self._seen: dict[str, set[object]] = {}
        self._scale = 0

    def forget(self) -> None:
        """Start afresh: the next figure is laid out for itself."""
        self.__init__()  # type: ignore[misc]

    def recall(self, name: str, items: Iterable[_Item]) -> list[_Item]:
        """``items`` and all that were given under this name before, sorted.

        >>> room = Room()
        >>> room.recall("pasids", [3, 1]), room.recall("pasids", [2])
        ([1, 3], [1, 2, 3])
        """
        seen = self._seen.setdefault(name, set())
        seen.update(items)
        return sorted(seen)  # type: ignore[type-var]

    def fit(self, figure: Figure) -> Figure:
        """``figure`` with hidden places for all that earlier figures have shown."""
        self._clusters = _merged(self._clusters, figure.clusters)
        self._nodes = _merged(self._nodes, figure.nodes)
        self._edges = _merged(self._edges, figure.edges)
        clusters = {cluster.key for cluster in figure.clusters}
        nodes = {node.key for node in figure.nodes}
        edges = {edge.key for edge in figure.edges}
        return replace(
            figure,
            clusters=tuple(c if c.key in clusters else replace(c, present=False) for c in self._clusters.values()),
            nodes=tuple(n if n.key in nodes else replace(n, present=False) for n in self._nodes.values()),
            edges=tuple(e if e.key in edges else replace(e, present=False) for e in self._edges.values()),
        )
