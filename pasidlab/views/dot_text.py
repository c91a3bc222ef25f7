"""A figure in Graphviz's language. Same figure, same text: nothing depends on hashing, on time or on the machine.

Boxes have fixed sizes, so the fonts of the machine that makes the layout do not matter (``facts/ui.md`` section 5,
point 14). Boxes and arrows are declared in the figure's order with ``ordering=out``, which keeps a layout alike when
something is added. Names in DOT are addresses (ASCII); labels are escaped by
:func:`~pasidlab.views.escape.dot_string`: no name ends its string early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.views.escape import address, dot_string, html
from pasidlab.views.topology import FramePlan, NodePlan, Topology, texts, topology

if TYPE_CHECKING:
    from pasidlab.views.figure import Figure

__all__ = ["dot", "plan"]

_DPI = 72
_FONT = "fontname=Helvetica fontsize=11"
_SPACING = {"LR": "nodesep=0.22 ranksep=0.75", "TB": "nodesep=0.3 ranksep=0.45"}


def dot(figure: Figure) -> str:
    """``figure`` as DOT text with all its labels, to lay out or to take elsewhere.

    >>> from pasidlab.views.figure import Figure, Node
    >>> print(dot(Figure("f", "F", (Node("a", ("A", 'say "x"')),))))
    digraph figure {
      graph [rankdir=LR ordering=out nodesep=0.22 ranksep=0.75 pad=0 margin=0 fontname=Helvetica fontsize=11]
      node [shape=box style=rounded fixedsize=true fontname=Helvetica fontsize=11]
      edge [arrowsize=0.7 fontname=Helvetica fontsize=11]
      "a" [id="a" width=2.1806 height=0.6528 label="A\\nsay \\"x\\""]
    }
    """
    said = texts(figure)
    tokens: dict[str, list[str]] = {}
    for node in figure.nodes:
        if node.inside and node.present:
            tokens.setdefault(node.inside, []).extend(said[address(node.key)])
    labels = {
        node.key: dot_string(
            *(line for line in (*said[address(node.key)][2:], " ".join(tokens.get(node.key, ()))) if line)
        )
        for node in figure.nodes
    }
    labels |= {edge.key: _table(edge.label, round(edge.columns * 6.6)) for edge in figure.edges if edge.columns}
    labels |= {cluster.key: dot_string(cluster.label) for cluster in figure.clusters}
    return _write(topology(figure), labels)


def plan(shape: Topology) -> str:
    """The DOT text that a layout is made from: as :func:`dot`, without a word that a machine could change."""
    labels = {edge.key: _table("", edge.label) for edge in shape.edges if edge.label}
    labels |= {frame.key: _table("", frame.label, 8) for frame in shape.frames}
    return _write(shape, labels)


def _table(text: str, width: int, height: int = 16) -> str:
    room = f'fixedsize="true" width="{width}" height="{height}"'
    bare = 'border="0" cellborder="0" cellspacing="0" cellpadding="0"'
    return f"<<table {bare} {room}><tr><td {room}>{html(text)}</td></tr></table>>"


def _write(shape: Topology, labels: dict[str, str]) -> str:
    lines = [
        "digraph figure {",
        f"  graph [rankdir={shape.direction} ordering=out {_SPACING[shape.direction]} pad=0 margin=0 {_FONT}]",
        f"  node [shape=box style=rounded fixedsize=true {_FONT}]",
        f"  edge [arrowsize=0.7 {_FONT}]",
        *_frame(shape, "", labels, "  "),
    ]
    for edge in shape.edges:
        more = [f'id="{address(edge.key)}"']
        more += [f"label={labels[edge.key]}"] if edge.key in labels else []
        more += ["constraint=false"] if edge.loose else []
        more += [] if edge.headed else ["arrowhead=none"]
        lines.append(f'  "{address(edge.tail)}" -> "{address(edge.head)}" [{" ".join(more)}]')
    return "\n".join([*lines, "}"])


def _frame(shape: Topology, key: str, labels: dict[str, str], indent: str) -> list[str]:
    boxes = [node for node in shape.nodes if node.cluster == key and not node.inside]
    lines = [indent + _box(node, labels.get(node.key, '""')) for node in boxes]
    for frame in shape.frames:
        if frame.parent == key:
            lines += [*_head(frame, labels, indent), *_frame(shape, frame.key, labels, indent + "  "), indent + "}"]
    return lines


def _box(node: NodePlan, label: str) -> str:
    size = f"width={node.width / _DPI:.4f} height={node.height / _DPI:.4f}"
    return f'"{address(node.key)}" [id="{address(node.key)}" {size} label={label}]'


def _head(frame: FramePlan, labels: dict[str, str], indent: str) -> list[str]:
    return [
        f'{indent}subgraph "cluster {address(frame.key)}" {{',
        f'{indent}  id="{address(frame.key)}" label={labels[frame.key]} labeljust=l style=rounded margin=12',
    ]
