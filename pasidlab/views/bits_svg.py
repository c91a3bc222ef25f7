"""Draws a structure bit by bit, without Graphviz: a row for each word, the highest bit on the left.

Each field is one group with its name in ``data-key``: a field that reaches over several words has a group in each.
Names stand below the bits; where they would touch they go to a second or third line, with a thin line up to their bits.
Bits that must be zero are hatched and have no digits unless one is set, which is then marked as wrong. There are no
ids, so pictures can share a page, hence strokes instead of an SVG pattern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.views import bits as data
from pasidlab.views import still, style, theme
from pasidlab.views.drawn import Drawn
from pasidlab.views.escape import address, html
from pasidlab.views.figure_svg import number
from pasidlab.views.iommu_words import BITS
from pasidlab.views.measure import fit, text_width

if TYPE_CHECKING:
    from pasidlab.views.bits import Bits, Span
    from pasidlab.views.theme import Mode

__all__ = ["bits_body", "bits_svg"]

_CELL: Final = 12.5
_LEFT: Final = 52
_TALL: Final = 20
_FLAT: Final = 14
_RULER: Final = 16
_LABEL, _LABEL_STEP, _GAP = 9.5, 12, 7
_REACH: Final = 9
"""How far a name may reach to the right of the middle of its bit, where the next thin line may come down."""


def bits_svg(bits: Bits, mode: Mode | None = None) -> str:
    """``bits`` as an SVG document."""
    drawn = bits_body(bits)
    return still.page(bits.title, bits.note, drawn.width, drawn.height, drawn.svg, mode, style.bits_rules())


def bits_body(bits: Bits) -> Drawn:
    """Ruler, words and legend."""
    width = bits.layout.word_bits
    found = data.spans(bits)
    parts, y = {"ruler": _ruler(width)}, float(_RULER)
    for word in range(bits.layout.word_count):
        inside = [_Piece.of(span, word, width) for span in found if _touches(span, word, width)]
        row = _Row(bits, word, inside)
        parts[f"word {word}"] = row.svg(y)
        y += row.height
    parts["legend"], y = _legend(found, bits.changed, y + 14)
    return Drawn(_LEFT + width * _CELL + 2, y + 8, parts)


def _touches(span: Span, word: int, width: int) -> bool:
    return span.lsb < (word + 1) * width and span.msb >= word * width


class _Piece(NamedTuple):
    """What of a span lies in one word: the highest and the lowest bit there, counted within the word."""

    span: Span
    high: int
    low: int

    @classmethod
    def of(cls, span: Span, word: int, width: int) -> _Piece:
        base = word * width
        return cls(span, min(span.msb - base, width - 1), max(span.lsb - base, 0))

    @property
    def breadth(self) -> int:
        return self.high - self.low + 1

    @property
    def named(self) -> bool:
        return bool(self.span.name)


class _Row:
    """One word of the structure."""

    def __init__(self, bits: Bits, word: int, pieces: list[_Piece]) -> None:
        self._bits, self._word = bits, word
        self._width = bits.layout.word_bits
        self._pieces = sorted(pieces, key=lambda piece: -piece.high)
        self._plain = not any(piece.named for piece in pieces) and not bits.words[word]
        self._tall = _FLAT if self._plain else _TALL
        self._labels = self._placed()

    @property
    def height(self) -> float:
        """Bits, names, and the space to the next word."""
        lines = 1 + max((line for _, _, line in self._labels), default=-1)
        return self._tall + lines * _LABEL_STEP + _GAP

    def svg(self, y: float) -> str:
        """The row with its upper edge at ``y``."""
        offset = f"+{self._word * self._width // 8:#04x}"
        head = f'<text class="word num" x="{_LEFT - 8}" y="{number(y + self._tall / 2 + 4)}">{offset}</text>'
        return head + "".join(self._piece(piece, y) for piece in self._pieces)

    def _x(self, high: int) -> float:
        """The left edge of a bit."""
        return _LEFT + (self._width - 1 - high) * _CELL

    def _piece(self, piece: _Piece, y: float) -> str:
        span, x, wide = piece.span, self._x(piece.high), piece.breadth * _CELL
        box = f'x="{number(x)}" y="{number(y)}" width="{number(wide)}" height="{self._tall}"'
        classes = f"field k-{span.kind}" + " is-set" * bool(span.value) + " is-wrong" * bool(span.wrong)
        words = html(data.span_words(span))
        inside = f'<title>{words}</title><rect class="cell" {box}/>'
        inside += self._hatch(x, y, piece.breadth) if span.kind == "reserved" else ""
        inside += self._digits(piece, y) + self._changed(piece, y) + self._label(piece, y)
        return f'<g class="{classes}" data-key="{address(span.key)}">{inside}</g>'

    def _hatch(self, x: float, y: float, count: int) -> str:
        stroke = f"l{number(_CELL)},{-self._tall}m0,{self._tall}"
        return f'<path class="hatch" d="M{number(x)},{number(y + self._tall)}{stroke * count}"/>'

    def _digits(self, piece: _Piece, y: float) -> str:
        """A digit for each bit; of bits without meaning only those that are set."""
        word = self._bits.words[self._word]
        shown = [
            (at, word >> at & 1)
            for at in range(piece.high, piece.low - 1, -1)
            if (piece.named and piece.span.kind != "reserved") or word >> at & 1
        ]
        ones = "".join(
            f'<path class="one" d="M{number(self._x(at) + 1)},{number(y + self._tall - 1.5)}h{number(_CELL - 2)}"/>'
            for at, bit in shown
            if bit
        )
        if not shown:
            return ""
        xs = " ".join(number(self._x(at) + _CELL / 2) for at, _ in shown)
        digits = "".join(str(bit) for _, bit in shown)
        return f'{ones}<text class="digit num" x="{xs}" y="{number(y + self._tall / 2 + 3.5)}">{digits}</text>'

    def _changed(self, piece: _Piece, y: float) -> str:
        """A line above each bit that the step changed."""
        base = self._word * self._width
        return "".join(
            f'<path class="changed" d="M{number(self._x(at))},{number(y - 1)}h{number(_CELL)}"/>'
            for at in range(piece.low, piece.high + 1)
            if self._bits.changed >> base + at & 1
        )

    # --- names --------------------------------------------------------------------------------------------------------

    def _label_text(self, piece: _Piece, value: int) -> str:
        """The name, and the value where there is room for the widest one: what is said must not move anything."""
        span, room = piece.span, piece.breadth * _CELL - 4
        if piece.breadth > 1 and text_width(f"{span.name} = {_widest(span):#x}", _LABEL) <= room:
            return f"{span.name} = {value:#x}"
        return fit(span.name, max(room, 80), _LABEL)

    def _placed(self) -> list[tuple[_Piece, float, int]]:
        """For each name: its middle, and its line. From left to right; no name and no thin line meets another."""
        ends: list[float] = []
        placed = []
        for piece in self._pieces:
            if not piece.named:
                continue
            way, half = self._way(piece), text_width(self._label_text(piece, _widest(piece.span)), _LABEL) / 2
            first = way - max(0.0, half - _REACH) if piece.breadth == 1 else way
            lower = way + min(0.0, _REACH - half)
            line = 0
            while line < len(ends) and (first if not line else lower) - half < ends[line] + 3:
                line += 1
            middle = lower if line else first
            ends += [0.0] * (line + 1 - len(ends))
            ends[line] = middle + half
            for above in range(line):
                ends[above] = max(ends[above], way + 1)
            placed.append((piece, middle, line))
        return placed

    def _way(self, piece: _Piece) -> float:
        """The middle of the bits, where the thin line to the name begins."""
        return self._x(piece.high) + piece.breadth * _CELL / 2

    def _label(self, piece: _Piece, y: float) -> str:
        for known, middle, line in self._labels:
            if known is piece:
                base = y + self._tall + 9.5 + line * _LABEL_STEP
                way, x = "", number(self._way(piece))
                if line:
                    way = f'<path class="leader" d="M{x},{number(y + self._tall)}V{number(base - 8.5)}"/>'
                text = html(self._label_text(piece, piece.span.value))
                return f'{way}<text class="name" x="{number(middle)}" y="{number(base)}">{text}</text>'
        return ""


def _widest(span: Span) -> int:
    return (1 << span.msb - span.lsb + 1) - 1


def _ruler(width: int) -> str:
    """The number of every fourth bit, above the words."""
    marks = [at for at in range(width - 1, -1, -1) if at % 4 == 3 or at == 0]
    return "".join(
        f'<text class="ruler num" x="{number(_LEFT + (width - 0.5 - at) * _CELL)}" y="10">{at}</text>' for at in marks
    )


def _legend(found: list[Span], changed: int, y: float) -> tuple[str, float]:
    """What the colours and strokes mean, of what can be seen; and the last line's base."""
    kinds = dict.fromkeys(span.kind for span in found)
    named = [(f"k-{kind}", BITS[f"key-{kind}"]) for kind in ("pointer", "number", "flag", "ignored") if kind in kinds]
    named += [("k-reserved", BITS["key-reserved"])] if "reserved" in kinds else []
    named += [("is-wrong", BITS["key-wrong"])] if any(span.wrong for span in found) else []
    named += [("is-new", BITS["key-changed"])] if changed else []
    parts, x = [], float(_LEFT)
    for classes, words in named:
        sample = f'<rect class="cell" x="{number(x)}" y="{number(y - 10)}" width="{_CELL}" height="12"/>'
        if classes in {"k-reserved", "is-wrong"}:
            sample += f'<path class="hatch" d="M{number(x)},{number(y + 2)}l{_CELL},-12"/>'
        if classes == "is-new":
            sample = f'<path class="changed" d="M{number(x)},{number(y - 4)}h{_CELL}"/>'
        glyph = theme.state("fault").glyph + " " if classes == "is-wrong" else ""
        text = f"{glyph}{words}"
        field = "k-reserved is-wrong" if classes == "is-wrong" else classes
        parts.append(
            f'<g class="key field {field}">{sample}'
            f'<text class="note" x="{number(x + 18)}" y="{number(y)}">{html(text)}</text></g>'
        )
        x += 18 + text_width(text, 12) + 14
    return "".join(parts), y
