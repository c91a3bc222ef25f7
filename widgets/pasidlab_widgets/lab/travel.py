"""The bar on top: a slider over all steps, buttons to go by a step or by a whole operation, and play.

Below it a banner says whether the present is the newest step, and if not, what acting there would mean. Its place is
always kept, so nothing jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pasidlab_widgets.lab.bar import Bar
from pasidlab_widgets.lab.words import BANNER, TRAVEL, WHY

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["TravelBar"]


class TravelBar(Bar):
    """Time travel. ``go`` makes one move on the timeline and refreshes the lab.

    >>> from pasidlab.timeline import Timeline
    >>> bar = TravelBar(lambda move: print("moves")); bar.show(Timeline())
    >>> bar.receive({"type": "move", "name": "back"}, [])
    moves
    """

    oldest = WHY["oldest"]
    newest = WHY["newest"]

    def __init__(self, go: Callable[[Callable[[Timeline], None]], None]) -> None:
        self._go = go
        self._at_stake = 0
        self._waits = False
        super().__init__(TRAVEL, BANNER["slider"])

    def show(self, timeline: Timeline, waits: bool = False) -> None:
        """Show where the present is; ``waits``: it stands at a trap, at which a call waits."""
        self._waits = waits
        self.floor, self.now, self.last = timeline.floor, timeline.now, timeline.last
        self._at_stake = timeline.at_stake
        self.tell()

    def go_to(self, step: int) -> None:
        """Travel to a step."""
        self._go(lambda timeline: timeline.go(step))

    def make(self, name: str) -> None:
        """Make the move of a button."""
        self._go(_MOVES[name])

    def place(self) -> str:
        """The step, and how many there are."""
        return BANNER["step"].format(now=self.now, last=self.last)

    def banner(self) -> tuple[str, str, str]:
        """Whether this is the past, and how many steps a call would drop."""
        if self.now >= self.last:
            return "is-newest", "", BANNER["newest"]
        if self._waits:
            return "is-past", BANNER["trap"], BANNER["trap-more"]
        count = self._at_stake
        future = BANNER["future" if count else "half"].format(count=count, s="" if count == 1 else "s")
        return "is-past", BANNER["past"].format(now=self.now, last=self.last), future


_MOVES: Final[dict[str, Callable[[Timeline], None]]] = {
    "start": lambda timeline: timeline.go(timeline.floor),
    "back-over": lambda timeline: timeline.back_over(),
    "back": lambda timeline: timeline.back(),
    "forward": lambda timeline: timeline.forward(),
    "forward-over": lambda timeline: timeline.forward_over(),
    "end": lambda timeline: timeline.go(timeline.last),
}
