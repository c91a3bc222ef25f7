"""A figure in words: what the picture shows, as a tree of frames and boxes and a list of arrows.

For terminals, for logs, for screen readers, and for the reader whose browser shows no picture. Everything that the
picture shows is told (state words, what changed, labels), nothing that it hides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.views.box import state_words
from pasidlab.views.escape import clean
from pasidlab.views.theme import kind
from pasidlab.views.topology import edge_present, frames_present

if TYPE_CHECKING:
    from pasidlab.views.figure import Edge, Figure, Node

__all__ = ["node_line", "text"]


def text(figure: Figure) -> str:
    """``figure`` as text.

    >>> from pasidlab.views.figure import Cluster, Edge, Figure, Node
    >>> guest = Node("a", ("PASID 1",), cluster="g")
    >>> host = Node("b", ("PASID 101",), state="live", word="bound", changed=True)
    >>> arrow = Edge("e", "a", "b", label="KVM")
    >>> print(text(Figure("f", "Mapping", (guest, host), (arrow,), (Cluster("g", "guest"),))))
    Mapping
    ├─ PASID 101 (● bound, changed)
    └─ guest
       └─ PASID 1
    arrows:
      PASID 1 → PASID 101: KVM
    """
    shown = frames_present(figure)
    titles = {node.key: clean(node.lines[0]) if node.lines else node.key for node in figure.nodes}
    present = {node.key for node in figure.nodes if node.present}
    lines = [clean(figure.title), *([clean(figure.note)] if figure.note else []), *_tree(figure, "", shown)]
    arrows = [_arrow(edge, titles) for edge in figure.edges if edge_present(edge, present)]
    return "\n".join([*lines, *(["arrows:", *arrows] if arrows else [])])


def _tree(figure: Figure, key: str, shown: set[str]) -> list[str]:
    shown_nodes = [node for node in figure.nodes if node.present and node.cluster == key]
    branches = [[node_line(node), *_tokens(node.key, shown_nodes)] for node in shown_nodes if not node.inside]
    branches += [
        [clean(cluster.label), *_tree(figure, cluster.key, shown)]
        for cluster in figure.clusters
        if cluster.parent == key and cluster.key in shown
    ]
    lines = []
    for at, (head, *below) in enumerate(branches):
        last = at == len(branches) - 1
        lines.append(("└─ " if last else "├─ ") + head)
        lines += [("   " if last else "│  ") + line for line in below]
    return lines


def _tokens(board: str, nodes: list[Node]) -> list[str]:
    """What stands on a board, in one line."""
    on = [node for node in nodes if node.inside == board]
    said = ", ".join(clean(node.hint or node.lines[0]) + " (changed)" * node.changed for node in on if node.lines)
    return [f"└─ {said}"] if said else []


def node_line(node: Node) -> str:
    """A box in one line: kind, title, lines, state."""
    word = kind(node.kind).word
    said = " · ".join(clean(line) for line in node.lines if line)
    state = ", ".join(part for part in (state_words(node), "changed" if node.changed else "") if part)
    return (f"{word} " if word else "") + said + (f" ({state})" if state else "")


def _arrow(edge: Edge, titles: dict[str, str]) -> str:
    words = [clean(edge.label)] if edge.label else []
    words += [edge.state] if edge.state != "idle" else []
    words += ["changed"] if edge.changed else []
    sign = "—" if edge.kind == "link" else "→"
    return f"  {titles[edge.tail]} {sign} {titles[edge.head]}" + (f": {', '.join(words)}" if words else "")
