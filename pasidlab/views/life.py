"""Projection: the life of one host IOASID, step by step, with the reference count after each step.

This is the form of the life-cycle tables in the documents of the IOASID extensions: who did what, and how many
references there were afterwards. Everything is read from the event stream, so it can be compared with them line by
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import HARDWARE, HOST, Event, Verb
from pasidlab.views.flow import lane_of
from pasidlab.views.table import Column, Line, Table
from pasidlab.views.words import sentence

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["LifeStep", "life", "life_steps"]

_NAMES: Final = ("ioasid", "hpasid", "host_pasid")
"""Facts that always hold a host IOASID."""
_ON_THE_WIRE: Final = frozenset({"iommu", "kvm", "accelerator", "root complex", "iommu unit"})
"""Actors whose ``pasid`` is the host's number; a mediated device speaks of the guest's."""


class LifeStep(NamedTuple):
    """One step of a PASID's life: the event, and the references that there were after it."""

    event: Event
    refs: int


def life_steps(events: Sequence[Event], ioasid: int) -> list[LifeStep]:
    """The last life of a host IOASID in ``events``, from its allocation on.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); number = app.bind(dsa)
    >>> [(str(step.event.verb), step.refs) for step in life_steps(m.timeline.events, number)][:3]
    [('alloc', 1), ('write-entry', 1), ('get', 2)]
    """
    found: list[LifeStep] = []
    for event in events:
        if not _concerns(event, ioasid):
            continue
        if event.verb is Verb.ALLOC:
            found.clear()
        refs = event.fact("refs")
        found.append(LifeStep(event, refs if isinstance(refs, int) else found[-1].refs if found else 0))
    return found if found and found[0].event.verb is Verb.ALLOC else []


def _concerns(event: Event, ioasid: int) -> bool:
    if event.altitude not in (HOST, HARDWARE):
        return False
    if any(event.fact(name) == ioasid for name in _NAMES):
        return True
    if event.actor not in _ON_THE_WIRE:
        return False
    return event.fact("pasid") == ioasid or (event.verb is Verb.PROGRAM and event.before == ioasid)


def life(machine: Machine, ioasid: int) -> Table:
    """The life of a host IOASID up to the present step, as a table."""
    columns = (
        Column("step", "step", mono=True),
        Column("who", "who"),
        Column("what", "what"),
        Column("refs", "references after it", mono=True),
    )
    rows = tuple(
        Line(
            f"step:{step.event.number}",
            (str(step.event.number), lane_of(step.event).label, sentence(step.event), str(step.refs)),
            "live" if step.refs > 1 else "idle",
        )
        for step in life_steps(machine.timeline.events, ioasid)
    )
    return Table(
        "life", f"The life of IOASID {ioasid}", columns, rows, empty=f"IOASID {ioasid} has never been allocated."
    )
