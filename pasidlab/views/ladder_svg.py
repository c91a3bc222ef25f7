"""Draws a ladder, without Graphviz: a heading of lanes and one band a row, so no label can meet another.

Lanes stand in equal columns, wide enough for their names. A row's text stands above its arrow, or beside its dot when
a lane does something by itself; it is kept inside the picture and wrapped where the whole picture is too narrow for
it. On the left are the row's number and, as an indented rail, its place in the tree of causes.

The parts are separate (:func:`drawing`): the live view keeps the heading in sight while rows scroll, and recognises
rows by key.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.views import still, theme
from pasidlab.views.escape import address, clean, html
from pasidlab.views.figure_svg import number
from pasidlab.views.measure import fit, text_width, wrap

if TYPE_CHECKING:
    from pasidlab.views.ladder import Ladder, Lane, Row
    from pasidlab.views.theme import Mode

__all__ = ["Drawing", "RowDrawing", "drawing", "ladder_svg"]

SAY, MORE, NAME = 12.0, 11.0, 12.0
_STEP, _LEAST, _MOST = 14, 96.0, 150.0
_RAIL_LEFT, _RAIL, _RAILS = 36, 9, 8
_TEXT_ROOM = 430.0


class RowDrawing(NamedTuple):
    """A row: its address, its top, its height, its classes and its markup (drawn at its own origin)."""

    key: str
    y: float
    height: float
    classes: str
    svg: str


class Drawing(NamedTuple):
    """A ladder's parts; ``lanes`` are the x of the life lines."""

    width: float
    head_height: float
    body_height: float
    head: str
    lanes: tuple[float, ...]
    rows: tuple[RowDrawing, ...]


def drawing(ladder: Ladder) -> Drawing:
    """Everything placed, in pixels."""
    gutter = _RAIL_LEFT + 2 + _RAIL * min(_RAILS, max((row.depth for row in ladder.rows), default=0) + 1)
    step = _column(ladder.lanes)
    xs = {lane.key: gutter + step * (at + 0.5) for at, lane in enumerate(ladder.lanes)}
    width = max(gutter + step * len(ladder.lanes) + 8, gutter + _TEXT_ROOM)
    rows: list[RowDrawing] = []
    top, future = 4.0, False
    for at, (row, levels) in enumerate(zip(ladder.rows, _levels_below(ladder.rows), strict=True), 1):
        height, svg = _row(at, row, levels, xs, gutter, width)
        state = "is-future" if future else "is-present" if row.key == ladder.present else ""
        rows.append(RowDrawing(address(row.key), top, height, f"r-{row.kind} {state}".strip(), svg))
        top += height
        future = future or row.key == ladder.present
    head, tall = _head(ladder.lanes, gutter, step)
    return Drawing(width, tall, top + 6, head, tuple(xs.values()), tuple(rows))


def _column(lanes: tuple[Lane, ...]) -> float:
    widest = max((text_width(clean(lane.label), NAME, bold=True) for lane in lanes), default=0.0)
    return min(_MOST, max(_LEAST, widest + 28))


def _head(lanes: tuple[Lane, ...], gutter: float, step: float) -> tuple[str, float]:
    """Names of the lanes in boxes, below the names of their groups."""
    parts: list[str] = []
    grouped = any(lane.group for lane in lanes)
    top = 24 if grouped else 4
    at = 0
    for group, members in groupby(lanes, key=lambda lane: lane.group):
        count = len(list(members))
        x, wide = gutter + at * step + 3, count * step - 6
        at += count
        if group:
            name = html(fit(clean(group), wide - 10, 10.5, bold=True))
            parts.append(
                f'<g class="group"><rect x="{number(x)}" y="2" width="{number(wide)}" height="19" rx="5"/>'
                f'<text x="{number(x + wide / 2)}" y="15.5">{name}</text></g>'
            )
    for place, lane in enumerate(lanes):
        x = gutter + place * step
        name = html(fit(clean(lane.label), step - 18, NAME, bold=True))
        parts.append(
            f'<g class="head"><title>{html(lane.label)}</title>'
            f'<rect x="{number(x + 5)}" y="{top}" width="{number(step - 10)}" height="26" rx="6"/>'
            f'<text x="{number(x + step / 2)}" y="{top + 17}">{name}</text></g>'
        )
    return "".join(parts), float(top + 30)


def _row(
    at: int, row: Row, levels: frozenset[int], xs: dict[str, float], gutter: float, width: float
) -> tuple[float, str]:
    kind = theme.row_kind(row.kind)
    word = " ".join(part for part in (kind.glyph, kind.word) if part)
    start, end = xs[row.tail], xs[row.head or row.tail]
    alone = start == end
    left = min(start, end) + (10 if alone else 0)
    lines = wrap(": ".join(part for part in (word, clean(row.text)) if part), width - gutter - 16, SAY)
    more = wrap(clean(row.detail), width - gutter - 16, MORE) if row.detail else ()
    wide = max([text_width(line, SAY, bold=True) for line in lines] + [text_width(line, MORE) for line in more])
    x = left if alone else left + max(8.0, (abs(end - start) - wide) / 2)
    x = max(gutter + 2, min(x, width - 8 - wide))
    arrow = 16 + _STEP * (len(lines) - 1) + 8
    middle = 16 - 4 if alone else arrow
    height = _STEP * (len(lines) + len(more)) + (10 if alone else 22)
    parts = [
        f'<rect class="band" width="{number(width)}" height="{number(height)}"/>',
        _rail(at, row, levels, middle, height),
        _mark(start, end, middle, alone),
    ]
    first = 16
    for line_at, line in enumerate(lines):
        said = _worded(line, word, line_at == 0)
        parts.append(f'<text class="say" x="{number(x)}" y="{first + line_at * _STEP}">{said}</text>')
    below = first + _STEP * len(lines) + (0 if alone else 10)
    parts += [
        f'<text class="more" x="{number(x)}" y="{below + at_ * _STEP}">{html(line)}</text>'
        for at_, line in enumerate(more)
    ]
    return float(height), "".join(parts)


def _worded(line: str, word: str, first: bool) -> str:
    if first and word and line.startswith(word):
        return f'<tspan class="sign">{html(word)}</tspan>{html(line[len(word) :])}'
    return html(line)


def _rail(at: int, row: Row, below: frozenset[int], middle: float, height: float) -> str:
    """The row's number and its branch of the tree of causes; rails of the levels in ``below`` go on."""
    depth = min(row.depth, _RAILS - 1)
    x = _RAIL_LEFT + _RAIL * depth
    rails = [
        f"M{_RAIL_LEFT + _RAIL * (level - 1)},0V{number(height)}" for level in range(1, depth + 1) if level in below
    ]
    if depth:
        rails.append(f"M{x - _RAIL},0V{number(middle)}H{x}")
    if row.depth + 1 in below and row.depth < _RAILS - 1:
        rails.append(f"M{x},{number(middle)}V{number(height)}")
    rail = f'<path class="tree" d="{"".join(rails)}"/>' if rails else ""
    number_ = f'<text class="no" x="24" y="{number(middle + 4)}">{at}</text>'
    return f'{number_}{rail}<circle class="knot" cx="{x}" cy="{number(middle)}" r="2.5"/>'


def _levels_below(rows: tuple[Row, ...]) -> list[frozenset[int]]:
    """For each row the depths at which the next rows hang before the tree comes back to a lesser depth.

    >>> from pasidlab.views.ladder import Row
    >>> rows = (Row("1", "a"), Row("2", "a", depth=1), Row("3", "a", depth=1), Row("4", "a"))
    >>> [sorted(levels) for levels in _levels_below(rows)]
    [[0, 1], [0, 1], [0], []]
    """
    found: list[frozenset[int]] = []
    below: frozenset[int] = frozenset()
    for row in reversed(rows):
        found.append(below)
        below = frozenset(level for level in below if level <= row.depth) | {row.depth}
    return found[::-1]


def _mark(start: float, end: float, y: float, alone: bool) -> str:
    if alone:
        return f'<circle class="dot" cx="{number(start)}" cy="{number(y)}" r="4"/>'
    way = 1 if end > start else -1
    tip = f"M{number(end)},{number(y)}l{-9 * way},-4.5v9Z"
    return (
        f'<circle class="dot" cx="{number(start)}" cy="{number(y)}" r="3"/>'
        f'<path class="way" d="M{number(start)},{number(y)}H{number(end - 7 * way)}"/><path class="tip" d="{tip}"/>'
    )


def ladder_svg(ladder: Ladder, mode: Mode | None = None) -> str:
    """The ladder as a complete SVG document, to be shown anywhere."""
    parts = drawing(ladder)
    foot = number(parts.head_height + parts.body_height)
    lines = "".join(
        f'<path class="lane" d="M{number(x)},{number(parts.head_height - 4)}V{foot}"/>' for x in parts.lanes
    )
    rows = "".join(
        f'<g class="row {row.classes}" data-key="{row.key}" transform="translate(0 {number(row.y)})">{row.svg}</g>'
        for row in parts.rows
    )
    body = f'{lines}<g class="rows" transform="translate(0 {number(parts.head_height)})">{rows}</g>{parts.head}'
    return still.page(ladder.title, ladder.note, parts.width, parts.head_height + parts.body_height, body, mode)
