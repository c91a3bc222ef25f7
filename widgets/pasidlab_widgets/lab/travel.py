"""The bar on top: a slider over all steps, buttons to go by a step or by a whole operation, and play.

Below it a banner says whether the present is the newest step, and if not, what acting there would mean. Its place is
always kept, so nothing jumps.

One view for all of it, so that a move is one message. Why not ``ipywidgets.IntSlider``: when Python moves its end and
its value together, its page side first meets the new end, reports the old value back, and the lab would travel to the
past by itself (seen with ipywidgets 8.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pasidlab_widgets.lab.words import BANNER, TRAVEL, WHY
from pasidlab_widgets.view import STATIC, View

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["TravelBar"]

_PARTS: Final = (STATIC / "view.js", Path(__file__).parent / "travel.js")
_BACK: Final = ("start", "back-over", "back")
_FORWARD: Final = ("play", "forward", "forward-over", "end")
_PACE: Final = 0.4
"""Seconds between two steps of play; more than about six steps a second pile up in the browser."""


class TravelBar(View):
    """Time travel. ``go`` makes one move on the timeline and refreshes the lab.

    >>> from pasidlab.timeline import Timeline
    >>> bar = TravelBar(lambda move: print("moves")); bar.show(Timeline())
    >>> bar.receive({"type": "move", "name": "back"}, [])
    moves
    """

    _esm = "\n".join(part.read_text(encoding="utf-8") for part in _PARTS)

    def __init__(self, go: Callable[[Callable[[Timeline], None]], None]) -> None:
        self._go = go
        self._playing: asyncio.Task[None] | None = None
        self._floor = self._now = self._last = self._at_stake = 0
        super().__init__()
        self.publish(words=dict(TRAVEL), slider=BANNER["slider"])
        self._tell()

    def show(self, timeline: Timeline) -> None:
        """Show where the present is."""
        self._floor, self._now, self._last = timeline.floor, timeline.now, timeline.last
        self._at_stake = timeline.at_stake
        self._tell()

    def _tell(self) -> None:
        floor, now, last, playing = self._floor, self._now, self._last, self._playing is not None
        resting = dict.fromkeys(_BACK, WHY["oldest"]) if now <= floor else {}
        if now >= last and not playing:
            resting |= dict.fromkeys(_FORWARD, WHY["newest"])
        step = BANNER["step"].format(now=now, last=last)
        banner = _banner(now, last, self._at_stake)
        self.publish(resting=resting, playing=playing, floor=floor, now=now, last=last, step=step, banner=banner)

    def receive(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        """A person pressed a button, or moved the slider; a step that has been dropped meanwhile is left alone."""
        name, step = message.get("name"), message.get("step")
        if message.get("type") == "move" and isinstance(name, str):
            self.move(name)
        elif message.get("type") == "go" and isinstance(step, int):
            wanted = min(max(step, self._floor), self._last)
            self.stop()
            self._go(lambda timeline: timeline.go(wanted))

    def move(self, name: str) -> None:
        """Make the move of a button: ``"start"``, ``"back-over"``, ``"back"``, ``"play"``, ``"forward"``, ..."""
        if name == "play":
            self.play()
            return
        self.stop()
        self._go(_MOVES[name])

    def play(self) -> None:
        """Step forward until the newest step, one step at a time; a second call stops. Needs a running event loop."""
        if self._playing is not None:
            self.stop()
            return
        self._playing = asyncio.get_running_loop().create_task(self._play())
        self._tell()

    async def _play(self) -> None:
        while self._now < self._last:
            self._go(lambda timeline: timeline.forward())
            await asyncio.sleep(_PACE)
        self._playing = None
        self._tell()

    def stop(self) -> None:
        """Stop playing."""
        if self._playing is not None:
            self._playing.cancel()
            self._playing = None
            self._tell()


def _banner(now: int, last: int, count: int) -> tuple[str, str, str]:
    """CSS class, loud words, quiet words; ``count`` steps would be dropped by a call."""
    if now >= last:
        return "is-newest", "", BANNER["newest"]
    future = BANNER["future" if count else "half"].format(count=count, s="" if count == 1 else "s")
    return "is-past", BANNER["past"].format(now=now, last=last), future


_MOVES: Final[dict[str, Callable[[Timeline], None]]] = {
    "start": lambda timeline: timeline.go(timeline.floor),
    "back-over": lambda timeline: timeline.back_over(),
    "back": lambda timeline: timeline.back(),
    "forward": lambda timeline: timeline.forward(),
    "forward-over": lambda timeline: timeline.forward_over(),
    "end": lambda timeline: timeline.go(timeline.last),
}
