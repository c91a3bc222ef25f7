"""A figure taken apart: what decides where things stand (topology), how they do (states), and what they say (texts).

Two figures with equal topologies have the same layout, whatever their states and texts are; this is what lets a live
picture be laid out once. Invariant: nothing that a machine changes from step to step (names in boxes, states,
numbers) is in the topology.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.views.box import box_size, box_texts, seat_place
from pasidlab.views.escape import address, clean
from pasidlab.views.measure import fit, text_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.views.figure import Cluster, Edge, Figure, Node

__all__ = [
    "EDGE_LABEL",
    "FRAME_LABEL",
    "EdgePlan",
    "FramePlan",
    "NodePlan",
    "Topology",
    "edge_present",
    "frame_text",
    "frames_present",
    "states",
    "texts",
    "topology",
]

EDGE_LABEL, FRAME_LABEL = 11.0, 11.5
"""Font sizes of the labels of arrows and frames."""
_EDGE_COLUMN = 6.6
_FRAME_STEP, _FRAME_ROOM = 60, 300


class NodePlan(NamedTuple):
    """What the layout needs to know of a box; of a token, its board and where on it the token stands.

    A ``fixed`` box stands at ``x`` and ``y``, wherever the others are.
    """

    key: str
    cluster: str
    width: int
    height: int
    inside: str = ""
    x: float = 0
    y: float = 0
    fixed: bool = False


class EdgePlan(NamedTuple):
    """What the layout needs to know of an arrow; ``label`` is the room for its text in pixels."""

    key: str
    tail: str
    head: str
    headed: bool
    label: int
    loose: bool


class FramePlan(NamedTuple):
    """What the layout needs to know of a frame."""

    key: str
    parent: str
    label: int


class Topology(NamedTuple):
    """All that a layout depends on; hashable, so that layouts can be kept."""

    direction: str
    nodes: tuple[NodePlan, ...]
    edges: tuple[EdgePlan, ...]
    frames: tuple[FramePlan, ...]

    @property
    def fixed(self) -> bool:
        """Whether the figure says itself where its boxes stand."""
        return any(node.fixed for node in self.nodes)


def topology(figure: Figure) -> Topology:
    """What decides the layout of ``figure``.

    >>> from dataclasses import replace
    >>> from pasidlab.views.figure import Figure, Node
    >>> node = Node("a", ("free",))
    >>> later = replace(node, lines=("taken",), state="live", present=False)
    >>> topology(Figure("f", "F", (node,))) == topology(Figure("f", "F", (later,)))
    True
    """
    boards = {node.key: node for node in figure.nodes if node.seats}
    return Topology(
        figure.direction,
        tuple(_plan(node, boards) for node in figure.nodes),
        tuple(
            EdgePlan(
                edge.key, edge.tail, edge.head, edge.kind != "link", round(edge.columns * _EDGE_COLUMN), edge.loose
            )
            for edge in figure.edges
        ),
        tuple(FramePlan(cluster.key, cluster.parent, _frame_label(cluster)) for cluster in figure.clusters),
    )


def _plan(node: Node, boards: Mapping[str, Node]) -> NodePlan:
    plan = NodePlan(node.key, node.cluster, *box_size(node))
    if node.at is not None:
        return plan._replace(x=node.at[0], y=node.at[1], fixed=True)
    if not node.inside:
        return plan
    x, y = seat_place(boards[node.inside], node.seat)
    return plan._replace(inside=node.inside, x=x, y=y)


def _frame_label(cluster: Cluster) -> int:
    return _FRAME_STEP * ceil(text_width(frame_text(cluster), FRAME_LABEL, bold=True) / _FRAME_STEP)


def frame_text(cluster: Cluster) -> str:
    """The label of a frame, cut to the room that it can have."""
    return fit(clean(cluster.label), _FRAME_ROOM, FRAME_LABEL, bold=True)


def states(figure: Figure) -> dict[str, str]:
    """CSS classes of every box, arrow and frame, by address.

    >>> from pasidlab.views.figure import Figure, Node
    >>> states(Figure("f", "F", (Node("a", ("A",), state="live", changed=True), Node("b", ("B",), present=False))))
    {'a': 's-live is-changed', 'b': 's-idle s-absent'}
    """
    shown = frames_present(figure)
    present = {node.key for node in figure.nodes if node.present}
    named = {address(cluster.key): "" if cluster.key in shown else "s-absent" for cluster in figure.clusters}
    named |= {address(node.key): _classes(node.state, node.changed, node.present) for node in figure.nodes}
    for edge in figure.edges:
        named[address(edge.key)] = _classes(edge.state, edge.changed, edge_present(edge, present))
    return named


def _classes(state: str, changed: bool, present: bool) -> str:
    return f"s-{state}" + " is-changed" * (changed and present) + " s-absent" * (not present)


def edge_present(edge: Edge, nodes: set[str]) -> bool:
    """An arrow is drawn while it and both of its ends (``nodes`` are the keys of the boxes present) are."""
    return edge.present and edge.tail in nodes and edge.head in nodes


def frames_present(figure: Figure) -> set[str]:
    """Keys of the frames that are drawn: those which are present and hold a box that is."""
    parents = {cluster.key: cluster.parent for cluster in figure.clusters}
    filled: set[str] = set()
    for node in figure.nodes:
        key = node.cluster
        while node.present and key and key not in filled:
            filled.add(key)
            key = parents[key]
    return {cluster.key for cluster in figure.clusters if cluster.present and cluster.key in filled}


def texts(figure: Figure) -> dict[str, list[str]]:
    """What every box, arrow and frame says, by address, cut to its room; as many lines as were reserved.

    >>> from pasidlab.views.figure import Figure, Node
    >>> texts(Figure("f", "F", (Node("pasid:5", ("PASID 5",), "pasid", state="live", word="bound"),)))
    {'pasid:5': ['PASID', '● bound', 'PASID 5']}
    """
    named = {address(cluster.key): [frame_text(cluster)] for cluster in figure.clusters}
    named |= {address(node.key): box_texts(node) for node in figure.nodes}
    for edge in figure.edges:
        if edge.columns:
            named[address(edge.key)] = [fit(clean(edge.label), edge.columns * _EDGE_COLUMN, EDGE_LABEL)]
    return named
