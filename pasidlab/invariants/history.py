"""Invariants 2, 4, 5, 9 and 12: what the event stream of the host's IOASID core must look like.

The stream only grows, so what it has shown so far is remembered: a check after each step reads what is new since the
last one. Going back in time, or taking another turn there, starts the reading afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from pasidlab.timeline import HOST, Event, Verb

if TYPE_CHECKING:
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine
    from pasidlab.timeline import Timeline

__all__ = ["atomic_handlers", "event_order", "may_exceed", "no_new_reference", "overcharged", "single_owner"]

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
        Verb.DEADLOCK,
    }
)
"""What takes the allocator's lock, or tried to; get and put have variants for handlers that do not."""


class History:
    """One timeline's events of the host's core, read once each; ``found`` holds what is wrong, by invariant."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._read = 0
        self._last: Event | None = None
        self.found: dict[int, list[str]] = {2: [], 4: [], 5: [], 9: [], 12: []}
        self.exceeding: set[str] = set()
        self._out: set[object] = set()
        self._dying: set[object] = set()
        self._told: dict[object, list[object]] = {}
        self._bound: set[object] = set()
        self._freed: set[object] = set()
        self._inside: set[int] = set()

    def catch_up(self, timeline: Timeline) -> History:
        """Read what is new."""
        if self._last is not None:
            newest = timeline.since(self._read - 1)
            if not newest or newest[0] is not self._last:
                self._start()
        for event in timeline.since(self._read):
            self._notice_nesting(event)
            if event.actor == "ioasid" and event.altitude == HOST:
                self._follow(event)
            self._last = event
            self._read += 1
        return self

    def _notice_nesting(self, event: Event) -> None:
        if event.cause in self._inside:
            self._inside.add(event.number)
            if event.actor == "ioasid" and event.altitude == HOST and event.verb in _LOCKING:
                self.found[12].append(f"a handler called {event.verb} {event.subject} (event {event.number})")
        elif event.verb is Verb.NOTIFY and event.altitude == HOST:
            self._inside.add(event.number)

    def _follow(self, event: Event) -> None:
        number = event.fact("ioasid")
        if event.verb is Verb.ALLOC:
            if number in self._out:
                self.found[2].append(f"PASID {number} was handed out twice (event {event.number})")
            self._out.add(number)
            self._told[number] = []
            self._bound.discard(number)
            self._freed.discard(number)
        elif event.verb is Verb.FREE:
            self._dying.add(number)
        elif event.verb is Verb.RECLAIM:
            self._out.discard(number)
            self._dying.discard(number)
        elif event.verb is Verb.GET and number in self._dying:
            holder = event.fact("holder")
            self.found[4].append(f"{holder} took a reference on dying PASID {number} (event {event.number})")
        elif event.verb is Verb.NOTIFY:
            self._hear(number, str(event.fact("event")))
        else:
            self._count(event)

    def _count(self, event: Event) -> None:
        """No charge takes anybody over the limit of its moment; a move or a smaller limit makes a group exceed for a
        while.
        """
        group, limit, used = str(event.fact("group")), event.fact("limit"), event.after
        if event.verb is Verb.CHARGE and _above(used, limit):
            words = f"a charge took {event.subject} to {used}, over its limit of {limit}"
            self.found[5].append(f"{words} (event {event.number})")
        elif event.verb is Verb.UNCHARGE and not _above(used, limit):
            self.exceeding.discard(group)
        elif event.verb is Verb.MIGRATE and event.fact("count"):
            names = group.split("/")
            self.exceeding |= {"/".join(names[:depth]) for depth in range(1, len(names) + 1)}
        elif event.verb is Verb.ADJUST and _above(event.fact("used"), event.after):
            self.exceeding.add(group)
        elif event.verb in (Verb.ADJUST, Verb.CLOSE):
            self.exceeding.discard(group)

    def _hear(self, number: object, told: str) -> None:
        before = self._told.setdefault(number, [])
        bound, freed = number in self._bound, number in self._freed
        wrong = {"ALLOC": bool(before), "BIND": bound or freed, "UNBIND": not bound, "FREE": freed}
        if wrong.get(told, True):
            heard = ", ".join(map(str, before[-4:])) or "nothing"
            self.found[9].append(f"subscribers of PASID {number} were told {told} after {heard}")
        before.append(told)
        if told == "FREE":
            self._freed.add(number)
        elif told == "BIND":
            self._bound.add(number)
        elif told == "UNBIND":
            self._bound.discard(number)


def _above(used: object, limit: object) -> bool:
    return isinstance(used, int) and isinstance(limit, int) and used > limit


_HISTORIES: Final[WeakKeyDictionary[Machine, History]] = WeakKeyDictionary()


def _history(machine: Machine) -> History:
    return _HISTORIES.setdefault(machine, History()).catch_up(machine.timeline)


def _found(machine: Machine, rule: int) -> list[str]:
    return _history(machine).found[rule]


def overcharged(machine: Machine) -> Iterator[str]:
    """5: charges that went beyond the limit of their moment."""
    yield from _found(machine, 5)


def may_exceed(machine: Machine, group: str) -> bool:
    """5: whether a control group may be above its max: somebody with PASIDs was moved into it or below it, or its max
    was made smaller, and it has not been back below since.
    """
    return group in _history(machine).exceeding


def single_owner(evidence: Evidence) -> Iterator[str]:
    """2: alloc and reclaim alternate for each number, and each number is in the table of exactly one set."""
    machine = evidence.machine
    yield from _found(machine, 2)
    owners = [number for the_set in machine.kernel.ioasid.sets.values() for number in the_set.ids.keys()]
    if sorted(owners) != machine.kernel.ioasid.ids.keys():
        yield "the sets' tables and the table of all PASIDs do not list the same numbers"


def no_new_reference(evidence: Evidence) -> Iterator[str]:
    """4: between FREE and reclaim nobody takes a reference."""
    machine = evidence.machine
    yield from _found(machine, 4)


def event_order(evidence: Evidence) -> Iterator[str]:
    """9: what subscribers are told of a PASID's life: ALLOC, (BIND UNBIND)*, at most one FREE, and after it no BIND.

    An UNBIND that is due may follow FREE, as in the V4 documents.
    """
    machine = evidence.machine
    yield from _found(machine, 9)


def atomic_handlers(evidence: Evidence) -> Iterator[str]:
    """12: below a notification nothing takes the lock that is held."""
    machine = evidence.machine
    yield from _found(machine, 12)
