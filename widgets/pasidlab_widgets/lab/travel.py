"""The bar on top: a slider over all steps, buttons to go by a step or by a whole operation, and play.

Below it a banner says when the present is not the newest step, and what acting there would mean. Its place is always
kept, so nothing jumps when it appears.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final

import ipywidgets as w

from pasidlab_widgets.lab.slider import Slider
from pasidlab_widgets.lab.words import BANNER, TRAVEL, WHY

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["TravelBar"]

_BACK: Final = ("start", "back-over", "back")
_FORWARD: Final = ("forward", "forward-over", "end")
_PACE: Final = 0.4
"""Seconds between two steps of play; more than about six steps a second pile up in the browser."""


class TravelBar:
    """Time travel. ``go`` makes one move on the timeline and refreshes the lab."""

    def __init__(self, go: Callable[[Callable[[Timeline], None]], None]) -> None:
        self._go = go
        self._playing: asyncio.Task[None] | None = None
        self._now = self._last = 0
        self.buttons = {name: self._button(name) for name in (*_BACK, "play", *_FORWARD)}
        self.slider = Slider(self._slid)
        self.step = w.HTML()
        self.step.add_class("pl-step")
        self.banner = w.HTML()
        self.banner.add_class("pl-banner-box")
        row = [*(self.buttons[name] for name in _BACK), self.slider]
        row += [*(self.buttons[name] for name in ("play", *_FORWARD)), self.step]
        bar = w.HBox(row)
        bar.add_class("pl-travel")
        self.widget = w.VBox([bar, self.banner])

    def refresh(self, timeline: Timeline) -> None:
        """Show where the present is."""
        now, last, floor = timeline.now, timeline.last, timeline.floor
        self._now, self._last = now, last
        self.slider.show(floor, now, last)
        self.step.value = escape(BANNER["step"].format(now=now, last=last))
        for names, rest, why in ((_BACK, now <= floor, "oldest"), (_FORWARD, now >= last, "newest")):
            for name in names:
                self._allow(name, WHY[why] if rest else "")
        self._allow("play", WHY["newest"] if now >= last and self._playing is None else "")
        self.banner.value = self._banner(now, last)

    @staticmethod
    def _banner(now: int, last: int) -> str:
        if now >= last:
            return f'<div class="pl-banner is-newest">{escape(BANNER["newest"])}</div>'
        past = escape(BANNER["past"].format(now=now, last=last))
        future = escape(BANNER["future"].format(count=last - now, s="" if last - now == 1 else "s"))
        return f'<div class="pl-banner" role="status"><strong>{past}</strong> {future}</div>'

    # --- moves --------------------------------------------------------------------------------------------------------

    def move(self, name: str) -> None:
        """Make the move of a button."""
        if name == "play":
            self.play()
            return
        self.stop()
        self._go(_MOVES[name])

    def _slid(self, step: int) -> None:
        self.stop()
        self._go(lambda timeline: timeline.go(step))

    def play(self) -> None:
        """Step forward until the newest step, one step at a time; a second press stops. Needs a running event loop."""
        if self._playing is not None:
            self.stop()
            return
        self._playing = asyncio.get_running_loop().create_task(self._play())
        self._show_play("pause")

    async def _play(self) -> None:
        while self._now < self._last:
            self._go(lambda timeline: timeline.forward())
            await asyncio.sleep(_PACE)
        self.stop()

    def stop(self) -> None:
        """Stop playing."""
        if self._playing is not None:
            playing, self._playing = self._playing, None
            playing.cancel()
            self._show_play("play")

    def _show_play(self, name: str) -> None:
        icon, hint = TRAVEL[name]
        with self.buttons["play"].hold_sync():
            self.buttons["play"].icon, self.buttons["play"].tooltip = icon, hint
            self.buttons["play"].disabled = name == "play" and self._now >= self._last

    # --- buttons ------------------------------------------------------------------------------------------------------

    def _button(self, name: str) -> w.Button:
        icon, hint = TRAVEL[name]
        button = w.Button(icon=icon, tooltip=hint, layout=w.Layout(width="34px"))
        button.add_class(f"pl-go-{name}")
        button.on_click(lambda _: self.move(name))
        return button

    def _allow(self, name: str, why_not: str) -> None:
        button = self.buttons[name]
        hint = TRAVEL["pause" if name == "play" and self._playing is not None else name][1]
        with button.hold_sync():
            button.disabled = bool(why_not)
            button.tooltip = f"{hint}. {why_not}" if why_not else hint


_MOVES: Final[dict[str, Callable[[Timeline], None]]] = {
    "start": lambda timeline: timeline.go(timeline.floor),
    "back-over": lambda timeline: timeline.back_over(),
    "back": lambda timeline: timeline.back(),
    "forward": lambda timeline: timeline.forward(),
    "forward-over": lambda timeline: timeline.forward_over(),
    "end": lambda timeline: timeline.go(timeline.last),
}
