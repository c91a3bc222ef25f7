"""Draws a figure: geometry and figure in, SVG out; for still pictures and for the live view.

Every box, arrow and frame is one group with its address in ``data-key``; there are no ids, so pictures can share a
page. A box is drawn around its own origin and moved into place by ``transform``; its texts are the places of
:mod:`pasidlab.views.box` in their order. What is absent is drawn too, and hidden by its class.
"""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING

from pasidlab.views import theme
from pasidlab.views.box import BAR, box_slots, tooltip
from pasidlab.views.escape import address, html
from pasidlab.views.topology import frame_text, states, texts

if TYPE_CHECKING:
    from pasidlab.views.figure import Cluster, Edge, Figure, Node
    from pasidlab.views.geometry import Curve, Geometry, Rect

__all__ = ["MARGIN", "figure_body", "figure_svg", "number"]

MARGIN = 6
"""Free space around a drawing, for outlines and rings, in pixels."""
_HEAD = 8.0


def figure_svg(figure: Figure, places: Geometry) -> str:
    """The drawing as one ``<svg>`` element without a style sheet."""
    width, height = places.width + 2 * MARGIN, places.height + 2 * MARGIN
    box = f'viewBox="{-MARGIN} {-MARGIN} {number(width)} {number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pasidlab" {box} {_size(width, height)}'
        f' role="img" aria-label="{html(figure.title)}">{figure_body(figure, places)}</svg>'
    )


def _size(width: float, height: float) -> str:
    return f'width="{number(width)}" height="{number(height)}"'


def figure_body(figure: Figure, places: Geometry) -> str:
    """Frames, arrows, boxes and the frames' labels, in this order from back to front."""
    classes, said = states(figure), texts(figure)
    depth = {"": 0}
    for cluster in figure.clusters:
        depth[cluster.key] = depth[cluster.parent] + 1
    framed = [(cluster, places.frames[cluster.key]) for cluster in figure.clusters if cluster.key in places.frames]
    parts = [_frame(cluster, at, classes[address(cluster.key)], depth[cluster.key]) for cluster, at in framed]
    parts += [_edge(edge, places.edges[edge.key], classes, said) for edge in figure.edges]
    parts += [_node(node, places.nodes[node.key], classes, said) for node in figure.nodes]
    parts += [_caption(cluster, at, classes[address(cluster.key)]) for cluster, at in framed]
    return "\n".join(parts)


def _group(kind: str, classes: str, key: str) -> str:
    return f'<g class="{f"{kind} {classes}".strip()}" data-key="{address(key)}"'


def _frame(cluster: Cluster, at: Rect, classes: str, depth: int) -> str:
    kind = "frame deep" if depth % 2 == 0 else "frame"
    rect = f'<rect x="{number(at.x)}" y="{number(at.y)}" {_size(at.width, at.height)} rx="10"/>'
    return f"{_group(kind, classes, cluster.key)}>{rect}</g>"


def _caption(cluster: Cluster, at: Rect, classes: str) -> str:
    """The label of a frame; a group of its own, so that no arrow is drawn over it."""
    text = f'<text x="{number(at.x + 14)}" y="{number(at.y + 18)}">{html(frame_text(cluster))}</text>'
    return f"{_group('caption', classes, cluster.key)}>{text}</g>"


def _node(node: Node, at: Rect, classes: dict[str, str], said: dict[str, list[str]]) -> str:
    written = address(node.key)
    radius = theme.kind(node.kind).radius
    ring = f'<rect class="ring" x="-4" y="-4" {_size(at.width + 8, at.height + 8)} rx="{radius + 4}"/>'
    texts_ = "".join(
        f'<text class="{slot.name}" x="{number(slot.x)}" y="{number(slot.y)}">{html(line)}</text>'
        for slot, line in zip(box_slots(node), said[written], strict=True)
    )
    return (
        f'{_group("node", classes[written], node.key)} transform="translate({number(at.x)} {number(at.y)})">'
        f'<title>{html(tooltip(node))}</title>{ring}<rect class="box" {_size(at.width, at.height)} rx="{radius}"/>'
        f'<path class="bar" d="{_bar(at.height, radius)}"/>{texts_}</g>'
    )


def _bar(height: float, radius: int) -> str:
    """The bar at the left edge, round where the box is round."""
    bend = max(radius, BAR)
    if radius < BAR:
        return f"M0,0H{BAR}V{number(height)}H0Z"
    rise = bend - (bend * bend - (bend - BAR) ** 2) ** 0.5
    arc = f"A{bend},{bend} 0 0 0"
    return f"M{BAR},{number(rise)}{arc} 0,{bend}V{number(height - bend)}{arc} {BAR},{number(height - rise)}Z"


def _edge(edge: Edge, curve: Curve, classes: dict[str, str], said: dict[str, list[str]]) -> str:
    written = address(edge.key)
    parts = [f'<path class="way" d="{_way(curve)}"/>']
    if curve.tip:
        parts.append(f'<path class="tip" d="{_head(curve.points[-1], curve.tip)}"/>')
    if curve.label and written in said:
        x, y = curve.label
        parts.append(f'<text x="{number(x)}" y="{number(y + 4)}">{html(said[written][0])}</text>')
    return f"{_group(f'edge {edge.kind}', classes[written], edge.key)}>{''.join(parts)}</g>"


def _way(curve: Curve) -> str:
    start, *rest = (f"{number(x)},{number(y)}" for x, y in curve.points)
    return f"M{start}C{' '.join(rest)}"


def _head(base: tuple[float, float], tip: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = base, tip
    length = hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = (x1 - x0) / length * _HEAD, (y1 - y0) / length * _HEAD
    left, right = (x1 - dx - dy * 0.5, y1 - dy + dx * 0.5), (x1 - dx + dy * 0.5, y1 - dy - dx * 0.5)
    return "M" + "L".join(f"{number(x)},{number(y)}" for x, y in (left, (x1, y1), right)) + "Z"


def number(value: float) -> str:
    """A coordinate with at most one digit behind the point.

    >>> number(12.0), number(3.14159), number(-0.01)
    ('12', '3.1', '0')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
