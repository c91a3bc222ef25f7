"""A part that speaks: it emits events in its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pasidlab.timeline.events import HARDWARE, Event, Verb
from pasidlab.timeline.state import Part

if TYPE_CHECKING:
    from pasidlab.timeline.timeline import Timeline

__all__ = ["Actor"]


class Actor(Part):
    """A part with a lane in the ladder: ``actor`` says who it is, ``altitude`` where it lives."""

    actor: ClassVar[str] = "part"

    def __init__(self, timeline: Timeline, path: str, altitude: str = HARDWARE) -> None:
        super().__init__(timeline, path)
        self.altitude = altitude

    def emit(self, verb: Verb, subject: str, before: object = None, after: object = None, **facts: object) -> Event:
        """Emit an event in this actor's name."""
        return self.timeline.record(self.altitude, self.actor, verb, subject, before, after, facts)
