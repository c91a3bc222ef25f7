"""Invariants 2, 4, 9 and 12: what the event stream of the host's IOASID core must look like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.timeline import HOST, Event, Verb

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["atomic_handlers", "event_order", "no_new_reference", "single_owner"]

_LOCKING: Final = frozenset(
    {
        Verb.ALLOC,
        Verb.FREE,
        Verb.ATTACH_SPID,
        Verb.DETACH_SPID,
        Verb.NOTIFY,
        Verb.REGISTER,
        Verb.UNREGISTER,
        Verb.SET_ALLOC,
    }
)
"""What takes the allocator's lock; get and put have variants for handlers that do not."""


def _core_events(machine: Machine) -> Iterator[Event]:
    return (event for event in machine.timeline.events if event.actor == "ioasid" and event.altitude == HOST)


def single_owner(machine: Machine) -> Iterator[str]:
    """2: alloc and reclaim alternate for each number, and each number is in the table of exactly one set."""
    out: set[object] = set()
    for event in _core_events(machine):
        number = event.fact("ioasid")
        if event.verb is Verb.ALLOC:
            if number in out:
                yield f"PASID {number} was handed out twice (event {event.number})"
            out.add(number)
        elif event.verb is Verb.RECLAIM:
            out.discard(number)
    owners = [number for the_set in machine.kernel.ioasid.sets.values() for number in the_set.ids.keys()]
    if sorted(owners) != machine.kernel.ioasid.ids.keys():
        yield "the sets' tables and the table of all PASIDs do not list the same numbers"


def no_new_reference(machine: Machine) -> Iterator[str]:
    """4: between FREE and reclaim nobody takes a reference."""
    dying: set[object] = set()
    for event in _core_events(machine):
        number = event.fact("ioasid")
        if event.verb is Verb.FREE:
            dying.add(number)
        elif event.verb is Verb.RECLAIM:
            dying.discard(number)
        elif event.verb is Verb.GET and number in dying:
            yield f"{event.fact('holder')} took a reference on dying PASID {number} (event {event.number})"


def event_order(machine: Machine) -> Iterator[str]:
    """9: (BIND UNBIND)*, and at most one FREE, for each life of a PASID."""
    seen: dict[object, list[object]] = {}
    for event in _core_events(machine):
        number = event.fact("ioasid")
        if event.verb is Verb.ALLOC:
            seen[number] = []
        elif event.verb is Verb.NOTIFY:
            told = event.fact("event")
            before = seen.setdefault(number, [])
            bound = before.count("BIND") > before.count("UNBIND")
            if told == ("BIND" if bound else "UNBIND") or (told == "FREE" and "FREE" in before):
                yield f"subscribers of PASID {number} were told {told} after {', '.join(map(str, before)) or 'nothing'}"
            before.append(told)


def atomic_handlers(machine: Machine) -> Iterator[str]:
    """12: below a notification nothing takes the lock that is held."""
    inside: set[int] = set()
    for event in machine.timeline.events:
        if event.cause in inside:
            inside.add(event.number)
            if event.actor == "ioasid" and event.altitude == HOST and event.verb in _LOCKING:
                yield f"a handler called {event.verb} {event.subject} (event {event.number})"
        elif event.verb is Verb.NOTIFY and event.altitude == HOST:
            inside.add(event.number)
