"""A bar of buttons with a slider: to the start, back, play, forward, to the end; for time, and for the stops of a walk.

One view for all of it, so that a move is one message. Whoever derives from it says what a move is; the bar keeps where
the present is, plays, and tells the page. Why not ``ipywidgets.IntSlider``: when Python moves its end and its value
together, its page side first meets the new end, reports the old value back, and the lab would travel by itself (seen
with ipywidgets 8.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from pasidlab_widgets.view import STATIC, View

__all__ = ["Bar"]

_PARTS: Final = (STATIC / "view.js", Path(__file__).parent / "travel.js")
_BACK: Final = ("start", "back-over", "back")
_FORWARD: Final = ("play", "forward", "forward-over", "end")


class Bar(View):
    """Base of the bars. ``calm`` says that the person at the page has asked for less motion."""

    _esm = "\n".join(part.read_text(encoding="utf-8") for part in _PARTS)
    pace: ClassVar[float] = 0.4
    """Seconds between two steps of play; more than about six steps a second pile up in the browser."""
    oldest: ClassVar[str] = ""
    newest: ClassVar[str] = ""
    """Why the buttons rest at the first and at the last step."""

    def __init__(self, words: Mapping[str, str], slider: str) -> None:
        self._playing: asyncio.Task[None] | None = None
        self.floor = self.now = self.last = 0
        self.calm = False
        super().__init__()
        self.publish(words=dict(words), slider=slider)
        self.tell()

    # --- what a bar decides -------------------------------------------------------------------------------------------

    def go_to(self, step: int) -> None:
        """Go to a step."""
        raise AttributeError("every bar says how it goes to a step")

    def make(self, name: str) -> None:
        """Make the move of a button other than play."""
        raise AttributeError("every bar says what its buttons mean")

    def place(self) -> str:
        """Where the present is, in words."""
        return f"{self.now} / {self.last}"

    def banner(self) -> tuple[str, str, str]:
        """What stands below: CSS class, loud words, quiet words."""
        return "", "", ""

    # --- what all bars do ---------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Say to the page where the present is."""
        playing = self._playing is not None
        resting = dict.fromkeys(_BACK, self.oldest) if self.now <= self.floor else {}
        if self.now >= self.last and not playing:
            resting |= dict.fromkeys(_FORWARD, self.newest)
        self.publish(
            resting=resting,
            playing=playing,
            floor=self.floor,
            now=self.now,
            last=self.last,
            step=self.place(),
            banner=self.banner(),
        )

    def receive(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        """A person pressed a button, or moved the slider; a step that has been dropped meanwhile is left alone."""
        name, step, kind = message.get("name"), message.get("step"), message.get("type")
        if kind == "motion":
            self.calm = bool(message.get("reduced"))
        elif kind == "move" and isinstance(name, str):
            self.move(name)
        elif kind == "go" and isinstance(step, int):
            wanted = min(max(step, self.floor), self.last)
            self.stop()
            self.go_to(wanted)

    def move(self, name: str) -> None:
        """Make the move of a button: ``"start"``, ``"back-over"``, ``"back"``, ``"play"``, ``"forward"``, ..."""
        if name == "play":
            self.play()
            return
        self.stop()
        self.make(name)

    def play(self) -> None:
        """Step forward until the newest step, one step at a time; a second call stops. Needs a running event loop."""
        if self._playing is not None:
            self.stop()
            return
        self._playing = asyncio.get_running_loop().create_task(self._play())
        self.tell()

    async def _play(self) -> None:
        while self.now < self.last:
            self.make("forward")
            await asyncio.sleep(self.pace)
        self._playing = None
        self.tell()

    def stop(self) -> None:
        """Stop playing."""
        if self._playing is not None:
            self._playing.cancel()
            self._playing = None
            self.tell()
