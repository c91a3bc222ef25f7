"""What stands inside a box: sizes and texts. One table of distances for the layout, the still picture and the live one.

A board also has seats, below its lines; a token stands on a seat and has nothing but its title.

A box has a bar in its state's colour on the left; above, the word of its kind on the left and the state's glyph and
word on the right; below them the title and the lines. Kinds without a word (rows of a table) have the state beside
the title instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.views import theme
from pasidlab.views.escape import clean
from pasidlab.views.measure import fit, text_width

if TYPE_CHECKING:
    from pasidlab.views.figure import Node

__all__ = [
    "BADGE",
    "BAR",
    "EYEBROW",
    "LINE",
    "PAD",
    "SEATS_A_ROW",
    "TITLE",
    "TOKEN",
    "Slot",
    "box_size",
    "box_slots",
    "box_texts",
    "seat_place",
    "state_words",
    "tooltip",
]

EYEBROW, TITLE, LINE, BADGE, TOKEN = 10.0, 13.0, 11.5, 10.5, 11.0
"""Font sizes of the kind's word, the title, the lines, the state, and of a token's title, in pixels."""
BAR, PAD = 4, 12
SEATS_A_ROW = 3
"""How many tokens stand side by side on a board."""
_SEAT_WIDE, _SEAT_TALL, _SEAT_GAP = 52, 22, 5
_COLUMN = 7.4
_LINE_STEP = 16
_GAP = 10


class Slot(NamedTuple):
    """A place for a text: CSS class, x, baseline, and whether it is set from the right."""

    name: str
    x: float
    y: float
    right: bool = False


def box_size(node: Node) -> tuple[int, int]:
    """Width and height in pixels; they depend on kind, columns, rows and seats, never on the words in the box."""
    if node.inside:
        return _SEAT_WIDE, _SEAT_TALL
    width = round(2 * PAD + node.columns * _COLUMN)
    if not node.seats:
        return width, _head_height(node)
    across, down = min(SEATS_A_ROW, node.seats), -(-node.seats // SEATS_A_ROW)
    seats = 2 * PAD + across * (_SEAT_WIDE + _SEAT_GAP) - _SEAT_GAP
    return max(width, seats), _head_height(node) + down * (_SEAT_TALL + _SEAT_GAP) + PAD - _SEAT_GAP


def _head_height(node: Node) -> int:
    below = max(1, node.rows or len(node.lines)) - 1
    return _title_y(node) + below * _LINE_STEP + 11


def seat_place(board: Node, seat: int) -> tuple[int, int]:
    """The left upper corner of a seat, from that of its board: seats fill the board below its lines, row by row."""
    row, column = divmod(seat, SEATS_A_ROW)
    return PAD + column * (_SEAT_WIDE + _SEAT_GAP), _head_height(board) + row * (_SEAT_TALL + _SEAT_GAP)


def _title_y(node: Node) -> int:
    return 35 if theme.kind(node.kind).word else 20


def box_slots(node: Node) -> list[Slot]:
    """The places of :func:`box_texts`, in the same order."""
    width, height = box_size(node)
    if node.inside:
        return [Slot("t token", width / 2, height / 2 + 4)]
    title = _title_y(node)
    first = 17 if theme.kind(node.kind).word else title
    rows = max(1, node.rows or len(node.lines))
    line = "l num" if theme.kind(node.kind).mono else "l"
    return [
        Slot("e", PAD, first),
        Slot("b", width - PAD + 2, first, right=True),
        Slot("t", PAD, title),
        *(Slot(line, PAD, title + at * _LINE_STEP) for at in range(1, rows)),
    ]


def box_texts(node: Node) -> list[str]:
    """Word of the kind, state, title, lines: each cut to its room. There are always as many as the box has places.

    >>> from pasidlab.views.figure import Node
    >>> box_texts(Node("vm:a", ("a", "quota 64"), "vm", state="live", word="running"))
    ['VM', '● running', 'a', 'quota 64']
    """
    kind = theme.kind(node.kind)
    if node.inside:
        return [fit(clean(node.lines[0]) if node.lines else "", _SEAT_WIDE - 4, TOKEN, mono=kind.mono)]
    room = box_size(node)[0] - 2 * PAD
    badge = fit(state_words(node), room, BADGE, bold=True)
    taken = text_width(badge, BADGE, bold=True) + _GAP if badge else 0.0
    rows = max(1, node.rows or len(node.lines))
    lines = [clean(line) for line in node.lines[:rows]] + [""] * (rows - len(node.lines))
    eyebrow = fit(kind.word.upper(), room - taken, EYEBROW * 1.05, bold=True) if kind.word else ""
    title = fit(lines[0], room if kind.word else room - taken, TITLE, bold=True)
    return [eyebrow, badge, title, *(fit(line, room, LINE, mono=kind.mono) for line in lines[1:])]


def state_words(node: Node) -> str:
    """Glyph and word of the state, as drawn; an idle box says its word only when it has one of its own."""
    state = theme.state(node.state)
    return " ".join(part for part in (state.glyph, clean(node.word or state.word)) if part)


def tooltip(node: Node) -> str:
    """Everything about a box in one line: for the tooltip, for screen readers, and where the box was too narrow."""
    kind, state = theme.kind(node.kind), theme.state(node.state)
    head = ": ".join(part for part in (kind.word, clean(node.lines[0]) if node.lines else "") if part)
    parts = (
        head,
        *map(clean, node.lines[1:]),
        clean(node.word or state.word),
        "changed" if node.changed else "",
        clean(node.hint),
    )
    return ", ".join(part for part in parts if part)
