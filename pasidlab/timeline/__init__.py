"""How state changes and how time is travelled: journal, typed events, digests. Knows nothing about PASIDs."""

from pasidlab.timeline.actor import Actor
from pasidlab.timeline.agenda import Agenda, EnabledAction
from pasidlab.timeline.events import HARDWARE, HOST, USER, Event, Verb
from pasidlab.timeline.journal import ABSENT, Change, Journal
from pasidlab.timeline.state import Part, Table
from pasidlab.timeline.timeline import Operation, Timeline

__all__ = [
    "ABSENT",
    "HARDWARE",
    "HOST",
    "USER",
    "Actor",
    "Agenda",
    "Change",
    "EnabledAction",
    "Event",
    "Journal",
    "Operation",
    "Part",
    "Table",
    "Timeline",
    "Verb",
]
