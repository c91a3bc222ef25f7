"""Projection: events -> ladder. The notifier flow of an operation, and any other stretch of the event stream.

Lanes stand in the order in which a request travels: process, guest kernel, CPU, hypervisor, then the parts of the host
kernel, then hardware. Only lanes that the events use are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.timeline import HARDWARE, HOST, USER, Event, Verb
from pasidlab.views.ladder import Ladder, Lane, Row
from pasidlab.views.words import LANES, sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.timeline import Operation, Timeline

__all__ = ["flow", "flow_of_operation", "lane_of"]

_GUEST: Final = ("process", "kernel", "CPU")
_HOST: Final = ("process", "CPU", "kernel", "VMM", "VFIO", "/dev/ioasid", "IOASID core", "IOMMU driver", "KVM", "VDCM")
_HARDWARE: Final = ("accelerator", "IOMMU")
_KINDS: Final = {
    Verb.NOTIFY: "notify",
    Verb.REFUSE: "refuse",
    Verb.RETRY: "refuse",
    Verb.EXIT_VMX: "refuse",
    Verb.FAULT: "fault",
    Verb.GP_FAULT: "fault",
    Verb.ANSWER: "answer",
}


def flow(events: Sequence[Event], title: str, present: int | None = None) -> Ladder:
    """A ladder of ``events``; ``present`` is the number of the event that has just happened.

    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> first = time.emit("host", "vfio", Verb.IOCTL, "PASID_REQUEST alloc")
    >>> with time.because(first):
    ...     _ = time.emit("host", "ioasid", Verb.ALLOC, "IOASID 3", after="vm1")
    >>> flow(time.events, "demo")
    <Ladder flow: lanes 2, rows 2>
    """
    lanes: dict[str, Lane] = {}
    depth: dict[int, int] = {}
    of: dict[int, str] = {}
    rows = []
    for event in events:
        lane = lane_of(event)
        lanes[lane.key] = lane
        caller = of.get(event.cause) if event.cause is not None else None
        depth[event.number] = depth.get(event.cause, -1) + 1 if event.cause is not None else 0
        of[event.number] = lane.key
        rows.append(_row(event, caller, lane.key, depth[event.number]))
    ordered = tuple(sorted(lanes.values(), key=lambda lane: _place(lane, list(lanes))))
    now = str(present) if present is not None and present in of else ""
    return Ladder("flow", title, ordered, tuple(rows), now)


def flow_of_operation(timeline: Timeline, operation: Operation | None = None) -> Ladder:
    """The ladder of one operation (default: the one at the present step); what comes after the step is the future."""
    operation = operation or timeline.operation_now
    if operation is None:
        return Ladder("flow", "Nothing has happened yet", (), ())
    events = timeline.all_events_of(operation)
    return flow(events, operation.line, present=timeline.now - 1)


def _row(event: Event, caller: str | None, lane: str, depth: int) -> Row:
    tail, head = (caller, lane) if caller is not None and caller != lane else (lane, "")
    if event.verb is Verb.ANSWER and head:
        tail, head = head, tail
    return Row(str(event.number), tail, head, sentence(event), "", depth, _KINDS.get(event.verb, "normal"))


def lane_of(event: Event) -> Lane:
    """The lane in which an event stands: one for each part of the host, of hardware, and of each guest."""
    label = LANES.get(event.actor, event.actor)
    if event.altitude not in (HOST, HARDWARE, USER) and label not in _GUEST:
        label = "kernel"
    spoken = f"{event.altitude} {label}" if label in _GUEST and event.altitude != USER else label
    return Lane(f"{event.altitude}/{label}", label, "" if event.altitude == USER else event.altitude, spoken)


def _place(lane: Lane, seen: list[str]) -> tuple[int, int, int]:
    """User first, then guests in order of appearance, the host, hardware; inside, as a request travels."""
    floors = {"": 0, HOST: 2, HARDWARE: 3}
    order = {HOST: _HOST, HARDWARE: _HARDWARE}.get(lane.group, _GUEST)
    floor = floors.get(lane.group, 1)
    guest = next((at for at, key in enumerate(seen) if key.startswith(f"{lane.group}/")), 0) if floor == 1 else 0
    return floor, guest, order.index(lane.label) if lane.label in order else len(order)
