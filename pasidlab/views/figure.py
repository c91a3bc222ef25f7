"""A figure as plain data: boxes, arrows and frames. Whoever shows something of a machine returns one of these.

**Lay out once, then send states** (``facts/ui.md`` section 1): a figure contains a slot for every object that can
appear in it. A slot that is not taken has ``present=False``: it keeps its place and is hidden. What a step changes is
then almost always only :func:`~pasidlab.views.topology.states` and :func:`~pasidlab.views.topology.texts`, a few
kilobytes that move nothing; only when :func:`~pasidlab.views.topology.topology` changes is a new layout made.

Keys are stable names of things (``"vm:vm1"``, ``"pasid:101"``): the same thing has the same key in every step, so it
can be recognised, highlighted and animated. A key may hold any text; outside Python it is written by
:func:`~pasidlab.views.escape.address`.

Invariants, checked at creation: keys are unique over boxes, arrows and frames; arrows, frames and tokens name what
exists; no two tokens that are present stand on one seat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pasidlab.views import still, theme

__all__ = ["Cluster", "Direction", "Edge", "EdgeKind", "Figure", "Node", "fold", "slots"]

Direction = Literal["LR", "TB"]
EdgeKind = Literal["arrow", "flow", "link"]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Node:
    """A box. The first of ``lines`` is its title.

    ``kind`` and ``state`` are names from :mod:`pasidlab.views.theme`; ``word`` says the state in better words than
    the theme's ("free-pending"); ``changed`` marks what this step changed. The box has room for ``columns`` letters
    and ``rows`` lines (0: as many as ``lines`` has); longer lines end in an ellipsis and are told in full by the
    tooltip, as is ``hint``.

    A box with ``seats`` is a board: below its lines it has that many places. A box that stands ``inside`` a board, on
    one of its seats, is a token: small, with nothing but its title. When its seat changes, it glides there.

    ``at`` is a fixed place, the left upper corner in pixels: such a figure needs no Graphviz, and its arrows go at
    right angles (:mod:`pasidlab.views.routes`). Either every box of a figure has one, or none.

    >>> Node("vm:vm1", ("vm1", "2 of 64 PASIDs"), "vm", state="live", word="running").present
    True
    """

    key: str
    lines: tuple[str, ...]
    kind: str = "thing"
    cluster: str = ""
    state: str = "idle"
    present: bool = True
    word: str = ""
    changed: bool = False
    columns: int = 18
    rows: int = 0
    hint: str = ""
    seats: int = 0
    inside: str = ""
    seat: int = 0
    at: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        theme.kind(self.kind)
        theme.state(self.state)


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow between two boxes. A ``flow`` is a thick arrow (data moves), a ``link`` has no head (belongs together).

    ``columns`` is the room for the label in letters; without it there is none. A ``loose`` edge has no say in where
    boxes stand; between boxes with fixed places it goes around all others, on the right.

    >>> Edge("kvm:1-101", "guest:1", "host:101", label="1 → 101", columns=8).kind
    'arrow'
    """

    key: str
    tail: str
    head: str
    kind: EdgeKind = "arrow"
    state: str = "idle"
    label: str = ""
    present: bool = True
    changed: bool = False
    columns: int = 0
    loose: bool = False

    def __post_init__(self) -> None:
        theme.state(self.state)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A frame around the boxes that name it, inside ``parent`` if given; drawn while a box in it is present."""

    key: str
    label: str
    parent: str = ""
    present: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing. ``name`` is for code (file names, test ids), ``title`` and ``note`` are for people.

    ``direction`` is where arrows lead: ``"LR"`` to the right, ``"TB"`` down. In a notebook a figure shows itself.

    >>> Figure("map", "Machine", (Node("a", ("A",)), Node("b", ("B",))), (Edge("a-b", "a", "b"),))
    <Figure map: boxes 2, arrows 1>
    """

    name: str
    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    direction: Direction = "LR"
    note: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def node(self, key: str) -> Node:
        """The box called ``key``; ``KeyError`` if there is none."""
        for node in self.nodes:
            if node.key == key:
                return node
        raise KeyError(f"figure {self.name} has no box {key!r}")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return still.bundle(self)

    def __repr__(self) -> str:
        boxes = sum(node.present for node in self.nodes)
        arrows = sum(edge.present for edge in self.edges)
        return f"<Figure {self.name}: boxes {boxes}, arrows {arrows}>"


def _check(figure: Figure) -> None:
    nodes, tokens = ({node.key for node in figure.nodes}, {node.key for node in figure.nodes if node.inside})
    keys = [cluster.key for cluster in figure.clusters] + [node.key for node in figure.nodes]
    keys += [edge.key for edge in figure.edges]
    for key, count in Counter(keys).items():
        if not key or count > 1:
            raise ValueError(f"a key in figure {figure.name} must be unique and not empty, not {key!r}")
    declared = {""}
    for cluster in figure.clusters:
        if cluster.parent not in declared:
            raise ValueError(
                f"the parent of {cluster.key!r} must be a frame declared before it, not {cluster.parent!r}"
            )
        declared.add(cluster.key)
    for node in figure.nodes:
        if node.cluster not in declared:
            raise ValueError(f"the frame of {node.key!r} must be declared, not {node.cluster!r}")
    _check_seats(figure)
    for edge in figure.edges:
        for end in (edge.tail, edge.head):
            if end not in nodes or end in tokens:
                raise ValueError(f"an end of {edge.key!r} must be a box of figure {figure.name}, not {end!r}")


def _check_seats(figure: Figure) -> None:
    boards = {node.key: node.seats for node in figure.nodes if not node.inside}
    if len({node.at is None for node in figure.nodes if not node.inside}) > 1:
        raise ValueError(f"every box of figure {figure.name} must have a fixed place, or none")
    taken: dict[tuple[str, int], str] = {}
    for node in figure.nodes:
        if node.inside and node.seat not in range(boards.get(node.inside, 0)):
            raise ValueError(f"{node.key!r} must stand on a seat of a board, not on {node.seat} of {node.inside!r}")
        if node.inside and node.present:
            other = taken.setdefault((node.inside, node.seat), node.key)
            if other != node.key:
                raise ValueError(f"a seat of {node.inside!r} must hold one token, not {other!r} and {node.key!r}")


def fold(items: Sequence[_Item], room: int) -> tuple[Sequence[_Item], int]:
    """The items to draw in ``room`` boxes, and how many are folded into the last box ("+37 more").

    >>> fold("abcde", 5), fold("abcde", 3)
    (('abcde', 0), ('ab', 3))
    """
    if room < 1:
        raise ValueError(f"room must be at least 1, not {room}")
    if len(items) <= room:
        return items, 0
    return items[: room - 1], len(items) - room + 1


def slots(count: int, least: int = 2) -> int:
    """How many slots to reserve for ``count`` things: doubling, so that a new layout is needed rarely.

    >>> [slots(count) for count in (0, 2, 3, 5, 9)]
    [2, 2, 4, 8, 16]
    """
    reserved = least
    while reserved < count:
        reserved *= 2
    return reserved
