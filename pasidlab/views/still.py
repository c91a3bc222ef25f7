"""Still pictures: a figure with its style sheet, for notebooks, GitHub, slides and paper. Needs the ``dot`` program.

A still picture is cut to what is present, has its own paper (it may stand on any page), a title, and follows the
reader's light or dark preference unless a mode is asked for. Printing programs that know no media queries see the
light one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pasidlab.views import layout, style
from pasidlab.views.escape import html
from pasidlab.views.figure_svg import figure_body, number
from pasidlab.views.measure import text_width
from pasidlab.views.text_twin import text
from pasidlab.views.topology import frames_present, topology

if TYPE_CHECKING:
    from pasidlab.views.figure import Figure
    from pasidlab.views.geometry import Geometry
    from pasidlab.views.theme import Mode

__all__ = ["bundle", "page", "svg"]

_EDGE = 18
_TITLE = 34
_ROOM = 840
"""The width of a notebook's output in pixels, in a window of 1280 beside JupyterLab's file browser."""
_SIZE = re.compile(r'width="([\d.]+)" height="[\d.]+"')


def svg(figure: Figure, mode: Mode | None = None) -> str:
    """``figure`` as an SVG document; :class:`~pasidlab.views.layout.GraphvizError` without the ``dot`` program."""
    places = layout.geometry(topology(figure))
    left, top, right, bottom = _extent(figure, places)
    inner = f'<g transform="translate({number(-left)} {number(-top)})">{figure_body(figure, places)}</g>'
    return page(figure.title, figure.note, right - left, bottom - top, inner, mode)


def page(
    title: str, note: str, width: float, height: float, inner: str, mode: Mode | None = None, sheet: str = ""
) -> str:
    """A drawing of this size on its own paper, with title, note and style sheet (default: that of figures)."""
    top = _TITLE + (18 if note else 0)
    room = max(width, text_width(title, 14, bold=True), text_width(note, 12))
    wide, tall = number(room + 2 * _EDGE), number(height + top + 2 * _EDGE - 8)
    size = f'width="{wide}" height="{tall}"'
    words = f'<text class="title" x="{_EDGE}" y="{_EDGE + 10}">{html(title)}</text>'
    words += f'<text class="note" x="{_EDGE}" y="{_EDGE + 29}">{html(note)}</text>' if note else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pasidlab" {size} viewBox="0 0 {wide} {tall}" role="img"'
        f' style="max-width:100%;height:auto" aria-label="{html(title)}"><style>{style.still(mode, sheet)}</style>'
        f'<rect class="paper" {size} rx="8"/>{words}'
        f'<g transform="translate({_EDGE} {_EDGE + top - 8})">{inner}</g></svg>'
    )


def _extent(figure: Figure, places: Geometry) -> tuple[float, float, float, float]:
    """The smallest rectangle around what is present, with room for outlines."""
    shown = frames_present(figure)
    rects = [places.nodes[node.key] for node in figure.nodes if node.present]
    rects += [rect for key, rect in places.frames.items() if key in shown]
    present = {node.key for node in figure.nodes if node.present}
    points = [
        point
        for edge in figure.edges
        if edge.present and {edge.tail, edge.head} <= present
        for point in places.edges[edge.key].points
    ]
    xs = [r.x for r in rects] + [r.x + r.width for r in rects] + [x for x, _ in points] or [0.0, 200.0]
    ys = [r.y for r in rects] + [r.y + r.height for r in rects] + [y for _, y in points] or [0.0, 20.0]
    return min(xs) - 6, min(ys) - 6, max(xs) + 6, max(ys) + 6


def bundle(figure: Figure) -> dict[str, str]:
    """What a notebook shows: the picture where it can be drawn, and always the text.

    A figure of fixed places that is wider than an output beside the file browser takes the width of the page.
    """
    shown, fixed = {"text/plain": text(figure)}, topology(figure).fixed
    if layout.available() or fixed:
        drawn = svg(figure)
        shown["image/svg+xml"] = _as_wide_as_the_page(drawn) if fixed else drawn
    return shown


def _as_wide_as_the_page(drawn: str) -> str:
    """A wide picture without a size of its own: JupyterLab shows it by an ``<img>``, which no style sheet narrows."""
    size = _SIZE.search(drawn)
    if size is None or float(size[1]) <= _ROOM:
        return drawn
    return drawn.replace(size[0], 'width="100%"', 1)
