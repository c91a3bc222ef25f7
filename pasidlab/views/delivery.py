"""Where a notification is at the present step: who was told, whose handler runs, who is next.

Read from the stream of events alone. A delivery is the event in which the IOASID core notifies, and what that caused:
each handler that does something leaves an event whose cause is the notification. Handlers run in order of delivery, so
an event belongs to a later subscriber with its actor's name, or to the one that its fact ``handler`` names. Where
several could be meant (the interfaces of one VM are all "vdcm") the picture says that one of these runs, and does not
guess. Who does nothing leaves no event, and counts as told when a later one runs. Before the first handler has done
something nobody runs; after the last there is no delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pasidlab.kernel.ioasid.notifier import HEARD_ON, IoasidEvent
from pasidlab.timeline import HOST, Actor, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.notifier import Subscriber
    from pasidlab.machine import Machine
    from pasidlab.timeline import Event

__all__ = ["Delivery", "Turn", "delivery_now"]

Turn = Literal["told", "running", "one-of", "next", "later"]
_CORE: Final = "ioasid"


class Delivery(NamedTuple):
    """``listeners`` in order of delivery, and the places of those of whom one runs (none: nobody does yet)."""

    event: IoasidEvent
    ioasid: int
    set_id: int
    listeners: tuple[Subscriber, ...]
    running: tuple[int, ...]

    def turn(self, listener: Subscriber) -> Turn | None:
        """Whether ``listener`` was told, runs, is next or comes later; ``None`` if this event is not for it."""
        for at, known in enumerate(self.listeners):
            if known is listener:
                return self._turn_at(at)
        return None

    def _turn_at(self, at: int) -> Turn:
        if at in self.running:
            return "running" if len(self.running) == 1 else "one-of"
        if at < min(self.running, default=0):
            return "told"
        return "next" if at == max(self.running, default=-1) + 1 else "later"

    def named(self, *turns: Turn) -> list[str]:
        """The names of those whose turn is one of ``turns``."""
        return [known.notifier_name for at, known in enumerate(self.listeners) if self._turn_at(at) in turns]


def delivery_now(machine: Machine) -> Delivery | None:
    """The host core's notification in which the present step lies, if it lies in one."""
    events = machine.timeline.events
    told = _notification(events)
    if told is None:
        return None
    core, ioasid = machine.kernel.ioasid, told.fact("ioasid")
    record = core.ids.get(ioasid) if isinstance(ioasid, int) else None
    if record is None:
        return None
    event = IoasidEvent(str(told.fact("event")))
    listeners = tuple(core.notifiers.listeners(record.owner, HEARD_ON[event]))
    running: tuple[int, ...] = ()
    for step in events[told.number + 1 :]:
        if step.cause == told.number:
            running = _whose(step, listeners, running)
    return Delivery(event, record.ioasid, record.owner.set_id, listeners, running)


def _notification(events: list[Event]) -> Event | None:
    """The event in which the host's core notifies, among the present event and its causes."""
    number = events[-1].number if events else None
    while number is not None:
        event = events[number]
        if event.verb is Verb.NOTIFY and (event.altitude, event.actor) == (HOST, _CORE):
            return event
        number = event.cause
    return None


def _whose(step: Event, listeners: tuple[Subscriber, ...], running: tuple[int, ...]) -> tuple[int, ...]:
    """The places of the listeners that can have done ``step``: those that run, unless another handler starts here."""
    if step.verb is not Verb.HANDLE and any(_acts(listeners[at], step) for at in running):
        return running
    later = range(min(running, default=-1) + 1, len(listeners))
    found = tuple(at for at in later if _acts(listeners[at], step))
    named = tuple(at for at in found if listeners[at].notifier_name == step.fact("handler"))
    return named or found or running


def _acts(listener: Subscriber, step: Event) -> bool:
    return isinstance(listener, Actor) and (listener.altitude, listener.actor) == (step.altitude, step.actor)
