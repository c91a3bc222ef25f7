"""Bars as plain data: how much of a whole is taken, by whom. Each bar has its own scale; text and SVG come from it.

A bar without ``whole`` has no end of its own: it is drawn open, since nothing says how much of it there could be. The
state of a part is a state of the theme; what is left of a bar is drawn as room, not as a part.

Invariants, checked at creation: keys are unique; amounts are not negative; the parts of a bar fit into its whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.views import bars_svg, theme
from pasidlab.views.escape import clean

__all__ = ["Bar", "Bars", "Share", "bars_text"]


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a bar.

    >>> Share("used", "in use", 3, "live").amount
    3
    """

    key: str
    label: str
    amount: int
    state: str = "idle"

    def __post_init__(self) -> None:
        theme.state(self.state)
        if self.amount < 0:
            raise ValueError(f"the share {self.key!r} must be 0 or more, not {self.amount}")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its title, what is said of it, its shares from left to right, and the whole (``None``: open)."""

    key: str
    title: str
    said: str
    shares: tuple[Share, ...]
    whole: int | None

    def __post_init__(self) -> None:
        if self.whole is not None and sum(share.amount for share in self.shares) > self.whole:
            raise ValueError(f"the shares of {self.key!r} must fit into {self.whole}")


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars, one below the other. In a notebook they show themselves.

    >>> used = Share("used", "in use", 3, "live")
    >>> Bars("quotas", "Quotas", (Bar("set:1", "vm1", "3 of 64", (used,), 64),))
    <Bars quotas: 1>
    """

    name: str
    title: str
    bars: tuple[Bar, ...]
    note: str = ""
    more: str = ""

    def __post_init__(self) -> None:
        if len({bar.key for bar in self.bars}) != len(self.bars):
            raise ValueError(f"the keys of bars must be unique in {self.name}")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": bars_text(self), "image/svg+xml": bars_svg.bars_svg(self)}

    def __repr__(self) -> str:
        return f"<Bars {self.name}: {len(self.bars)}>"


def bars_text(bars: Bars) -> str:
    """The bars in words.

    >>> shares = (Share("used", "in use", 2, "live"), Share("pending", "free-pending", 1, "pending"))
    >>> print(bars_text(Bars("quotas", "Quotas", (Bar("set:1", "vm1", "3 of 64", shares, 64),))))
    Quotas
    vm1: 3 of 64 (● in use 2, ▼ free-pending 1)
    """
    lines = [clean(bars.title), *([clean(bars.note)] if bars.note else []), *map(_line, bars.bars)]
    return "\n".join([*lines, *([clean(bars.more)] if bars.more else [])])


def _line(bar: Bar) -> str:
    shares = ", ".join(share_words(share) for share in bar.shares if share.amount)
    return f"{clean(bar.title)}: {clean(bar.said)}" + (f" ({shares})" if shares else "")


def share_words(share: Share) -> str:
    """A share with the glyph of its state."""
    glyph = theme.state(share.state).glyph
    return f"{glyph} {clean(share.label)} {share.amount}".strip()
