"""The bar of a walk: stop by stop, by a whole level, or played. Its last step is the outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pasidlab_widgets.lab.bar import Bar
from pasidlab_widgets.lab.probe_words import STEPS

__all__ = ["StepBar"]


class StepBar(Bar):
    """Steps from 0 (nothing read yet) over each stop to the outcome. ``moved`` is called with the step to show.

    ``marks`` are the steps at which a new level begins; the buttons "over" go from one to the next.

    >>> shown = []; bar = StepBar(shown.append); bar.load(5, (1, 3)); bar.move("forward-over"); bar.move("forward-over")
    >>> bar.move("end"); shown
    [1, 3, 5]
    """

    pace: ClassVar[float] = 0.17
    oldest = STEPS["oldest"]
    newest = STEPS["newest"]

    def __init__(self, moved: Callable[[int], None]) -> None:
        self._moved = moved
        self._marks: tuple[int, ...] = ()
        super().__init__(STEPS, STEPS["slider"])

    def load(self, last: int, marks: tuple[int, ...], now: int = 0) -> None:
        """Another walk: ``last`` is its outcome."""
        self.stop()
        self._marks, self.last, self.now = marks, last, min(now, last)
        self.tell()

    def go_to(self, step: int) -> None:
        """Show a step."""
        self.now = min(max(step, 0), self.last)
        self.tell()
        self._moved(self.now)

    def make(self, name: str) -> None:
        """Make the move of a button."""
        before = [mark for mark in self._marks if mark < self.now]
        after = [mark for mark in self._marks if mark > self.now]
        targets = {
            "start": 0,
            "back-over": before[-1] if before else 0,
            "back": self.now - 1,
            "forward": self.now + 1,
            "forward-over": after[0] if after else self.last,
            "end": self.last,
        }
        self.go_to(targets[name])

    def place(self) -> str:
        """Which stop this is."""
        if not self.last:
            return ""
        if self.now >= self.last:
            return STEPS["over"].format(count=self.last - 1)
        return STEPS["stop"].format(now=self.now, count=self.last - 1)
