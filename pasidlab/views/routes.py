"""Arrows between boxes whose places are given: straight along a row, at right angles from one row to the next.

Boxes whose middles are at one height are a row. An arrow to the right in a row is a straight line; any other leaves
its box downwards, crosses in the gap above the row of its head, and comes down into the head. A loose arrow goes
around: into the gap below its own row, to the right of everything, down, and into its head from the right. Gaps have
two tracks, so that the two kinds do not lie on each other. An arrow down a column in which other boxes stand between
goes along its left edge.

Rejected: Graphviz with pinned positions, which takes 19 to 8000 ms a layout (``facts/ui.md`` section 2).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pasidlab.views.geometry import Curve, Geometry, Rect

if TYPE_CHECKING:
    from pasidlab.views.topology import EdgePlan, Topology

__all__ = ["routed"]

_TIP: Final = 8
_ABOVE: Final = 11
"""How far above its head's row an arrow crosses."""
_BELOW: Final = 5
"""How far below its own row a loose arrow crosses."""
_LANE: Final = 14
_FRAME: Final = (12, 26)
Point = tuple[float, float]


def routed(shape: Topology) -> Geometry:
    """The layout of a figure whose boxes have fixed places.

    >>> from pasidlab.views.figure import Edge, Figure, Node
    >>> from pasidlab.views.topology import topology
    >>> boxes = (Node("a", ("A",), at=(0, 0)), Node("b", ("B",), at=(200, 0)))
    >>> found = routed(topology(Figure("f", "F", boxes, (Edge("e", "a", "b"),))))
    >>> found.edges["e"].tip, found.width
    ((200, 15.5), 371)
    """
    nodes = {node.key: Rect(node.x, node.y, node.width, node.height) for node in shape.nodes if not node.inside}
    frames = {frame.key: _around(shape, nodes, frame.key) for frame in shape.frames}
    right = max((rect.x + rect.width for rect in nodes.values()), default=0.0)
    edges = {edge.key: _route(edge, nodes, right + _LANE) for edge in shape.edges}
    low = max((rect.y + rect.height for rect in (*nodes.values(), *frames.values())), default=0.0)
    return Geometry(right + _LANE, low, nodes, edges, {key: rect for key, rect in frames.items() if rect.width})


def _around(shape: Topology, nodes: dict[str, Rect], frame: str) -> Rect:
    """The frame around its boxes, with room for its label."""
    inside = [nodes[node.key] for node in shape.nodes if node.cluster == frame and not node.inside]
    if not inside:
        return Rect(0, 0, 0, 0)
    side, top = _FRAME
    left, high = min(rect.x for rect in inside) - side, min(rect.y for rect in inside) - top
    right, low = max(rect.x + rect.width for rect in inside), max(rect.y + rect.height for rect in inside)
    return Rect(left, high, right + side - left, low + side - high)


def _route(edge: EdgePlan, nodes: dict[str, Rect], lane: float) -> Curve:
    tail, head = nodes[edge.tail], nodes[edge.head]
    if edge.loose:
        below = _row_end(tail, nodes) + _BELOW
        middle = head.y + head.height / 2
        points = [(_middle(tail), tail.y + tail.height), (_middle(tail), below), (lane, below), (lane, middle)]
        points.append((head.x + head.width, middle))
    elif _level(tail) == _level(head) and tail.x < head.x:
        points = [(tail.x + tail.width, _level(tail)), (head.x, _level(head))]
    elif _between(tail, head, nodes):
        beside = head.x - _LANE
        points = [(tail.x, _level(tail)), (beside, _level(tail)), (beside, _level(head)), (head.x, _level(head))]
    else:
        across = min(rect.y for rect in nodes.values() if _level(rect) == _level(head)) - _ABOVE
        points = [(_middle(tail), tail.y + tail.height), (_middle(tail), across), (_middle(head), across)]
        points.append((_middle(head), head.y))
    return _curve(points, headed=edge.headed)


def _between(tail: Rect, head: Rect, nodes: dict[str, Rect]) -> bool:
    """Whether a box stands in the column between a box and one that is straight below it."""
    others = (rect for rect in nodes.values() if rect.x == head.x)
    return tail.x == head.x and any(tail.y < rect.y < head.y for rect in others)


def _middle(rect: Rect) -> float:
    return rect.x + rect.width / 2


def _level(rect: Rect) -> float:
    """The height of a box's middle; that of all boxes in its row."""
    return rect.y + rect.height / 2


def _row_end(rect: Rect, nodes: dict[str, Rect]) -> float:
    return max(other.y + other.height for other in nodes.values() if _level(other) == _level(rect))


def _curve(points: list[Point], *, headed: bool) -> Curve:
    """A way of straight pieces, written as cubic curves; its last piece ends where the head begins."""
    tip = points[-1] if headed else None
    if headed:
        points = [*points[:-1], _short(points[-2], points[-1])]
    way = [points[0]]
    for start, end in pairwise(points):
        way += [start, end, end]
    return Curve(tuple(way), tip, None)


def _short(start: Point, end: Point) -> Point:
    """``end``, nearer to ``start`` by the length of an arrow's head."""
    (x0, y0), (x1, y1) = start, end
    length = abs(x1 - x0) + abs(y1 - y0) or 1.0
    return x1 - (x1 - x0) / length * _TIP, y1 - (y1 - y0) / length * _TIP
