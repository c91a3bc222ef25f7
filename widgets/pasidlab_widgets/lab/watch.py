"""Noticing what happened outside the lab: a call, or a journey in time, made in a cell of the notebook.

A cell may make a hundred calls; the lab refreshes once, after the cell. Events that come at other times (another
widget's callback) are noticed through the timeline, and shown as soon as the kernel has a moment. Watching changes
nothing: the observer only remembers that something happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from pasidlab.timeline import Event, Timeline

__all__ = ["Watch"]


class Watch:
    """Calls ``refresh`` when the timeline is not where it was when :meth:`seen` was called last."""

    def __init__(self, timeline: Timeline, refresh: Callable[[], None]) -> None:
        self._timeline = timeline
        self._refresh = refresh
        self._waiting = self._closed = False
        self._mark = self._moment()
        self._stop = timeline.observe(self._noticed)
        self._shell = get_ipython()
        if self._shell is not None:
            self._shell.events.register("post_run_cell", self.look)

    def seen(self) -> None:
        """The present is shown."""
        self._mark = self._moment()

    def look(self, *_: object) -> None:
        """Refresh if something happened since."""
        self._waiting = False
        if not self._closed and self._moment() != self._mark:
            self._refresh()

    def close(self) -> None:
        """Stop watching; a look that is under way sees nothing any more."""
        self._closed = True
        self._stop()
        if self._shell is not None:
            self._shell.events.unregister("post_run_cell", self.look)

    def _noticed(self, _: Event) -> None:
        if self._waiting:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._waiting = True
        loop.call_soon(self.look)

    def _moment(self) -> tuple[object, ...]:
        time = self._timeline
        return time.now, time.last, time.operations[-1:], time.events[-1:]
