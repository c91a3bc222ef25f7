"""The pane "Compare": the same guest on every kind of IOMMU, side by side, on one slider.

The machines are the pane's own, made when it is first seen; the lab's machine has no part in it. A step of the bar is
an event on every machine, the buttons "over" go from step to step of the script; a machine that needs fewer events for
a step waits at its end. Below the figure: what this step has cost, what was trapped in it, and what each kind refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import ipywidgets as w

from pasidlab.stories.compare import compare_machines
from pasidlab.views.changes import mark_figure
from pasidlab.views.compare import Comparison, Moment, tags, tries, writers
from pasidlab.views.compare_figure import compare_figure
from pasidlab.views.compare_words import STEPS
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab.bar import Bar
from pasidlab_widgets.lab.compare_words import LINKED
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.views.figure import Figure

__all__ = ["ComparePane", "LinkedBar"]

Guard = Callable[[Callable[[], None]], Callable[[], None]]
_FIRST: str = "bind"
"""The step that is shown at first: at its end the two ways can be told apart."""


class LinkedBar(Bar):
    """One bar for all machines. ``moved`` is called with the place to show.

    ``ends`` are the places at which a step has ended, the first is the beginning.

    >>> shown = []; bar = LinkedBar(shown.append); bar.load([0, 4, 9]); bar.move("forward-over"); bar.move("forward")
    >>> bar.move("back-over"); bar.move("end"); shown
    [4, 5, 4, 9]
    """

    pace: ClassVar[float] = 1.2
    oldest = LINKED["oldest"]
    newest = LINKED["newest"]

    def __init__(self, moved: Callable[[int], None]) -> None:
        self._moved = moved
        self._ends: list[int] = [0]
        super().__init__(LINKED, LINKED["slider"])

    def load(self, ends: list[int]) -> None:
        """What there is to step through."""
        self.stop()
        self._ends, self.last, self.now = ends, ends[-1], 0
        self.tell()

    def go_to(self, step: int) -> None:
        """Show a place."""
        self.now = min(max(step, 0), self.last)
        self.tell()
        self._moved(self.now)

    def make(self, name: str) -> None:
        """Make the move of a button."""
        before = [end for end in self._ends if end < self.now]
        after = [end for end in self._ends if end > self.now]
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
        """Which step of the script this is."""
        ended = [end for end in self._ends if end <= self.now]
        step = len(ended) - (self.now in self._ends)
        return LINKED["place"].format(now=step, last=len(self._ends) - 1) if step else LINKED["begin"]

    def banner(self) -> tuple[str, str, str]:
        """What is done in this step, and how much of it has happened."""
        at = next((at for at, end in enumerate(self._ends) if self.now <= end), 0)
        if not at:
            return "is-newest", "", LINKED["begin"]
        title, words = list(STEPS.values())[at - 1]
        sub, subs = self.now - self._ends[at - 1], self._ends[at] - self._ends[at - 1]
        name = "done" if sub == subs else "event"
        return "is-newest", LINKED[name].format(title=title, sub=sub, subs=subs), words

    async def _play(self) -> None:
        """By whole steps: events are too many to watch."""
        while self.now < self.last:
            self.make("forward-over")
            await asyncio.sleep(self.pace)
        self._playing = None
        self.tell()


class ComparePane:
    """The figure with its bar, three tables below it. ``found`` is what is compared, once the pane was seen."""

    name = "compare"

    def __init__(self, height: str, guard: Guard) -> None:
        self.found: Comparison | None = None
        self._before: Figure | None = None
        self._place = 0
        show = guard(self._show)
        self.bar = LinkedBar(lambda place: self._go(place, show))
        self.figure, self.tags = GraphView(height=height), TableView()
        self.writers, self.tries = TableView(flash=False), TableView(flash=False)
        tables = w.VBox([self.tags, self.writers, self.tries])
        tables.add_class("pl-compared")
        self.widget: w.Widget = w.VBox([self.bar, self.figure, tables])
        self.widget.add_class("pl-compare")

    @property
    def view(self) -> ComparePane:
        """The pane itself: it passes on what its views report."""
        return self

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of every view to ``callback``."""
        for view in (self.bar, self.figure, self.tags, self.writers, self.tries):
            view.on_trouble(callback)

    def draw(self, machine: Machine) -> None:
        """The first time: play the script on a machine of each kind, and show what a bind has done."""
        if self.found is None:
            self.found = compare_machines()
            self.tries.show(tries(self.found))
            self.bar.load(self.found.ends)
            self.bar.go_to(self.found.ends[list(STEPS).index(_FIRST) + 1])

    def _go(self, place: int, show: Callable[[], None]) -> None:
        self._place = place
        show()

    def _show(self) -> None:
        """Let every machine travel to the place of the bar; mark what this has changed."""
        if self.found is None:
            return
        moment: Moment = self.found.go(self._place)
        figure = compare_figure(self.found, moment, priced=False)
        self.figure.show(mark_figure(self._before, figure))
        self._before = figure
        self.tags.show(tags(self.found, moment))
        self.writers.show(writers(self.found, moment.step))

    def forget(self) -> None:
        """The lab's machine has no part in it."""

    def leave(self) -> None:
        """The lab's machine has no part in it; a bar that plays stops."""
        self.bar.stop()
