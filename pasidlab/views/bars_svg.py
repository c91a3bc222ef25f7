"""Draws bars, without Graphviz: a row for each, its words above it, and a legend of the shares below all of them.

A share that is not nothing can always be seen, however small it is. Colour is not alone: shares of different states
have different heights and outlines, and the legend gives glyph and word of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.views import still, style, theme
from pasidlab.views.escape import address, html
from pasidlab.views.figure_svg import number
from pasidlab.views.measure import fit, text_width

if TYPE_CHECKING:
    from pasidlab.views.bars import Bar, Bars
    from pasidlab.views.theme import Mode

__all__ = ["bars_svg"]

_WIDE, _ROW, _TALL = 640.0, 46, 16
_TOP = 20
_LEAST = 4.0
_LEGEND = 20
_LOW = {"pending": 5}
"""How much lower than the bar a share of this state is drawn."""
_OPEN = 0.4
"""How far an open bar is filled, whatever it holds."""


def bars_svg(bars: Bars, mode: Mode | None = None) -> str:
    """``bars`` as an SVG document."""
    rows = [_row(bar, at * _ROW) for at, bar in enumerate(bars.bars)]
    height = len(rows) * _ROW + 4.0
    if bars.more:
        rows.append(f'<text class="note" x="0" y="{number(height + 8)}">{html(bars.more)}</text>')
        height += 22
    legend, base = _legend(bars, height + 14)
    inner = "\n".join([*rows, legend])
    return still.page(bars.title, bars.note, _WIDE, base + 8, inner, mode, style.bar_rules())


def _row(bar: Bar, y: float) -> str:
    said = fit(bar.said, _WIDE * 0.62, 12)
    title = fit(bar.title, _WIDE - text_width(said, 12) - 12, 12, bold=True)
    words = f'<text class="who" x="0" y="{number(y + 13)}">{html(title)}</text>'
    words += f'<text class="said" x="{number(_WIDE)}" y="{number(y + 13)}">{html(said)}</text>'
    return f'<g class="bar-row" data-key="{address(bar.key)}">{words}{_room(bar, y + _TOP)}{_shares(bar, y + _TOP)}</g>'


def _room(bar: Bar, y: float) -> str:
    if bar.whole is None:
        half = number(_WIDE * 0.85)
        return f'<path class="room open" d="M{half},{number(y)}H0v{_TALL}H{half}"/>'
    return f'<rect class="room" x="0" y="{number(y)}" width="{number(_WIDE)}" height="{_TALL}" rx="2"/>'


def _shares(bar: Bar, y: float) -> str:
    total = sum(share.amount for share in bar.shares)
    whole = bar.whole if bar.whole is not None else total / _OPEN
    parts, x = [], 0.0
    for share in bar.shares:
        if not share.amount:
            continue
        wide = min(max(_LEAST, share.amount / whole * _WIDE), _WIDE - x)
        low = _LOW.get(share.state, 0)
        parts.append(
            f'<rect class="share s-{share.state}" x="{number(x)}" y="{number(y + low)}" width="{number(wide)}"'
            f' height="{_TALL - low}"><title>{html(f"{share.label}: {share.amount}")}</title></rect>'
        )
        x += wide
    return "".join(parts)


def _legend(bars: Bars, y: float) -> tuple[str, float]:
    """The legend from ``y`` on, in as many lines as it needs, and the last line's base."""
    parts, x = [], 0.0
    for label, state in _kinds(bars):
        glyph = theme.state(state).glyph
        words = f"{glyph} {label}".strip()
        low, wide = _LOW.get(state, 0), 18 + text_width(words, 12)
        if x and x + wide > _WIDE:
            x, y = 0.0, y + _LEGEND
        parts.append(
            f'<rect class="share s-{state}" x="{number(x)}" y="{number(y - 10 + low)}" width="12" height="{12 - low}"/>'
            f'<text class="note" x="{number(x + 18)}" y="{number(y)}">{html(words)}</text>'
        )
        x += wide + 18
    return "".join(parts), y


def _kinds(bars: Bars) -> list[tuple[str, str]]:
    """Label and state of every sort of share that can be seen."""
    seen = {(share.label, share.state): None for bar in bars.bars for share in bar.shares if share.amount}
    return list(seen)
